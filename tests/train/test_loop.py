"""The loop: resumed == straight, stops for the right reasons."""

import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.data.pipeline import PipelineConfig, make_source
from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split
from holorec_jax.errors import UserError
from holorec_jax.models.generator import Generator
from holorec_jax.train import loop
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.optimizer import OptimConfig, make_optimizer
from holorec_jax.train.seal import rank_by_metric
from holorec_jax.train.step import init_state
from holorec_jax.train.writers import read_metrics

# The least of networks: what is trained does not matter here.
CATALOG = tiny.make_catalog(20, levels=1, codes=20)
MODEL = Generator(tiny.make_config(dropout=0.1, encoder_layers=0), 1, 20)
OBJECTIVE = GeneratorObjective(MODEL, LossConfig())
OPTIM = OptimConfig(learning_rate=0.01, average_decay=0.9)
TRAIN = loop.TrainConfig(
  epochs=5, evaluate_every=1, patience=9, log_every=2, seed=3
)


@pytest.fixture(autouse=True, scope="module")
def compile_once():
  """Runs of one configuration share their compiled functions."""
  start = functools.cache(loop.init_state)
  with pytest.MonkeyPatch.context() as patch:
    for name in ("make_optimizer", "make_train_step"):
      patch.setattr(loop, name, functools.cache(getattr(loop, name)))
    # The step takes the state's memory over: everyone gets a copy.
    patch.setattr(
      loop, "init_state", lambda *args: jax.tree.map(jnp.copy, start(*args))
    )
    yield


def make_batches():
  rng = np.random.default_rng(0)
  lengths = rng.integers(4, 9, 72)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  items = rng.integers(0, 20, offsets[-1]).astype(np.int32)
  dataset = Dataset("made", np.arange(20), {}, lengths, offsets, items)
  split = Split(lengths - 2, lengths - 2, lengths - 1)
  config = PipelineConfig(max_history=8, slots_per_row=8, targets_per_batch=64)
  return make_source(dataset, split, config, 2)


def always(value: float):
  """A validation that finds the same every time."""
  return lambda params: {loop.METRIC: value}


def measure(params) -> dict[str, float]:
  """A validation that depends on every parameter."""
  total = sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(params))
  return {loop.METRIC: total}


def train(folder, validate=measure, optim=OPTIM, **changes) -> loop.Progress:
  mesh = sharding.make_mesh(jax.devices()[:2])
  return loop.train(
    OBJECTIVE,
    make_batches(),
    jax.device_put(tiny.make_codes(CATALOG), sharding.replicated(mesh)),
    validate,
    mesh,
    optim,
    dataclasses.replace(TRAIN, **changes),
    pathlib.Path(folder),
  )


def read_state(folder: pathlib.Path):
  """The newest checkpoint."""
  mesh = sharding.make_mesh(jax.devices()[:2])
  target = jax.eval_shape(
    lambda: init_state(OBJECTIVE, make_optimizer(OPTIM, 1), 0, mesh)
  )
  with Checkpointer(folder / "checkpoints") as checkpointer:
    return checkpointer.restore(target)


def killed(folder: str) -> None:
  """Runs in a process of its own: kill -9 in the second validation."""
  first = pathlib.Path(folder) / "checkpoints" / "4"
  calls = []

  def validate(params):
    calls.append(1)
    deadline = time.time() + 60
    while len(calls) == 2 and time.time() < deadline:
      if first.is_dir():
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(0.01)
    return measure(params)

  train(folder, validate)


KILLED = "import sys, test_loop; test_loop.killed(sys.argv[1])"


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> pathlib.Path:
  """An undisturbed run."""
  folder = tmp_path_factory.mktemp("straight")
  assert make_batches().batches_per_epoch == 4
  progress = train(folder)
  assert progress.finished and progress.best_step > 0
  return folder


def without_clock(folder: pathlib.Path) -> list[dict]:
  clock = "train/targets_per_second"
  lines = read_metrics(folder)
  return [{k: v for k, v in line.items() if k != clock} for line in lines]


def test_resumed_after_kill_9_is_straight_bit_for_bit(straight, tmp_path):
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
  dead = subprocess.run(
    [sys.executable, "-c", KILLED, str(tmp_path)],
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
  )
  assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
  assert read_state(tmp_path).step == 4
  seen = []
  progress = train(tmp_path, lambda p: seen.append(1) or measure(p))
  assert len(seen) == 4, "went on from the first checkpoint"
  ours, theirs = read_state(tmp_path), read_state(straight)
  assert ours.step == theirs.step == 20
  assert ours.data == theirs.data
  leaves = zip(*[jax.tree.leaves_with_path(r.state) for r in (ours, theirs)])
  for (path, a), (_, b) in leaves:
    np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
  assert progress.best == theirs.loop["best"]
  # The record reads as if nothing had happened.
  assert without_clock(tmp_path) == without_clock(straight)


def test_metrics_are_means_since_the_last_line(straight):
  lines = read_metrics(straight)
  trained = [line for line in lines if "train/loss" in line]
  assert [line["step"] for line in trained] == list(range(2, 21, 2))
  validated = [line["step"] for line in lines if loop.METRIC in line]
  assert validated == [4, 8, 12, 16, 20]
  for line in trained:
    assert 1 < line["train/loss"] < 5
    assert 0 <= line["train/accuracy/level_0"] <= 1
    assert line["train/targets_per_second"] > 0
  assert trained[-1]["train/loss"] < trained[0]["train/loss"]


def test_a_finished_run_returns_at_once(straight):
  before = (straight / "metrics.jsonl").read_bytes()

  def never(params):
    raise AssertionError("validated again")

  progress = train(straight, never)
  assert progress == loop.Progress(**read_state(straight).loop)
  assert (straight / "metrics.jsonl").read_bytes() == before


def test_patience_stops_training_and_keeps_the_best(tmp_path):
  values = iter([0.1, 0.3, 0.2, 0.25, 0.9])
  progress = train(
    tmp_path,
    lambda params: {loop.METRIC: next(values)},
    patience=2,
    log_every=3,
  )
  assert (progress.finished, progress.best) == (True, 0.3)
  assert (progress.best_step, progress.stale) == (8, 2)
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  assert kept == {8, 12, 16}, "the two newest and the best"
  # Lines that a validation cuts off are means of fewer steps, not lost.
  steps = [line["step"] for line in read_metrics(tmp_path)]
  assert steps == [3, 4, 4, 6, 8, 8, 9, 12, 12, 15, 16, 16]
  norms = [line.get("train/gradient_norm") for line in read_metrics(tmp_path)]
  norms = [norm for norm in norms if norm is not None]
  assert max(norms) < 3 * min(norms)


def test_an_equal_metric_is_stale_but_the_later_step_is_the_best():
  """As checkpoints are ranked: both have to name the same step."""
  progress = loop.Progress()
  for step, metric in ((1, 0.0), (2, 0.3), (3, 0.3), (4, float("nan"))):
    progress.count(step, metric, seconds=1.0)
  assert (progress.best_step, progress.stale) == (3, 2)
  assert rank_by_metric({1: 0.0, 2: 0.3, 3: 0.3, 4: float("nan")})[0] == 3


def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
  wild = dataclasses.replace(OPTIM, learning_rate=1e30, warmup_share=0.2)
  with pytest.raises(
    UserError, match=r"(nan|inf) at step 3; .* optim.learning_rate"
  ):
    train(tmp_path, always(0.5), wild, evaluate_every=3)
  # Nothing was saved that would spoil the next attempt.
  assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_gradient_that_is_not_finite_is_caught_before_it_is_saved():
  class Silent:
    def update(self):
      raise AssertionError("counted a spoilt step")

  reporter = loop.Reporter(None, Silent(), 10)  # type: ignore[arg-type]
  metrics = {"loss": 1.0, "targets": 2.0, "gradient_norm": np.inf}
  with pytest.raises(UserError, match="gradient norm is inf at step 7;"):
    reporter.add(7, metrics)
