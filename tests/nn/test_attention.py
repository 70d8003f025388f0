"""Attention against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.nn.attention import (
  Attention,
  KeyValues,
  attend,
  attend_own,
  mask_to_bias,
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
