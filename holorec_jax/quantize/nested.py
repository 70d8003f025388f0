"""HoloRec's multi-granularity nested residual quantizer (methods 1.1).

An MLP autoencoder whose latent is quantized once per granularity row; a row
reads a prefix of the latent and of the codebooks that all rows share. HoloRec
(arXiv 2606.15331) fixes the losses `reconstruction` and `quantization`; of the
holistic loss only the aim is known, and its obvious form trains nothing, see
`NestedQuantizer`.

One granularity, dims=(32,), is the RQ-VAE of TIGER (arXiv 2305.05065). S2GR's
(arXiv 2601.18664, methods 2.1) adds `uniformity` and `balance` to that, and
vectors smoothed over the item graph (vectors.smooth_alpha).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.errors import UserError
from holorec_jax.quantize import residual
from holorec_jax.ranges import check_ranges

Holistic = Literal["cumulative", "decode", "off"]


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
    balance: pressure on crowded codes in training: a code used n times the
      mean looks 1 + balance (n - 1) times as far, clipped to 1 +- 2 balance,
      which has to stay positive.
    uniformity: weight of the repulsion between a level's code vectors; 0 for
      none. S2GR's is 0.1.
    uniformity_margin: distance below which code vectors repel; the latent has
      variance one per dimension as training begins.
    fit_items: items that the fit looks at. A larger catalogue is fitted on a
      sample of so many, at best a multiple of batch_size, and then coded.
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
  holistic: Holistic = "decode"
  commitment: float = 0.25
  balance: float = 0.1
  uniformity: float = 0.0
  uniformity_margin: float = 1.0
  fit_items: int = 262_144
  batch_size: int = 1024
  learning_rate: float = 1e-3
  weight_decay: float = 1e-4
  warmup_steps: int = 300
  steps: int = 2500
  patience: int = 5
  seed: int = 0

  def __post_init__(self):
    check_ranges(
      self,
      "config.sid.nested",
      levels="[1, inf)",
      codes="[1, inf)",
      commitment="[0, inf)",
      balance="[0, 0.5)",
      uniformity="[0, inf)",
      uniformity_margin="(0, inf)",
      fit_items=f"[{self.codes}, inf)",
      batch_size="[1, inf)",
      learning_rate="(0, inf)",
      weight_decay="[0, inf)",
      warmup_steps="[1, inf)",
      steps="[1, inf)",
      patience="[1, inf)",
      seed="[0, inf)",
    )
    grow = list(self.dims) == sorted(set(self.dims))
    if not self.dims or self.dims[0] < 1 or not grow:
      raise UserError(
        f"config.sid.nested.dims is {self.dims}; expected latent widths from"
        " 1 that grow from the coarse to the fine granularity, such as"
        " (8, 16, 32)."
      )
    if any(width < 1 for width in self.hidden):
      raise UserError(
        f"config.sid.nested.hidden is {self.hidden}; expected widths of at"
        " least 1."
      )


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


def cumulative_loss(rows: Sequence[residual.Chain], mu: float) -> jax.Array:
  """L_holo `cumulative`: a row's codes are pulled as a whole, by their sum."""
  pulls = [pull(row.residuals[0], row.total_Bd, mu) for row in rows]
  return jnp.mean(jnp.stack(pulls))


def uniformity_loss(codebooks_LVD: jax.Array, margin: float) -> jax.Array:
  """Mean over pairs of a level's codes of max(0, margin - |e_i - e_j|)^2.

  S2GR's. Equal vectors have no direction to part in, so no gradient.
  """
  norm_LV = jnp.sum(codebooks_LVD**2, -1)
  squared_LVV = norm_LV[:, :, None] + norm_LV[:, None]
  squared_LVV -= 2 * jnp.einsum("lvd,lwd->lvw", codebooks_LVD, codebooks_LVD)
  num_codes = codebooks_LVD.shape[1]
  other_VV = ~np.eye(num_codes, dtype=bool)
  # The floor keeps the root's gradient finite.
  near_LVV = margin - jnp.sqrt(jnp.maximum(squared_LVV, 1e-8))
  loss_LVV = jnp.where(other_VV, jnp.maximum(near_LVV, 0.0) ** 2, 0.0)
  return jnp.mean(jnp.sum(loss_LVV, (1, 2))) / (num_codes * (num_codes - 1))


def rows_to_decode(
  num_items: int, num_rows: int, holistic: str
) -> tuple[np.ndarray, np.ndarray]:
  """Which granularity each item of a batch is decoded from; (B,) of 0..R-1.

  With `decode` every other item takes a coarse row, in turn: the means over
  both halves estimate L_rec and L_holo without bias, as batches are shuffled,
  in one decoder pass where the sum over rows takes R.

  Returns:
    row_B, and the items that stand for the fine row.
  """
  item_B = np.arange(num_items)
  row_B = np.full(num_items, num_rows - 1)
  if holistic == "decode" and num_rows > 1:
    row_B = np.where(item_B % 2, item_B // 2 % (num_rows - 1), row_B)
  return row_B, row_B == num_rows - 1


def granular_latent(
  rows: Sequence[residual.Chain], row_B: np.ndarray
) -> jax.Array:
  """Item b as row row_B[b] tells it, zeros after its d_r; straight through."""
  width = rows[-1].total_Bd.shape[-1]
  zhat_BD = jnp.zeros((len(row_B), width))
  for r, row in enumerate(rows):
    zhat_Bd = straight_through(row.residuals[0], row.total_Bd)
    pad = ((0, 0), (0, width - zhat_Bd.shape[-1]))
    mine_B1 = (row_B == r)[:, None]
    zhat_BD += jnp.where(mine_B1, jnp.pad(zhat_Bd, pad), 0.0)
  return zhat_BD


class NestedQuantizer(nn.Module):
  """Item vectors -> losses; params: encoder, decoder, codebooks (L, V, D).

  L_holo asks that every granularity rebuilds the whole item on its own. Its
  obvious form, MSE(straight_through(zhat_r), z[:d_r]), has no gradient: the
  straight-through z cancels against the target z. `cumulative` pulls sums of
  codes; `decode` decodes coarse rows, padded with zeros, to the item's vector.
  """

  config: NestedConfig

  @nn.compact
  def __call__(
    self, x_BW: jax.Array, weight_RLV: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    config = self.config
    codebooks_LVD = self.param(
      "codebooks",
      nn.initializers.normal(0.1),
      (config.levels, config.codes, config.dims[-1]),
    )
    z_BD = _encoder(config, "encoder")(x_BW)
    rows = residual.rows(z_BD, codebooks_LVD, config.dims, weight_RLV)
    row_B, fine_B = rows_to_decode(len(x_BW), len(rows), config.holistic)
    decode = _decoder(config, x_BW.shape[-1], "decoder")
    xhat_BW = decode(granular_latent(rows, row_B))
    error_B = jnp.mean((xhat_BW - x_BW) ** 2, -1)
    if config.holistic == "cumulative":
      holistic = cumulative_loss(rows, config.commitment)
    else:
      holistic = jnp.sum(error_B * ~fine_B) / max(1, np.sum(~fine_B))
    losses = {
      "reconstruction": jnp.sum(error_B * fine_B) / np.sum(fine_B),
      "quantization": quantization_loss(rows, config.commitment),
      "holistic": holistic,
    }
    if config.uniformity:
      repulsion = uniformity_loss(codebooks_LVD, config.uniformity_margin)
      losses["uniformity"] = config.uniformity * repulsion
    return losses
