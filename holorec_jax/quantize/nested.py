"""HoloRec's multi-granularity nested residual quantizer (methods 1.1).

An MLP autoencoder whose latent is quantized once per granularity row, each
row reading a prefix of the latent and of the shared codebooks.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from holorec_jax.errors import UserError
from holorec_jax.quantize import residual

HOLISTIC = ("cumulative", "decode", "off")


@dataclasses.dataclass(frozen=True)
class NestedConfig:
  """The quantizer and its training."""

  dims: tuple[int, ...] = (8, 16, 32)
  levels: int = 4
  codes: int = 256
  hidden: tuple[int, ...] = (512, 256, 128)
  holistic: str = "cumulative"
  commitment: float = 0.25
  batch_size: int = 1024
  learning_rate: float = 1e-3
  weight_decay: float = 1e-4
  steps: int = 4000
  warmup_steps: int = 500
  seed: int = 0

  def __post_init__(self):
    if self.holistic not in HOLISTIC:
      raise UserError(
        f"holistic is {self.holistic!r}; expected one of {', '.join(HOLISTIC)}."
      )
    if list(self.dims) != sorted(set(self.dims)) or not self.dims:
      raise UserError(
        f"dims {self.dims} must grow from the coarse to the fine granularity."
      )


class Mlp(nn.Module):
  """Dense layers with ReLU between."""

  widths: Sequence[int]

  @nn.compact
  def __call__(self, x_BD: jax.Array) -> jax.Array:
    for width in self.widths[:-1]:
      x_BD = nn.relu(nn.Dense(width)(x_BD))
    return nn.Dense(self.widths[-1])(x_BD)


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.mean((a - b) ** 2)


def pull(moving_Bd: jax.Array, code_Bd: jax.Array, mu: float) -> jax.Array:
  """VQ loss: codes move to the latent, the latent (weight mu) to its code."""
  stop = jax.lax.stop_gradient
  return mse(stop(moving_Bd), code_Bd) + mu * mse(moving_Bd, stop(code_Bd))


class NestedQuantizer(nn.Module):
  """x -> (losses, codes); the parameters are encoder, decoder, codebooks."""

  config: NestedConfig
  width: int

  @nn.compact
  def __call__(
    self, x_BD: jax.Array
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    c = self.config
    encoder = Mlp((*c.hidden, c.dims[-1]), name="encoder")
    decoder = Mlp((*c.hidden[::-1], self.width), name="decoder")
    codebooks_LVd = self.param(
      "codebooks", nn.initializers.normal(0.1), (c.levels, c.codes, c.dims[-1])
    )
    z_Bd = encoder(x_BD)
    rows = residual.rows(z_Bd, codebooks_LVd, c.dims)
    fine = z_Bd + jax.lax.stop_gradient(rows[-1].total_Bd - z_Bd)
    losses = {
      "reconstruction": mse(decoder(fine), x_BD),
      "quantization": jnp.mean(
        jnp.stack(
          [
            pull(r, q, c.commitment)
            for row in rows
            for r, q in zip(row.residuals_LBd, row.quantized_LBd, strict=True)
          ]
        )
      ),
      "holistic": jnp.mean(
        jnp.stack(
          [
            pull(row.residuals_LBd[0], row.total_Bd, c.commitment)
            for row in rows
          ]
        )
      ),
    }
    return losses, jnp.stack([row.codes_BL for row in rows], 1)
