"""A run that goes bad names the step and the first bad tensor."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_systems
import tiny_models as tiny
import tiny_training
from tiny_training import CATALOG, OBJECTIVE, make_batches, train

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.sharding import MeshConfig
from holorec_jax.train import diagnosis
from holorec_jax.train.optimizer import make_optimizer
from holorec_jax.train.step import init_state
from holorec_jax.train.writers import read_metrics
from holorec_jax.types import Batch

# The second step after a checkpoint.
STEP = 6
FIELD = "item_BT"


def is_bad(batch: Batch) -> jax.Array:
  """Whether it is the batch of STEP."""
  return jnp.all(batch.item_BT == make_batches()[STEP - 1][FIELD])


@dataclasses.dataclass(frozen=True)
class BadTerm:
  """An objective one of whose terms is not finite in one batch."""

  def init_params(self, seed):
    return OBJECTIVE.init_params(seed)

  def loss(self, params, batch, codes, key):
    loss, metrics = OBJECTIVE.loss(params, batch, codes, key)
    bad = jnp.where(is_bad(batch), jnp.nan, 0.0)
    return loss + bad, metrics | {
      "loss": metrics["loss"] + bad,
      "loss/extra": bad,
    }


@dataclasses.dataclass(frozen=True)
class BadGradient(BadTerm):
  """As it says: the loss is finite, a root of zero is in it."""

  def loss(self, params, batch, codes, key):
    loss, metrics = OBJECTIVE.loss(params, batch, codes, key)
    nothing = jnp.sum(params["code_embedding"]) * 0.0
    return loss + jnp.sqrt(jnp.where(is_bad(batch), nothing, 1.0)), metrics


@dataclasses.dataclass(frozen=True)
class BadStates(BadTerm):
  """The network itself goes bad, far ahead of its loss."""

  def loss(self, params, batch, codes, key):
    grown = jax.tree.map(
      lambda x: x * jnp.where(is_bad(batch), 1e30, 1), params
    )
    return OBJECTIVE.loss(grown, batch, codes, key)


@pytest.mark.parametrize(
  ("objective", "message"),
  [
    (BadTerm(), "loss is nan at step 6; .* the term loss/extra of the loss;"),
    (
      BadGradient(),
      "gradient norm is nan at step 6; the first bad tensor is the gradient of"
      r" code_embedding \(.* of .* values\); the first NaN comes of mul in"
      r" holorec_jax/train/step.py, line \d+ \(loss\); training",
    ),
    (
      BadStates(),
      r"gradient norm is nan at step 6; .* of bos \(.*; \d+ other tensors are"
      r" bad, too\); the first NaN comes of mul in holorec_jax/nn/layers.py,"
      r" line \d+ \(__call__\); training",
    ),
  ],
)
def test_the_step_and_the_tensor(objective, message, tmp_path, monkeypatch):
  monkeypatch.setattr(tiny_training, "OBJECTIVE", objective)
  with pytest.raises(UserError, match=message):
    train(tmp_path)
  # What was good stays; the next run can go on from there.
  assert (tmp_path / "checkpoints" / "4").is_dir()


def test_squares_that_are_not_finite(tmp_path):
  wild = dataclasses.replace(tiny_training.OPTIM, learning_rate=1e25)
  with pytest.raises(
    UserError,
    match="parameter norm is inf at step 2; the first bad tensor is the updated"
    r" parameter \w+.* \(finite, but its values reach \d\.\de\+2\d\); training",
  ):
    train(tmp_path, optim=wild)


def test_the_tensor_whose_squares_are_not_finite_is_the_greatest():
  scales = {"b": jnp.ones(2), "a": jnp.ones(3)}
  tree = {"scales": scales, "c": jnp.full(2, 1e20)}
  mesh = sharding.make_mesh(jax.devices()[:2])
  found = diagnosis._find_outsized("parameter", tree, mesh)
  assert found == "parameter c (finite, but its values reach 1.0e+20)"
  assert diagnosis._find_outsized("a", {"of": scales}, mesh) is None


def test_what_cannot_be_traced_again_is_left_out(caplog):
  """Kernels within a `shard_map`: the report goes on without the line."""
  mesh = MeshConfig(fsdp=2, tensor=2)
  step, args, mesh = sharded_systems.prepare("qwen3_fused", 8, mesh)
  assert diagnosis._locate(step, args, mesh) == ""
  assert "the line of the first NaN was not found" in caplog.text


def test_the_record_goes_up_to_the_bad_step(tmp_path, monkeypatch):
  monkeypatch.setattr(tiny_training, "OBJECTIVE", BadTerm())
  with pytest.raises(UserError):
    train(tmp_path, log_every=100)
  steps = [line["step"] for line in read_metrics(tmp_path)]
  assert steps == [4, 4, STEP - 1]


def test_what_went_into_the_step_is_looked_at_first():
  mesh = sharding.make_mesh(jax.devices()[:2])
  optimizer = make_optimizer(tiny_training.OPTIM, 4)
  state = init_state(OBJECTIVE, optimizer, 0, mesh)
  rows = make_batches()[0]
  batch = sharding.put_rows(Batch(**rows), mesh)

  def find(state, batch):
    def never(optimizer):
      raise AssertionError("looked further")

    codes = tiny.make_codes(CATALOG)
    return diagnosis.find_first(state, batch, codes, never, optimizer, mesh)

  weights = rows["weight_BN"].copy()
  weights[1, 2] = np.inf
  bad_batch = dataclasses.replace(batch, weight_BN=weights)
  size = weights.size
  assert find(state, bad_batch) == f"batch's weight_BN (1 of {size} values)"
  params = jax.tree.map(
    lambda x: x.at[(0,) * x.ndim].set(jnp.nan), state.params
  )
  first = next(iter(jax.tree_util.tree_leaves_with_path(params)))[0]
  found = find(dataclasses.replace(state, params=params), bad_batch)
  assert found and found.startswith(f"parameter {sharding.path_name(first)} (1")
  moments = jax.tree.map(
    lambda x: x * jnp.nan if x.ndim else x, state.opt_state
  )
  found = find(dataclasses.replace(state, opt_state=moments), bad_batch)
  assert found and found.startswith("optimiser's ")
