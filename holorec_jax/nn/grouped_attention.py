"""Grouped-query attention: H query heads share fewer heads of keys and values.

Source: Ainslie et al., "GQA", arXiv 2305.13245; with Qwen3's RMS norm of every
query and key head ahead of the rotary embedding. Logits are scaled by K^-1/2.
Head h reads keys and values of head h // G, G = H / (heads of keys): they are
never repeated in memory.

Of long rows the scores are made for some queries at a time, and again in the
backward pass (Rabe and Staats, arXiv 2112.05682): memory grows as the row then,
on every platform, and not as its square.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.nn.attention import Cache, KeyValues
from holorec_jax.nn.layers import RMSNorm, dense
from holorec_jax.nn.rotary import Rotation, rotate

T = TypeVar("T")
U = TypeVar("U")
# Scores that a device makes at once: half a GiB in float32.
_MOST_SCORES = 2**27


def _attend_in_chunks(
  attend: Callable[[T, U], jax.Array], queries: T, read: U, scores: int
) -> jax.Array:
  """attend(queries, read) -> (B, N, H, K), for some queries at a time at need.

  Args:
    attend: whose result for a query depends on no other.
    queries: whatever it has for each of them, trees of (B, N, ..).
    read: what all of them read, such as keys and values.
    scores: B * H * N * C, of all of them on all devices.
  """
  N = jax.tree.leaves(queries)[0].shape[1]
  mesh = jax.sharding.get_abstract_mesh()
  shared = set(mesh.axis_names) - set(mesh.manual_axes)
  scores //= math.prod(mesh.shape[axis] for axis in shared)
  chunks = 1
  while scores > chunks * _MOST_SCORES and chunks < N:
    chunks *= 2
  if chunks == 1:
    return attend(queries, read)
  # Devices that share a row's tokens have as many of every chunk.
  multiple = chunks * sharding.token_shards()
  added = -N % multiple

  # Of queries that lie far apart: every device has some of each. What is added
  # is the last one again, which sees something.
  def split(x: jax.Array) -> jax.Array:
    if added:
      widths = ((0, 0), (0, added), *((0, 0),) * (x.ndim - 2))
      x = jnp.pad(x, widths, mode="edge")
    x = x.reshape(x.shape[0], -1, chunks, *x.shape[2:])
    return jnp.moveaxis(x, 2, 0)

  # Their gradients, sums over chunks, are summed in float32.
  read32 = jax.tree.map(lambda x: x.astype(jnp.float32), read)

  def attend_chunk(queries: T) -> jax.Array:
    again = jax.tree.map(lambda x, like: x.astype(like.dtype), read32, read)
    return attend(queries, again)

  # A loop's body is in no danger of being merged with what it repeats.
  attend_chunk = jax.checkpoint(attend_chunk, prevent_cse=False)
  mixed = jax.lax.map(attend_chunk, jax.tree.map(split, queries))
  mixed = jnp.moveaxis(mixed, 0, 2)
  return mixed.reshape(mixed.shape[0], -1, *mixed.shape[3:])[:, :N]


def attend_history(
  query_BCHK: jax.Array, own_BCHK: KeyValues, segment_BC: jax.Array
) -> jax.Array:
  """Causal attention within segments -> (B, C, H, K).

  JAX's own, which XLA compiles as any other product and softmax;
  `fused_attention` has the same in kernels.

  Args:
    query_BCHK: scaled by K^-1/2 in here.
    own_BCHK: keys and values (B, C, heads of keys, K).
    segment_BC: which tokens belong together.
  """
  own_BCHK = sharding.whole_tokens(own_BCHK, axis=1)
  slot_C = jnp.arange(segment_BC.shape[1])

  def attend(queries, read):
    query_BNHK, segment_BN, slot_BN = queries
    mask_BNC = segment_BN[:, :, None] == segment_BC[:, None, :]
    mask_BNC &= slot_BN[:, :, None] >= slot_C
    return jax.nn.dot_product_attention(
      query_BNHK, read.key, read.value, mask=mask_BNC[:, None]
    )

  slot_BC = jnp.broadcast_to(slot_C, segment_BC.shape)
  queries = (query_BCHK, segment_BC, slot_BC)
  scores = segment_BC.size * query_BCHK.shape[2] * len(slot_C)
  return _attend_in_chunks(attend, queries, own_BCHK, scores)


def attend_branches(
  query_BNHK: jax.Array,
  context: KeyValues,
  bias_BHNC: jax.Array,
  cache: Cache,
  bias_S: jax.Array,
) -> jax.Array:
  """One softmax over a shared context and each branch's own slots.

  Args:
    query_BNHK: of every branch.
    context: (B, heads of keys, C, K).
    bias_BHNC: visibility of the context; H and N may be 1.
    cache: slots (B, N, heads of keys, K), the latest last; N may be 1.
    bias_S: which slots are filled.

  Returns:
    (B, N, H, K).
  """
  context = sharding.whole_tokens(context, axis=2)
  B, N, H, _ = query_BNHK.shape
  # What all branches share is no part of a chunk.
  bias_BNHC = jnp.moveaxis(bias_BHNC, 2, 1)
  leaves, structure = jax.tree.flatten((query_BNHK, bias_BNHC, cache))
  own = {i: leaf for i, leaf in enumerate(leaves) if leaf.shape[1] == N}
  common = {i: leaf for i, leaf in enumerate(leaves) if i not in own}

  def attend(own, read):
    context, common = read
    merged = [(own | common)[i] for i in range(len(leaves))]
    query_BNHK, bias_BNHC, cache = jax.tree.unflatten(structure, merged)
    bias_BHNC = jnp.moveaxis(bias_BNHC, 1, 2)
    return _attend_both(query_BNHK, context, bias_BHNC, cache, bias_S)

  scores = B * H * N * context.key.shape[2]
  return _attend_in_chunks(attend, own, (context, common), scores)


def _attend_both(
  query_BNHK: jax.Array,
  context: KeyValues,
  bias_BHNC: jax.Array,
  cache: Cache,
  bias_S: jax.Array,
) -> jax.Array:
  """`attend_branches`, of all of them at once."""
  B, N, H, K = query_BNHK.shape
  kv_heads = context.key.shape[1]
  query_BNHGK = query_BNHK.reshape(B, N, kv_heads, H // kv_heads, K)
  # Plain products of two matrices for each head of keys; the X = N * G queries
  # lie one behind the other. Other orders make a GPU transpose its operands.
  query_BHXK = jnp.swapaxes(query_BNHGK, 1, 2).reshape(B, kv_heads, -1, K)
  seen_BHXC = jnp.einsum(
    "bhxk,bhck->bhxc",
    query_BHXK,
    context.key,
    preferred_element_type=jnp.float32,
  )
  seen_BHNGC = seen_BHXC.reshape(B, kv_heads, N, H // kv_heads, -1)
  seen_BHNGC = seen_BHNGC * K**-0.5 + bias_BHNC[:, :, :, None]
  # Slot by slot, as in `attention.attend_own`.
  query32 = query_BNHGK.astype(jnp.float32)
  own_BNHGS = jnp.stack(
    [jnp.sum(query32 * slot.key[..., None, :], axis=-1) for slot in cache],
    axis=-1,
  )
  own_BHNGS = jnp.swapaxes(own_BNHGS * K**-0.5 + bias_S, 1, 2)
  # The two softmaxes are not joined in memory: they share maximum and sum.
  top_BHNG1 = jax.lax.stop_gradient(
    jnp.maximum(
      jnp.max(seen_BHNGC, axis=-1, keepdims=True),
      jnp.max(own_BHNGS, axis=-1, keepdims=True),
    )
  )
  seen_BHNGC = jnp.exp(seen_BHNGC - top_BHNG1)
  own_BHNGS = jnp.exp(own_BHNGS - top_BHNG1)
  total_BHNG = jnp.sum(seen_BHNGC, axis=-1) + jnp.sum(own_BHNGS, axis=-1)
  mixed_BHXK = jnp.einsum(
    "bhxc,bhck->bhxk",
    seen_BHNGC.astype(context.value.dtype).reshape(seen_BHXC.shape),
    context.value,
    preferred_element_type=jnp.float32,
  )
  mixed_BHNGK = mixed_BHXK.reshape(B, kv_heads, N, H // kv_heads, K)
  mixed_BNHGK = jnp.swapaxes(mixed_BHNGK, 1, 2)
  own_BNHGS = jnp.swapaxes(own_BHNGS, 1, 2)
  for number, slot in enumerate(cache):
    mixed_BNHGK += own_BNHGS[..., number, None] * slot.value[..., None, :]
  mixed_BNHGK /= jnp.swapaxes(total_BHNG, 1, 2)[..., None]
  return mixed_BNHGK.astype(query_BNHK.dtype).reshape(B, N, H, K)


class GroupedAttention(nn.Module):
  """The projections of one layer; attention itself is a function."""

  d_model: int
  num_heads: int
  num_kv_heads: int
  head_dim: int

  def setup(self):
    inner = self.num_heads * self.head_dim
    kv_inner = self.num_kv_heads * self.head_dim
    self.query = dense(inner, self.d_model)
    self.key = dense(kv_inner, self.d_model)
    self.value = dense(kv_inner, self.d_model)
    self.output = dense(self.d_model, inner)
    self.query_norm = RMSNorm()
    self.key_norm = RMSNorm()

  def queries(self, x_BCD: jax.Array, by: Rotation) -> jax.Array:
    """(B, C, D) -> (B, C, H, K), normed and turned."""
    return rotate(self.query_norm(self._split(self.query(x_BCD))), by)

  def keys_values(self, x_BCD: jax.Array, by: Rotation) -> KeyValues:
    """(B, C, D) -> (B, C, heads of keys, K), keys normed and turned."""
    key_BCHK = self.key_norm(self._split(self.key(x_BCD)))
    return KeyValues(rotate(key_BCHK, by), self._split(self.value(x_BCD)))

  def merge(self, mixed_BCHK: jax.Array) -> jax.Array:
    """(B, C, H, K) -> (B, C, D)."""
    return self.output(mixed_BCHK.reshape(*mixed_BCHK.shape[:-2], -1))

  def _split(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], -1, self.head_dim)
