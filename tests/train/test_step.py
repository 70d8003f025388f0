"""The training step: on eight devices as on one, averages, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.precision import cast
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective, init_params
from holorec_jax.train.step import (
  make_train_step,
)
from holorec_jax.types import Batch, TrainState

CATALOG = tiny.make_catalog(30, levels=2, codes=6)
CODES = tiny.make_codes(CATALOG)


def make_batch(seed: int) -> Batch:
  """Sixteen rows, of which the last are empty, as at an epoch's end."""
  parts = [tiny.make_packed(CATALOG, seed=seed * 8 + i) for i in range(8)]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  empty = np.arange(16)[:, None] >= 13
  fill = {"item_BT": -1, "segment_BT": 0, "target_BN": -1, "weight_BN": 0}
  return batch.replace(
    **{k: np.where(empty, v, getattr(batch, k)) for k, v in fill.items()}
  )


def run_steps(devices: int, steps: int, average_decay: float = 0.5):
  """The state after each step, and its metrics."""
  mesh = sharding.make_mesh(jax.devices()[:devices])
  model, params = tiny.make_model(
    CATALOG,
    thought="holorec",
    dropout=0.2,
    repeat_bias=True,
    thought_carry=True,
  )
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5))
  state = TrainState(
    step=jnp.int32(0),
    params=params,
    average=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
  )
  state, codes = jax.device_put((state, CODES), sharding.replicated(mesh))
  step = make_train_step(
    GeneratorObjective(model, LossConfig()), optimizer, mesh, 0, average_decay
  )
  states, metrics = [jax.device_get(state)], []
  for number in range(steps):
    batch = sharding.put_rows(make_batch(number), mesh)
    state, measured = step(state, batch, codes)
    states.append(jax.device_get(state))
    metrics.append(jax.device_get(measured))
  if devices > 1:
    assert len(batch.item_BT.sharding.device_set) == devices
  return states, metrics


@pytest.fixture(scope="module")
def alone():
  return run_steps(devices=1, steps=2)


def test_eight_devices_train_as_one_does(alone):
  """Dropout included: random numbers do not depend on the layout."""
  states, metrics = run_steps(devices=8, steps=2)
  for ours, theirs in zip(metrics, alone[1]):
    assert ours.keys() == theirs.keys()
    for name in ours:
      np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
  moved = 0.0
  for before, ours, theirs in zip(
    *[jax.tree.leaves(s.params) for s in (states[0], states[2], alone[0][2])]
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    moved = max(moved, np.abs(ours - before).max())
  assert moved > 0.05


def test_the_average_starts_with_the_first_update(alone):
  """Decay is bounded by step / (step + 10): no memory of the start."""
  states, _ = alone
  for name in ("bos", "code_embedding"):
    start, first, second = (state.params[name] for state in states)
    assert np.abs(first - start).max() > 0
    np.testing.assert_array_equal(states[1].average[name], first)
    np.testing.assert_allclose(
      states[2].average[name], 1 / 11 * first + 10 / 11 * second, rtol=1e-5
    )
  assert [int(state.step) for state in states] == [0, 1, 2]


def test_metrics_are_sums_over_targets(alone):
  _, metrics = alone
  batch = make_batch(0)
  assert metrics[0]["targets"] == batch.weight_BN.sum() > 0
  for name, value in metrics[0].items():
    if name.startswith("accuracy/"):
      assert 0 <= value <= metrics[0]["targets"]
  parts = sum(v for k, v in metrics[0].items() if k.startswith("loss/"))
  np.testing.assert_allclose(parts, metrics[0]["loss"], rtol=1e-5)


def test_loss_is_a_mean_over_targets_and_empty_batches_are_harmless():
  model, params = tiny.make_model(CATALOG)
  objective = GeneratorObjective(model, LossConfig())

  def loss(params, batch):
    return objective.loss(params, batch, CODES, None)[0]

  run = tiny.jit(jax.value_and_grad(loss))
  batch = make_batch(0)
  value, _ = run(params, batch)
  twice, _ = run(params, batch.replace(weight_BN=batch.weight_BN * 2))
  np.testing.assert_allclose(value, twice, rtol=1e-5)
  nothing = jax.tree.map(lambda x: np.full_like(x, -1), batch).replace(
    segment_BT=np.zeros_like(batch.segment_BT),
    last_BN=np.zeros_like(batch.last_BN),
    weight_BN=np.zeros_like(batch.weight_BN),
  )
  value, gradient = run(params, nothing)
  assert value == 0
  assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
  model, params = tiny.make_model(CATALOG, thought="holorec")
  objective = GeneratorObjective(model, LossConfig())

  def run(params, dtype):
    params = cast(params, dtype)
    return objective.loss(params, make_batch(0), CODES, None)[0]

  exact = tiny.jit(run, static_argnums=1)(params, "float32")
  run = tiny.jit(jax.value_and_grad(run), static_argnums=1)
  rough, gradient = run(params, "bfloat16")
  assert rough.dtype == jnp.float32
  assert 0 < abs(exact - rough) < 0.05 * exact
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))
  halves = jax.tree.leaves(cast(params, "bfloat16"))
  assert all(leaf.dtype == jnp.bfloat16 for leaf in halves)


def test_initial_parameters_depend_on_the_seed_alone():
  model, _ = tiny.make_model(CATALOG)
  run = tiny.jit(lambda seed: init_params(model, seed)["bos"])
  first, again, other = (run(seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)
