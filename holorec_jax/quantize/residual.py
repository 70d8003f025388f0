"""Residual quantization with sliced codebooks (methods 1.1), shared maths.

A row of granularity d_r quantizes the first d_r latent dimensions by its own
chain of nearest codes; level l of every row reads the same codebook, sliced:

  r_0 = z[:d_r];  s_l = argmin_v |r_{l-1} - C_l[v, :d_r]|^2;
  q_l = C_l[s_l, :d_r];  r_l = r_{l-1} - q_l.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Chain(NamedTuple):
  """One row's residual chain.

  Attributes:
    codes_BL: int32 codes.
    residuals: r_0 .. r_L, each (B, d): level l quantizes residuals[l], and the
      last is what no level caught.
    quantized: q_1 .. q_L, each (B, d): the chosen codes' vectors.
  """

  codes_BL: jax.Array
  residuals: list[jax.Array]
  quantized: list[jax.Array]

  @property
  def total_Bd(self) -> jax.Array:
    """zhat, the sum of the levels' vectors."""
    return sum(self.quantized[1:], self.quantized[0])


def nearest(
  points_Bd: jax.Array,
  codes_Vd: jax.Array,
  price_V: jax.Array | float = 0.0,
  weight_V: jax.Array | None = None,
) -> jax.Array:
  """argmin_v weight_v |p - c_v|^2 / 2 + price_v, the first of equals; (B,).

  The minimum and its place are two plain reductions: XLA's argmin is a
  variadic reduction that CPUs run one element at a time.
  """
  score_BV = 0.5 * jnp.sum(codes_Vd**2, -1) - points_Bd @ codes_Vd.T
  if weight_V is not None:
    score_BV += 0.5 * jnp.sum(points_Bd**2, -1, keepdims=True)
    score_BV *= weight_V
  score_BV += price_V
  best_B1 = jnp.min(score_BV, -1, keepdims=True)
  place_V = jnp.arange(codes_Vd.shape[0], dtype=jnp.int32)
  return jnp.min(jnp.where(score_BV <= best_B1, place_V, place_V[-1]), -1)


def chain(
  z_Bd: jax.Array,
  codebooks_LVD: jax.Array,
  weight_LV: jax.Array | None = None,
  price_LV: jax.Array | None = None,
) -> Chain:
  """Quantizes z_Bd greedily; codebooks may be wider than z (sliced here).

  Weights and prices of codes are those of `nearest`.

  Gradients: q_l reaches the codebooks, r_l reaches z alone, since residuals
  subtract a constant q.
  """
  codes, residuals, quantized = [], [z_Bd], []
  for level, codes_VD in enumerate(codebooks_LVD):
    codes_Vd = codes_VD[:, : z_Bd.shape[-1]]
    code_B = nearest(
      jax.lax.stop_gradient(residuals[-1]),
      jax.lax.stop_gradient(codes_Vd),
      0.0 if price_LV is None else price_LV[level],
      weight_V=None if weight_LV is None else weight_LV[level],
    )
    codes.append(code_B)
    quantized.append(codes_Vd[code_B])
    residuals.append(residuals[-1] - jax.lax.stop_gradient(quantized[-1]))
  return Chain(jnp.stack(codes, -1), residuals, quantized)


def rows(
  z_BD: jax.Array,
  codebooks_LVD: jax.Array,
  dims: Sequence[int],
  weight_RLV: jax.Array | None = None,
) -> list[Chain]:
  """Every granularity's own chain on its prefix of z, coarse to fine."""
  return [
    chain(z_BD[:, :d], codebooks_LVD, weight_LV)
    for d, weight_LV in zip(
      dims, [None] * len(dims) if weight_RLV is None else weight_RLV
    )
  ]
