"""Kernels, interpreted on the CPU, equal the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax import sharding
from holorec_jax.nn import fused_attention
from holorec_jax.nn.attention import KeyValues
from holorec_jax.nn.grouped_attention import attend_history

KERNELS = [fused_attention.attend_gpu, fused_attention.attend_tpu]


def make_inputs(B=2, C=150, H=4, heads_of_keys=2, K=32):
  """Segments of a row lie in one piece, padding at its end as segment 0."""
  random = np.random.default_rng(C)

  def normal(heads):
    return jnp.asarray(random.normal(size=(B, C, heads, K)), jnp.float32)

  own = KeyValues(normal(heads_of_keys), normal(heads_of_keys))
  segment_BC = np.sort(random.integers(0, 4, (B, C)), axis=1)[:, ::-1]
  return normal(H), own, jnp.asarray(segment_BC.copy(), jnp.int32)


def value_and_gradients(attend, query, own, segment):
  weight = jnp.cos(jnp.arange(query.size)).reshape(query.shape)

  def loss(query, own):
    mixed = attend(query, own, segment)
    return jnp.sum(mixed * weight), mixed

  (_, mixed), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
    query, own
  )
  return jax.tree.leaves((mixed, gradients))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
  "shape",
  [dict(), dict(C=256, heads_of_keys=4), dict(C=5, H=2, heads_of_keys=1, K=6)],
  ids=["padded", "blocks", "few"],
)
def test_a_kernel_equals_the_plain_form(kernel, shape):
  inputs = make_inputs(**shape)
  wanted = value_and_gradients(attend_history, *inputs)
  kernel = functools.partial(kernel, interpret=True)
  for got, want in zip(value_and_gradients(kernel, *inputs), wanted):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_takes_bfloat16(kernel):
  query, own, segment = make_inputs(C=70)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (query, own))
  mixed = kernel(*half, segment, interpret=True)
  assert mixed.dtype == jnp.bfloat16
  wanted = attend_history(query, own, segment)
  np.testing.assert_allclose(mixed.astype(jnp.float32), wanted, atol=0.05)


@pytest.mark.parametrize(
  "rows, heads_of_keys", [(8, 4), (8, 1), (3, 2)], ids=str
)
def test_devices_share_rows_and_heads(rows, heads_of_keys, monkeypatch):
  """With heads of keys that they do not share, and rows that they cannot."""
  monkeypatch.setattr(
    fused_attention,
    "attend_history",
    functools.partial(fused_attention.attend_gpu, interpret=True),
  )
  inputs = make_inputs(B=rows, C=9, heads_of_keys=heads_of_keys, K=16)
  wanted = value_and_gradients(attend_history, *inputs)
  mesh = sharding.make_mesh(shape=sharding.MeshConfig(fsdp=2, tensor=2))

  @jax.jit
  def on_mesh(*inputs):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return value_and_gradients(fused_attention.attend, *inputs)

  got = on_mesh(*jax.device_put(inputs, sharding.replicated(mesh)))
  for one, want in zip(got, wanted):
    np.testing.assert_allclose(one, want, atol=2e-5)


def test_a_tpu_gets_its_kernel_and_a_cpu_none():
  inputs = make_inputs(C=256, K=128)
  program = jax.jit(
    functools.partial(value_and_gradients, fused_attention.attend)
  ).trace(*inputs)
  on_tpu = program.lower(lowering_platforms=("tpu",)).as_text()
  assert on_tpu.count("@tpu_custom_call") == 3  # forward, dq, dk and dv
  assert "256x256xf32" not in on_tpu
  on_cpu = program.lower(lowering_platforms=("cpu",)).as_text()
  assert "custom_call" not in on_cpu
  assert "256x256xf32" in on_cpu
