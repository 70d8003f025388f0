"""HoloRec's multi-granularity nested residual quantizer (methods 1.1).

An MLP autoencoder whose latent is quantized once per granularity row; a row
reads a prefix of the latent and of the codebooks that all rows share. HoloRec
(arXiv 2606.15331) fixes the losses `reconstruction` and `quantization`; of the
holistic loss only the aim is known, and its obvious form trains nothing, see
`holistic_loss`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from holorec_jax.errors import UserError
from holorec_jax.quantize import residual

HOLISTIC = ("cumulative", "decode", "off")


@dataclasses.dataclass(frozen=True)
class NestedConfig:
  """The quantizer and its training.

  Attributes:
    dims: latent dimensions that each granularity reads, coarse to fine; the
      last is the latent's width.
    levels: residual levels, the length of an item's code string.
    codes: codes per level.
    hidden: encoder widths between item vector and latent; the decoder mirrors
      them. The paper's are (2048, 1024, 512, 256, 128, 64).
    holistic: how every granularity is made to hold the whole item.
    commitment: weight mu that pulls the latent to its codes.
    batch_size: items per step.
    learning_rate: AdamW's, constant.
    weight_decay: AdamW's.
    warmup_steps: steps of the plain autoencoder before the codebooks start.
    steps: steps with codebooks, at most.
    patience: stop after so many rounds (of about ROUND_STEPS steps) without
      progress in collision rate + reconstruction.
    seed: of initial weights, batches and clusters.
  """

  dims: tuple[int, ...] = (8, 16, 32)
  levels: int = 4
  codes: int = 256
  hidden: tuple[int, ...] = (512, 256, 128)
  holistic: str = "cumulative"
  commitment: float = 0.25
  batch_size: int = 1024
  learning_rate: float = 1e-3
  weight_decay: float = 1e-4
  warmup_steps: int = 300
  steps: int = 2500
  patience: int = 5
  seed: int = 0

  def __post_init__(self):
    if self.holistic not in HOLISTIC:
      raise UserError(
        f"holistic is {self.holistic!r}; expected one of {', '.join(HOLISTIC)}."
      )
    if not self.dims or list(self.dims) != sorted(set(self.dims)):
      raise UserError(
        f"dims is {self.dims}; expected latent widths that grow from the "
        "coarse to the fine granularity, such as (8, 16, 32)."
      )
    for field in ("levels", "codes", "batch_size"):
      if getattr(self, field) < 1:
        raise UserError(f"{field} is {getattr(self, field)}; expected >= 1.")


class Mlp(nn.Module):
  """Dense layers with ReLU between."""

  widths: Sequence[int]

  @nn.compact
  def __call__(self, x_BD: jax.Array) -> jax.Array:
    for width in self.widths[:-1]:
      x_BD = nn.relu(nn.Dense(width)(x_BD))
    return nn.Dense(self.widths[-1])(x_BD)


def _encoder(config: NestedConfig, name: str | None = None) -> Mlp:
  return Mlp((*config.hidden, config.dims[-1]), name=name)


def _decoder(config: NestedConfig, width: int, name: str | None = None) -> Mlp:
  return Mlp((*config.hidden[::-1], width), name=name)


def encode(params: Any, x_BW: jax.Array, config: NestedConfig) -> jax.Array:
  """Item vectors (.., W) -> latents (.., D)."""
  return jnp.asarray(
    _encoder(config).apply({"params": params["encoder"]}, x_BW)
  )


def decode(
  params: Any, z_BD: jax.Array, width: int, config: NestedConfig
) -> jax.Array:
  """Latents (.., D) -> item vectors (.., width)."""
  return jnp.asarray(
    _decoder(config, width).apply({"params": params["decoder"]}, z_BD)
  )


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.mean((a - b) ** 2)


def straight_through(z_Bd: jax.Array, zhat_Bd: jax.Array) -> jax.Array:
  """The value of zhat with the gradient of z."""
  return z_Bd + jax.lax.stop_gradient(zhat_Bd - z_Bd)


def pull(latent_Bd: jax.Array, code_Bd: jax.Array, mu: float) -> jax.Array:
  """Codes move to the latent and, with weight mu, the latent to its codes."""
  stop = jax.lax.stop_gradient
  return mse(stop(latent_Bd), code_Bd) + mu * mse(latent_Bd, stop(code_Bd))


def quantization_loss(rows: Sequence[residual.Chain], mu: float) -> jax.Array:
  """L_quant: mean over rows and levels of each level's own pull."""
  pulls = [
    pull(residual_Bd, quantized_Bd, mu)
    for row in rows
    for residual_Bd, quantized_Bd in zip(row.residuals, row.quantized)
  ]
  return jnp.mean(jnp.stack(pulls))


def holistic_loss(
  rows: Sequence[residual.Chain],
  z_BD: jax.Array,
  x_BW: jax.Array,
  decode: Callable[[jax.Array], jax.Array],
  config: NestedConfig,
) -> jax.Array:
  """L_holo: every granularity must rebuild the whole item on its own.

  MSE(straight_through(zhat_r), z[:d_r]) would be the obvious loss, and its
  gradient is zero: the straight-through z cancels against the target z.
  `cumulative` therefore pulls the sum of a row's codes as a whole;
  `decode` decodes each coarser row, padded with zeros, to the item's vector.
  """
  if config.holistic == "cumulative":
    losses = [
      pull(row.residuals[0], row.total_Bd, config.commitment) for row in rows
    ]
  elif config.holistic == "decode" and len(rows) > 1:
    width = z_BD.shape[-1]
    losses = []
    for row in rows[:-1]:
      zhat_Bd = straight_through(row.residuals[0], row.total_Bd)
      pad = ((0, 0), (0, width - zhat_Bd.shape[-1]))
      losses.append(mse(decode(jnp.pad(zhat_Bd, pad)), x_BW))
  else:
    return jnp.zeros(())
  return jnp.mean(jnp.stack(losses))


class NestedQuantizer(nn.Module):
  """Item vectors -> losses; params: encoder, decoder, codebooks (L, V, D)."""

  config: NestedConfig

  @nn.compact
  def __call__(self, x_BW: jax.Array) -> dict[str, jax.Array]:
    config = self.config
    codebooks_LVD = self.param(
      "codebooks",
      nn.initializers.normal(0.1),
      (config.levels, config.codes, config.dims[-1]),
    )
    decode = _decoder(config, x_BW.shape[-1], "decoder")
    z_BD = _encoder(config, "encoder")(x_BW)
    rows = residual.rows(z_BD, codebooks_LVD, config.dims)
    return {
      "reconstruction": mse(
        decode(straight_through(z_BD, rows[-1].total_Bd)), x_BW
      ),
      "quantization": quantization_loss(rows, config.commitment),
      "holistic": holistic_loss(rows, z_BD, x_BW, decode, config),
    }
