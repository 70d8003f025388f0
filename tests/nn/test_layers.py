"""T5's layers against literal numbers and the statistics they promise."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.nn.layers import (
  Dropout,
  FeedForward,
  RelativeBias,
  RMSNorm,
  hashed_bits,
  matmul,
  relative_bucket,
)


def test_rms_norm_divides_by_the_root_mean_square():
  x_BD = jnp.array([[3.0, 4.0], [-6.0, 8.0]])
  params = {"params": {"scale": jnp.array([1.0, 2.0])}}
  y_BD = RMSNorm(epsilon=0.0).apply(params, x_BD)
  rms = np.sqrt(12.5)
  np.testing.assert_allclose(
    y_BD, [[3 / rms, 8 / rms], [-3 / rms, 8 / rms]], rtol=1e-6
  )


def test_rms_norm_keeps_bfloat16_and_survives_large_values():
  x_D = jnp.full((64,), 1e30, jnp.bfloat16)
  params = {"params": {"scale": jnp.ones(64)}}
  y_D = RMSNorm().apply(params, x_D * 1e-12)
  assert y_D.dtype == jnp.bfloat16
  np.testing.assert_allclose(y_D.astype(np.float32), 1.0, rtol=1e-2)


def test_causal_buckets_are_exact_up_to_16_then_logarithmic():
  distance = np.array([-5, 0, 1, 15, 16, 31, 32, 64, 127, 128, 1000])
  np.testing.assert_array_equal(
    relative_bucket(distance, bidirectional=False),
    [0, 0, 1, 15, 16, 21, 21, 26, 31, 31, 31],
  )


def test_bidirectional_buckets_spend_half_on_keys_to_the_right():
  distance = np.array([0, 1, 7, 8, 127, 1000, -1, -7, -8, -1000])
  np.testing.assert_array_equal(
    relative_bucket(distance, bidirectional=True),
    [0, 1, 7, 8, 15, 15, 17, 23, 24, 31],
  )


def test_relative_bias_reads_its_table_by_head():
  module = RelativeBias(num_heads=2, bidirectional=False)
  table_HQ = jnp.arange(64.0).reshape(2, 32)
  bias = module.apply({"params": {"table": table_HQ}}, jnp.array([[0, 3]]))
  np.testing.assert_array_equal(bias, [[[0.0, 3.0]], [[32.0, 35.0]]])


@pytest.mark.parametrize("shape_DF", [(6, 2), (2, 6)])
def test_gradients_of_a_product_of_any_form(shape_DF):
  """Tall kernels, wide kernels; every cotangent its own number."""
  x_BND = jax.random.normal(jax.random.key(0), (3, 4, shape_DF[0]))
  kernel_DF = jax.random.normal(jax.random.key(1), shape_DF)
  weight_BNF = jax.random.normal(jax.random.key(2), (3, 4, shape_DF[1]))

  def ours(x_BND, kernel_DF):
    return jnp.sum(weight_BNF * matmul(x_BND, kernel_DF))

  def plain(x_BND, kernel_DF):
    product_BNF = jnp.einsum("bnd,df->bnf", x_BND, kernel_DF)
    return jnp.sum(weight_BNF * product_BNF)

  grads = [jax.grad(f, argnums=(0, 1))(x_BND, kernel_DF) for f in (ours, plain)]
  chex.assert_trees_all_close(*grads, rtol=1e-5)


def test_feed_forward_is_relu_or_gated_gelu():
  x_BD = jnp.array([[1.0, -2.0]])
  kernels = {
    "wi": {"kernel": jnp.array([[1.0, 2.0, 0.0], [1.0, 0.0, -1.0]])},
    "wo": {"kernel": jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])},
  }
  plain = FeedForward(2, 3, gated=False, dropout=0.0)
  y_BD = plain.apply({"params": kernels}, x_BD, True)
  # relu([-1, 2, 2]) = [0, 2, 2].
  np.testing.assert_allclose(y_BD, [[2.0, 4.0]])
  gate = {"wi_gate": {"kernel": jnp.array([[0.0, 100.0, 0.0], [0.0] * 3])}}
  gated = FeedForward(2, 3, gated=True, dropout=0.0)
  y_BD = gated.apply({"params": kernels | gate}, x_BD, True)
  # gelu([0, 100, 0]) = [0, 100, 0], times [-1, 2, 2].
  np.testing.assert_allclose(y_BD, [[0.0, 200.0]], rtol=1e-6)


def drop(rate: float, x: jax.Array, seed: int = 0, deterministic=False):
  rngs = {"dropout": jax.random.key(seed)}
  return Dropout(rate).apply({}, x, deterministic, rngs=rngs)


def test_dropout_keeps_the_expectation():
  x_X = jnp.ones(100_001)
  y_X = np.asarray(drop(0.1, x_X))
  assert set(np.unique(y_X)) == {np.float32(0), np.float32(1 / 0.9)}
  assert abs((y_X == 0).mean() - 0.1) < 0.004  # four standard deviations
  assert abs(y_X.mean() - 1) < 0.005


def test_masks_are_those_that_interrupted_runs_began_with():
  """The hash in Python's integers; another would change resumed runs."""

  def mix(x, inside=0):
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15 ^ inside) * 0x846CA68B % 2**32
    return x ^ x >> 16

  inside = mix(9)
  ahead = mix(5 ^ inside)
  expected = [mix((count + ahead) % 2**32, inside) for count in range(24)]
  key = jax.random.wrap_key_data(jnp.array([5, 9], jnp.uint32))
  assert hashed_bits(key, (2, 3, 4)).reshape(-1).tolist() == expected


def test_dropped_units_tell_nothing_of_other_units():
  """Of other rows, columns and keys, those that follow each other included."""
  raw_K2 = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (7, 7)]
  keys = [jax.random.wrap_key_data(jnp.array(k, jnp.uint32)) for k in raw_K2]
  keys += list(jax.random.split(jax.random.key(0), 4))
  dropped_KRC = np.stack([hashed_bits(k, (200, 512)) for k in keys])
  rate = 0.1
  x_KRC = (dropped_KRC < rate * 2**32) - rate

  def correlation(x, y):
    """In standard deviations of that of independent units."""
    return np.mean(x * y) / (rate * (1 - rate)) * np.sqrt(x.size)

  found = []
  for lag in (1, 2, 3, 8, 64, 128):
    found.append(correlation(x_KRC[:, lag:], x_KRC[:, :-lag]))
    found.append(correlation(x_KRC[..., lag:], x_KRC[..., :-lag]))
  for one, other in itertools.combinations(x_KRC.reshape(len(keys), -1), 2):
    for lag in range(-2, 3):
      found.append(correlation(one, np.roll(other, lag)))
  assert np.abs(found).max() < 4.5
  assert 0.8 < np.std(found) < 1.2


def test_dropout_is_a_function_of_its_key():
  x_X = jnp.ones(512)
  assert np.array_equal(drop(0.5, x_X, 1), drop(0.5, x_X, 1))
  assert not np.array_equal(drop(0.5, x_X, 1), drop(0.5, x_X, 2))


def test_dropout_can_be_off():
  x_X = jnp.arange(8.0)
  assert np.array_equal(drop(0.5, x_X, deterministic=True), x_X)
  assert np.array_equal(drop(0.0, x_X), x_X)
