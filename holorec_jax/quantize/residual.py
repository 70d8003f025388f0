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
    residuals_LBd: r_{l-1}, what each level had to quantize.
    quantized_LBd: q_l, the chosen codes' vectors.
  """

  codes_BL: jax.Array
  residuals_LBd: list[jax.Array]
  quantized_LBd: list[jax.Array]

  @property
  def total_Bd(self) -> jax.Array:
    """zhat, the sum of the levels' vectors."""
    return sum(self.quantized_LBd[1:], self.quantized_LBd[0])


def nearest(points_Bd: jax.Array, codes_Vd: jax.Array) -> jax.Array:
  """Index of the nearest row of codes_Vd, the first among equals; (B,) int32.

  The minimum and its place are two plain reductions: XLA's argmin is a
  variadic reduction that CPUs run one element at a time.
  """
  score_BV = 0.5 * jnp.sum(codes_Vd**2, -1) - points_Bd @ codes_Vd.T
  best_B1 = jnp.min(score_BV, -1, keepdims=True)
  place_V = jnp.arange(codes_Vd.shape[0], dtype=jnp.int32)
  return jnp.min(
    jnp.where(score_BV <= best_B1, place_V, codes_Vd.shape[0] - 1), -1
  )


def chain(z_Bd: jax.Array, codebooks_LVd: jax.Array) -> Chain:
  """Quantizes z_Bd greedily; codebooks may be wider than z (sliced here).

  Gradients: q_l reaches the codebooks, r_l reaches z alone, since residuals
  subtract a constant q.
  """
  codes, residuals, quantized = [], [], []
  residual_Bd = z_Bd
  for codes_VD in codebooks_LVd:
    codes_Vd = codes_VD[:, : z_Bd.shape[-1]]
    code_B = nearest(
      jax.lax.stop_gradient(residual_Bd), jax.lax.stop_gradient(codes_Vd)
    )
    quantized_Bd = codes_Vd[code_B]
    codes.append(code_B)
    residuals.append(residual_Bd)
    quantized.append(quantized_Bd)
    residual_Bd = residual_Bd - jax.lax.stop_gradient(quantized_Bd)
  return Chain(jnp.stack(codes, -1), residuals, quantized)


def rows(
  z_BD: jax.Array, codebooks_LVD: jax.Array, dims: Sequence[int]
) -> list[Chain]:
  """Every granularity's own chain, coarse to fine."""
  return [chain(z_BD[:, :d], codebooks_LVD) for d in dims]
