"""T5's building blocks: RMS normalisation, feed-forward, relative buckets.

Source: Raffel et al., "Exploring the Limits of Transfer Learning" (T5) and its
version 1.1 (gated feed-forward). No biases anywhere. Parameters are float32;
the caller casts them to the compute dtype in one place (`train/step.py`).
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding

RELATIVE_BUCKETS = 32
RELATIVE_MAX_DISTANCE = 128


def scaled_normal(fan_in: int) -> jax.nn.initializers.Initializer:
  """Normal with standard deviation fan_in^-1/2, T5's initialisation."""
  return nn.initializers.normal(stddev=fan_in**-0.5)


def matmul(x: jax.Array, kernel_DF: jax.Array) -> jax.Array:
  """(.., D) @ (D, F) as one product of two matrices.

  The gradient of a product with several leading axes makes XLA on CPU copy
  its operands into another order; accelerators see no difference. (Rows and
  tokens that are both split over devices cannot become one axis.)
  """
  if sharding.tokens_are_split():
    return x @ kernel_DF
  flat = _product(x.reshape(-1, x.shape[-1]), kernel_DF)
  return flat.reshape(*x.shape[:-1], kernel_DF.shape[-1])


@jax.custom_vjp
def _product(x_RD: jax.Array, kernel_DF: jax.Array) -> jax.Array:
  """x @ kernel, whose gradient XLA on CPU computes at full speed.

  There a product that sums over the rows of both takes twice as long if its
  result is tall, so a tall kernel's gradient is computed lying down.
  """
  return x_RD @ kernel_DF


def _product_forward(x_RD, kernel_DF):
  return x_RD @ kernel_DF, (x_RD, kernel_DF)


def _product_backward(saved, grad_RF):
  x_RD, kernel_DF = saved
  D, F = kernel_DF.shape
  if D <= F:
    grad_DF = x_RD.T @ grad_RF
  else:
    grad_DF = jax.lax.optimization_barrier(grad_RF.T @ x_RD).T
  return grad_RF @ kernel_DF.T, grad_DF


_product.defvjp(_product_forward, _product_backward)


def dense(features: int, fan_in: int, use_bias: bool = False) -> nn.Dense:
  """T5's linear layer: no bias unless asked for, scaled normal weights."""
  return nn.Dense(
    features,
    use_bias=use_bias,
    kernel_init=scaled_normal(fan_in),
    dot_general=lambda x, kernel, *_, **__: matmul(x, kernel),
  )


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, computed in float32."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(mean_square + self.epsilon)).astype(
      x.dtype
    ) * scale_D.astype(x.dtype)


class Dropout(nn.Module):
  """Inverted dropout that drops the same units at every step of an unroll.

  One mask per site and branch, as in recurrent networks (Gal & Ghahramani,
  arXiv 1512.05287): the steps of a branch share it. A mask is a hash of key
  and unit (`hashed_bits`), so neither the layout on a mesh nor the order of
  computation changes it, and it is cheap enough to be computed twice.
  """

  rate: float

  def setup(self):
    # Once per apply, not per call: equal calls yield equal masks, which the
    # compiler then computes once.
    self.key = self.make_rng("dropout") if self.has_rng("dropout") else None

  def __call__(
    self, x: jax.Array, deterministic: bool, steps: int = 1
  ) -> jax.Array:
    """Drops units of x (B, S * N, ..); one behind the other, its S steps.

    Of one step x may have any shape.
    """
    if deterministic or self.rate == 0:
      return x
    assert self.key is not None, "dropout needs rngs={'dropout': key}"
    dropped = min(round(self.rate * 2**32), 2**32 - 1)
    shape = x.shape
    if steps > 1:
      shape = (shape[0], shape[1] // steps, *shape[2:])
    keep = hashed_bits(self.key, shape) >= jnp.uint32(dropped)
    if steps > 1:
      keep = jnp.tile(keep, (1, steps, *(1,) * (x.ndim - 2)))
    scale = jnp.asarray(1.0 / (1.0 - self.rate), x.dtype)
    return jnp.where(keep, x * scale, jnp.zeros((), x.dtype))


def hashed_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """32 random-looking bits per element, in fewer operations than Threefry's.

  Counters through Wellons' lowbias32, a mixer of two multiplications that
  changes every output bit with nearly even odds; the key's first word goes in
  ahead of it and the last in its middle. Good for masks, not for draws whose
  every bit must be independent; from 2^32 elements on they repeat.

  Returns:
    uint32 of the shape, a function of the key and an element's index alone.
  """
  ahead, *_, inside = jax.random.key_data(key)
  # Keys that follow each other must not give sequences that do.
  inside = _mix(inside)
  count = jnp.zeros(shape, jnp.uint32)
  for axis, size in enumerate(shape):
    index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    count = count * jnp.uint32(size) + index
  return _mix(count + _mix(ahead ^ inside), inside)


def _mix(x: jax.Array, inside: jax.Array | int = 0) -> jax.Array:
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15) ^ inside) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


class FeedForward(nn.Module):
  """relu(x W_in) W_out, or the gated form (gelu(x W_gate) * x W_in) W_out."""

  d_model: int
  d_ff: int
  gated: bool
  dropout: float

  def setup(self):
    self.wi = dense(self.d_ff, self.d_model)
    if self.gated:
      self.wi_gate = dense(self.d_ff, self.d_model)
    self.wo = dense(self.d_model, self.d_ff)
    self.drop = Dropout(self.dropout)

  def __call__(
    self, x: jax.Array, deterministic: bool, steps: int = 1
  ) -> jax.Array:
    hidden = self.wi(x)
    if self.gated:
      hidden = nn.gelu(self.wi_gate(x), approximate=True) * hidden
    else:
      hidden = nn.relu(hidden)
    return self.wo(self.drop(hidden, deterministic, steps))


def relative_bucket(
  distance: jax.Array,
  bidirectional: bool,
  num_buckets: int = RELATIVE_BUCKETS,
  max_distance: int = RELATIVE_MAX_DISTANCE,
) -> jax.Array:
  """T5's bucket of a distance = query position - key position.

  Half of the buckets are exact, the rest logarithmic up to `max_distance`.
  Bidirectional attention spends half of all buckets on keys to the right;
  causal attention clips those to distance 0.

  Args:
    distance: integers of any shape.
    bidirectional: whether keys may lie to the right of the query.
    num_buckets: size of the bias table.
    max_distance: distances from here on share the last bucket.

  Returns:
    Bucket indices in [0, num_buckets), of the shape of `distance`.
  """
  offset = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance < 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(distance, 0)
  exact = num_buckets // 2
  log_ratio = jnp.log(
    jnp.maximum(distance, 1).astype(jnp.float32) / exact
  ) / math.log(max_distance / exact)
  far = exact + (log_ratio * (num_buckets - exact)).astype(distance.dtype)
  far = jnp.minimum(far, num_buckets - 1)
  return offset + jnp.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
  """A learned attention bias per head and bucket of distance."""

  num_heads: int
  bidirectional: bool
  init_scale: float = 1.0

  @nn.compact
  def __call__(self, distance: jax.Array) -> jax.Array:
    """Distances (...,) -> biases (H, ...) in float32."""
    table_HQ = self.param(
      "table",
      nn.initializers.normal(stddev=self.init_scale),
      (self.num_heads, RELATIVE_BUCKETS),
    )
    bucket = relative_bucket(distance, self.bidirectional)
    return jnp.take(table_HQ, bucket, axis=1).astype(jnp.float32)
