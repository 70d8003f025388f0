"""The step in parts: microbatches == one batch, jit + shardings == pmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.step import init_state, make_train_step
from holorec_jax.types import Batch, TrainState

CATALOG = tiny.make_catalog(30, levels=1, codes=30)
CODES = tiny.make_codes(CATALOG)
OPTIMIZER = optax.sgd(0.5)
MODEL, PARAMS = tiny.make_model(CATALOG)
OBJECTIVE = GeneratorObjective(MODEL, LossConfig())


def make_batch(rows: int = 16) -> Batch:
  """Rows with 0 to 5 targets; whole parts have none."""
  parts = [tiny.make_packed(CATALOG, seed=seed) for seed in range(rows // 2)]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  left_B = np.arange(rows) % 4
  weight_BN = batch.weight_BN * (np.arange(6) < 2 * left_B[:, None])
  return batch.replace(weight_BN=weight_BN)


def update(accumulate: int, devices: int = 2, rows: int = 16):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  state = TrainState(jnp.int32(0), PARAMS, PARAMS, OPTIMIZER.init(PARAMS))
  whole = sharding.replicated(mesh)
  step = make_train_step(
    OBJECTIVE, OPTIMIZER, mesh, 0, 0.5, accumulate=accumulate
  )
  state, codes = jax.device_put((jax.tree.map(jnp.array, state), CODES), whole)
  batch = sharding.put_rows(make_batch(rows), mesh)
  return jax.device_get(step(state, batch, codes))


whole_batch = functools.cache(functools.partial(update, 1))


@pytest.mark.parametrize("accumulate", [2, 8])
def test_parts_add_up_to_the_batch(accumulate):
  """Targets count, not parts: these have different numbers of targets."""
  (state, metrics), (one, expected) = update(accumulate), whole_batch()
  assert metrics.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
  moved = 0.0
  for ours, theirs, start in zip(
    *(jax.tree.leaves(x) for x in (state.params, one.params, PARAMS))
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    moved = max(moved, np.abs(ours - start).max())
  assert moved > 0.05


def test_rows_that_parts_cannot_share_are_named():
  with pytest.raises(UserError, match=r"16 rows.*4 parts.*multiple of 32"):
    update(4, devices=8)


def test_norms():
  state, metrics = whole_batch()
  gap = jax.tree.map(np.subtract, state.params, jax.device_get(PARAMS))
  for name, tree in (("update_norm", gap), ("parameter_norm", state.params)):
    expected = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(tree)))
    np.testing.assert_allclose(metrics[name], expected, rtol=1e-4)
  # Plain gradient descent.
  ratio = metrics["update_norm"] / metrics["gradient_norm"]
  np.testing.assert_allclose(ratio, 0.5, rtol=1e-4)


def test_data_parallelism_is_what_pmap_does():
  """One copy of the program a device, and a sum over devices by hand."""

  def descend(params, batch):
    def summed(params):
      mean, metrics = OBJECTIVE.loss(params, batch, CODES, None)
      return mean * metrics["targets"], metrics["targets"]

    grads, targets = jax.grad(summed, has_aux=True)(params)
    grads, targets = jax.lax.psum((grads, targets), "data")
    return jax.tree.map(lambda p, g: p - 0.5 * g / targets, params, grads)

  by_device = jax.tree.map(
    lambda x: x.reshape(8, 2, *x.shape[1:]), make_batch()
  )
  copies = jax.pmap(descend, axis_name="data", in_axes=(None, 0))(
    PARAMS, by_device
  )
  state, _ = update(1, devices=8)
  for ours, theirs in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(copies)
  ):
    np.testing.assert_allclose(ours, theirs[0], atol=1e-5)


def test_a_fresh_state_is_made_where_it_is_stored():
  mesh = sharding.make_mesh(shape=sharding.MeshConfig(fsdp=4, tensor=2))
  state = init_state(OBJECTIVE, optax.adamw(0.1), 0, mesh)
  one = sharding.make_mesh(jax.devices()[:1])
  lone = init_state(OBJECTIVE, optax.adamw(0.1), 0, one)
  for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(lone)):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
  kernels = (
    tree["encoder"]["blocks_0"]["mlp"]["wi"]["kernel"]
    for tree in (state.params, state.average, state.opt_state[0].nu)
  )
  for kernel in kernels:
    assert kernel.shape == (16, 24)
    assert {x.data.shape for x in kernel.addressable_shards} == {(4, 12)}
