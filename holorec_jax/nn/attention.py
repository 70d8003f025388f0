"""T5 attention with explicit keys and values.

T5 does not scale the query by K^-1/2; its initialisation does. Keys and values
are arguments, so that one context serves all branches or beams of a user and
the decoder's cache is an ordinary array in the decode state.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.nn.layers import dense, matmul, scaled_normal

NEGATIVE_BIAS = -1e9


class KeyValues(NamedTuple):
  """Projected keys and values.

  Attributes:
    key: (B, H, K, C) for a shared context, (B, N, H, K) for a slot of a cache
      (N = 1 where all branches share the slot). Grouped attention has layouts
      of its own.
    value: (B, H, C, K) for a shared context; as the key for a slot.
  """

  key: jax.Array
  value: jax.Array


# Slot by slot, so that appending copies nothing.
Cache = tuple[KeyValues, ...]


def mask_to_bias(mask: jax.Array) -> jax.Array:
  """True = attend; returns 0 or a large negative float32."""
  return jnp.where(mask, 0.0, NEGATIVE_BIAS).astype(jnp.float32)


def projecting_pays(
  queries: int, tokens: int, d_model: int, head_dim: int
) -> bool:
  """Whether projected keys and values take fewer operations than states.

  Args:
    queries: how many read one user's context.
    tokens: C, of that context.
    d_model: D.
    head_dim: K; the number of heads makes no difference.
  """
  projected = tokens * head_dim * (d_model + queries)
  return projected <= queries * d_model * (head_dim + tokens)


def attend(
  query_BNHK: jax.Array, context: KeyValues, bias_BHNC: jax.Array
) -> jax.Array:
  """Attention of N queries to a context that they share -> (B, N, H, K)."""
  key_BHKC = sharding.whole_tokens(context.key, axis=3)
  value_BHCK = sharding.whole_tokens(context.value, axis=2)
  logits_BHNC = jnp.einsum(
    "bhnk,bhkc->bhnc",
    jnp.swapaxes(query_BNHK, 1, 2),
    key_BHKC,
    preferred_element_type=jnp.float32,
  )
  weights_BHNC = jax.nn.softmax(logits_BHNC + bias_BHNC, axis=-1)
  mixed_BHNK = jnp.einsum(
    "bhnc,bhck->bhnk", weights_BHNC.astype(query_BNHK.dtype), value_BHCK
  )
  return jnp.swapaxes(mixed_BHNK, 1, 2)


def attend_own(
  query_BNHK: jax.Array, cache: Cache, bias_HS: jax.Array
) -> jax.Array:
  """Attention of each branch to its own few cache slots -> (B, N, H, K).

  Products and sums, slot by slot, instead of B * N * H tiny matrix products,
  which is what XLA on CPU would make of an einsum; accelerators fuse it
  equally well.
  """
  keys, values = zip(*cache)
  query_BNHK32 = query_BNHK.astype(jnp.float32)
  logits_BNHS = jnp.stack(
    [jnp.sum(query_BNHK32 * key_BNHK, axis=-1) for key_BNHK in keys], axis=-1
  )
  weights_BNHS = jax.nn.softmax(logits_BNHS + bias_HS, axis=-1)
  mixed_BNHK = sum(
    weights_BNHS[..., slot, None] * value_BNHK
    for slot, value_BNHK in enumerate(values)
  )
  return jnp.asarray(mixed_BNHK).astype(query_BNHK.dtype)


class Projection(nn.Module):
  """`dense`, with a kernel that others may read.

  Attributes:
    shape: (D, F) of the kernel.
  """

  shape: tuple[int, int]

  def setup(self):
    init = scaled_normal(self.shape[0])
    self.kernel_DF = self.param("kernel", init, self.shape)

  def __call__(self, x: jax.Array) -> jax.Array:
    return matmul(x, self.kernel_DF)


class Attention(nn.Module):
  """The projections of one attention layer; attention itself is a function."""

  d_model: int
  num_heads: int
  head_dim: int

  def setup(self):
    inner = self.num_heads * self.head_dim
    self.query = dense(inner, self.d_model * self.head_dim)
    self.key = Projection((self.d_model, inner))
    self.value = Projection((self.d_model, inner))
    self.output = dense(self.d_model, inner)

  def queries(self, x_BND: jax.Array) -> jax.Array:
    """(B, N, D) -> (B, N, H, K)."""
    return self._split(self.query(x_BND))

  def own_keys_values(self, x_BND: jax.Array) -> KeyValues:
    """(B, N, D) -> each branch's next cache slot (B, N, H, K)."""
    return KeyValues(
      self._split(self.key(x_BND)), self._split(self.value(x_BND))
    )

  def context_keys_values(self, x_BCD: jax.Array) -> KeyValues:
    """(B, C, D) -> shared keys (B, H, K, C) and values (B, H, C, K).

    As the products read them, so that no step transposes the context again.
    """
    key_BCHK, value_BCHK = self.own_keys_values(x_BCD)
    return KeyValues(
      jnp.moveaxis(key_BCHK, 1, -1), jnp.swapaxes(value_BCHK, 1, 2)
    )

  def attend_states(
    self, query_BNHK: jax.Array, states_BCD: jax.Array, bias_BHNC: jax.Array
  ) -> jax.Array:
    """`attend` to the keys and values of states, which are never made.

    Queries are taken to the states' space instead, and what they read there is
    taken back: that is cheaper where few queries read many states.
    """
    kernel = (self.d_model, self.num_heads, self.head_dim)
    states_BCD = sharding.whole_tokens(states_BCD, 1)
    asked_BHND = jnp.einsum(
      "bnhk,dhk->bhnd", query_BNHK, self.key.kernel_DF.reshape(kernel)
    )
    logits_BHNC = jnp.einsum(
      "bhnd,bcd->bhnc",
      asked_BHND,
      states_BCD,
      preferred_element_type=jnp.float32,
    )
    weights_BHNC = jax.nn.softmax(logits_BHNC + bias_BHNC, axis=-1)
    read_BHND = jnp.einsum(
      "bhnc,bcd->bhnd", weights_BHNC.astype(query_BNHK.dtype), states_BCD
    )
    return jnp.einsum(
      "bhnd,dhk->bnhk", read_BHND, self.value.kernel_DF.reshape(kernel)
    )

  def merge(self, mixed_BNHK: jax.Array) -> jax.Array:
    """(B, N, H, K) -> (B, N, D)."""
    return self.output(mixed_BNHK.reshape(*mixed_BNHK.shape[:-2], -1))

  def _split(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
