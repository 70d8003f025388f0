"""Rows split by token: what each device computes, and what it has to see.

All of this works on the mesh that is set where the caller is traced
(`jax.sharding.use_abstract_mesh`), and does nothing without one, or where its
axis `sequence` has one device.
"""

from typing import Any

import jax
from jax.sharding import PartitionSpec

_ANY = PartitionSpec.UNCONSTRAINED


def tokens_are_split() -> bool:
  """Whether devices share the tokens of a row."""
  return token_shards() > 1


def token_shards() -> int:
  """How many devices share the tokens of a row."""
  # A mesh of others, such as pmap's, has no such axis.
  return jax.sharding.get_abstract_mesh().shape.get("sequence", 1)


def split_tokens(x: Any, axis: int = 1) -> Any:
  """Arrays whose tokens or branches, along `axis`, each device has a share of.

  A length that the devices do not divide is left as it is.
  """
  return _constrain(x, axis, "sequence")


def whole_tokens(x: Any, axis: int) -> Any:
  """Arrays with all tokens of a row, along `axis`, on every device."""
  return _constrain(x, axis, None)


def _constrain(x: Any, axis: int, place: str | None) -> Any:
  if not tokens_are_split():
    return x

  def constrain(x: jax.Array) -> jax.Array:
    if place and x.shape[axis] % token_shards():
      return x
    spec: list = [_ANY] * x.ndim
    spec[axis] = place
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))

  return jax.tree.map(constrain, x)
