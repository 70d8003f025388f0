"""Rotary position embeddings.

Source: Su et al., "RoFormer", arXiv 2104.09864, in the layout of the Llama
and Qwen families: entry i of a head turns together with entry i + K/2, by an
angle of position * theta^(-2 i / K). A product of two turned vectors depends on
the difference of their positions alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
  """How far the pairs of every head turn.

  Attributes:
    cos: float32, positions (B, C) -> (B, C, 1, K/2).
    sin: the same.
  """

  cos: jax.Array
  sin: jax.Array


def rotation(position_BC: jax.Array, head_dim: int, theta: float) -> Rotation:
  """The rotation that belongs to positions; head_dim is even."""
  half = head_dim // 2
  frequency_X = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BC1X = position_BC[..., None, None].astype(jnp.float32) * frequency_X
  return Rotation(jnp.cos(angle_BC1X), jnp.sin(angle_BC1X))


def rotate(x_BCHK: jax.Array, by: Rotation) -> jax.Array:
  """Turns every head of x, in float32; returns the dtype of x."""
  a, b = jnp.split(x_BCHK.astype(jnp.float32), 2, axis=-1)
  turned = (a * by.cos - b * by.sin, b * by.cos + a * by.sin)
  return jnp.concatenate(turned, axis=-1).astype(x_BCHK.dtype)
