"""Attention against loops in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.nn.attention import (
  Attention,
  KeyValues,
  attend,
  attend_own,
  mask_to_bias,
  projecting_pays,
)

B, N, C, S, H, K = 2, 3, 5, 4, 2, 3


def normal(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


def test_attend_shares_the_context_among_queries():
  query_BNHK, key_BHCK, value_BHCK = (
    normal(0, B, N, H, K),
    normal(1, B, H, C, K),
    normal(2, B, H, C, K),
  )
  bias_BHNC = normal(3, B, H, N, C)
  key_BHKC = np.swapaxes(key_BHCK, 2, 3)
  mixed = attend(query_BNHK, KeyValues(key_BHKC, value_BHCK), bias_BHNC)
  for b, n, h in np.ndindex(B, N, H):
    weights_C = softmax(
      key_BHCK[b, h] @ query_BNHK[b, n, h] + bias_BHNC[b, h, n]
    )
    np.testing.assert_allclose(
      mixed[b, n, h], weights_C @ value_BHCK[b, h], rtol=1e-4, atol=1e-5
    )


def test_attend_own_reads_each_branchs_own_slots():
  query_BNHK, key, value = (
    normal(0, B, N, H, K),
    normal(1, B, N, S, H, K),
    normal(2, B, N, S, H, K),
  )
  bias_HS = normal(3, H, S)
  # All branches share the first slot.
  key[:, :, 0], value[:, :, 0] = key[:, :1, 0], value[:, :1, 0]
  slots = [KeyValues(key[:, :, s], value[:, :, s]) for s in range(S)]
  slots[0] = KeyValues(key[:, :1, 0], value[:, :1, 0])
  mixed = attend_own(query_BNHK, tuple(slots), bias_HS)
  for b, n, h in np.ndindex(B, N, H):
    weights_S = softmax(key[b, n, :, h] @ query_BNHK[b, n, h] + bias_HS[h])
    np.testing.assert_allclose(
      mixed[b, n, h], weights_S @ value[b, n, :, h], rtol=1e-4, atol=1e-5
    )


def test_masked_keys_weigh_exactly_nothing():
  """Not almost: a future item's gradient must be zero, bit for bit."""
  query, key, value = (
    normal(0, 1, 1, 1, K) * 30,
    normal(1, 1, 1, K, C) * 30,
    normal(2, 1, 1, C, K),
  )
  bias = mask_to_bias(np.arange(C) < 2)[None, None, None]

  def loss(value):
    return jnp.sum(attend(query, KeyValues(key, value), bias) ** 2)

  gradient = np.asarray(jax.grad(loss)(value))[0, 0]
  assert (gradient[2:] == 0).all()
  assert np.abs(gradient[:2]).max() > 0


def test_attention_projects_to_heads_and_back():
  attention = Attention(d_model=6, num_heads=H, head_dim=K)
  x_BND = normal(0, B, N, 6)
  identity = {
    name: {"kernel": jnp.eye(6)} for name in ("query", "key", "value", "output")
  }

  def call(method, *args):
    return attention.apply({"params": identity}, *args, method=method)

  heads = call(Attention.queries, x_BND)
  np.testing.assert_array_equal(heads, x_BND.reshape(B, N, H, K))
  assert np.array_equal(call(Attention.own_keys_values, x_BND).value, heads)
  shared = call(Attention.context_keys_values, x_BND)
  assert np.array_equal(shared.key, np.moveaxis(heads, 1, 3))
  assert np.array_equal(shared.value, np.swapaxes(heads, 1, 2))
  np.testing.assert_array_equal(call(Attention.merge, heads), x_BND)


def read_states(attention, params, states_BCD, query_BNHK, bias_BHNC):
  return attention.apply(
    {"params": params},
    query_BNHK,
    states_BCD,
    bias_BHNC,
    method=Attention.attend_states,
  )


def read_projected(attention, params, states_BCD, query_BNHK, bias_BHNC):
  context = attention.apply(
    {"params": params}, states_BCD, method=Attention.context_keys_values
  )
  return attend(query_BNHK, context, bias_BHNC)


def test_states_are_read_as_their_keys_and_values_are():
  """The same values, and the same gradients of all that goes in."""
  D = 6
  attention = Attention(d_model=D, num_heads=H, head_dim=K)
  params = {
    name: {"kernel": normal(seed, D, H * K)}
    for seed, name in enumerate(("query", "key", "value", "output"))
  }
  bias_BHNC = normal(4, B, H, N, C)
  bias_BHNC[..., -1] = -1e9
  args = (normal(5, B, C, D), normal(6, B, N, H, K), bias_BHNC)
  weight_BNHK = normal(7, B, N, H, K)

  def run(read):
    def loss(params, *args):
      mixed_BNHK = read(attention, params, *args)
      return jnp.sum(weight_BNHK * mixed_BNHK), mixed_BNHK

    return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(params, *args)

  for ours, theirs in zip(
    jax.tree.leaves(run(read_states)), jax.tree.leaves(run(read_projected))
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [2, 16, 80])
@pytest.mark.parametrize("queries", [1, 4, 8, 40, 80])
@pytest.mark.parametrize("head_dim", [8, 32])
def test_projecting_pays_where_the_compiler_counts_fewer_operations(
  tokens, queries, head_dim
):
  D = 32
  attention = Attention(d_model=D, num_heads=H, head_dim=head_dim)
  kernel = jax.ShapeDtypeStruct((D, H * head_dim), jnp.float32)
  params = {name: {"kernel": kernel} for name in ("query", "key", "value")}
  params["output"] = {"kernel": jax.ShapeDtypeStruct(kernel.shape[::-1], float)}
  args = (
    params,
    jax.ShapeDtypeStruct((1, tokens, D), jnp.float32),
    jax.ShapeDtypeStruct((1, queries, H, head_dim), jnp.float32),
    jax.ShapeDtypeStruct((1, H, queries, tokens), jnp.float32),
  )

  def count(read):
    lowered = jax.jit(functools.partial(read, attention)).lower(*args)
    return lowered.cost_analysis()["flops"]

  pays = projecting_pays(queries, tokens, D, head_dim)
  assert pays == (count(read_projected) <= count(read_states))
