"""The loop: resumed == straight, stops for the right reasons."""

import dataclasses
import functools
import itertools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import tiny_training
from tiny_training import OBJECTIVE, OPTIM, measure, train

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.train import loop, task
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.optimizer import make_optimizer, make_schedule
from holorec_jax.train.preemption import Preempted
from holorec_jax.train.reporter import Reporter
from holorec_jax.train.seal import rank_by_metric
from holorec_jax.train.step import init_state
from holorec_jax.train.writers import read_metrics


@pytest.fixture(autouse=True, scope="module")
def compile_once():
  """Runs of one configuration share their compiled functions."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ("make_optimizer", "make_train_step"):
      patch.setattr(task, name, functools.cache(getattr(task, name)))
    yield


def always(value: float):
  """A validation that finds the same every time."""
  return lambda params: {loop.METRIC: value}


def read_state(folder: pathlib.Path):
  """The newest checkpoint."""
  mesh = sharding.make_mesh(jax.devices()[:2])
  target = jax.eval_shape(
    lambda: init_state(OBJECTIVE, make_optimizer(OPTIM, 1), 0, mesh)
  )
  with Checkpointer(folder / "checkpoints") as checkpointer:
    return checkpointer.restore(target)


def killed(folder: str, judges: str) -> None:
  """Runs in a process of its own: kill -9 in the second validation.

  Its checkpoint is there; if it judges, the metrics are written, too.
  """
  saved = pathlib.Path(folder) / "checkpoints" / "8"
  calls = []

  def kill(*args, **kwargs):
    deadline = time.time() + 60
    while time.time() < deadline:
      if saved.is_dir():
        os.kill(os.getpid(), signal.SIGKILL)
      time.sleep(0.01)

  def validate(params):
    calls.append(1)
    if len(calls) == 2:
      if not judges:
        kill()
      Checkpointer.judge = kill  # type: ignore[method-assign]
    return measure(params)

  train(folder, validate)


KILLED = "import sys, test_loop; test_loop.killed(*sys.argv[1:])"


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> pathlib.Path:
  """An undisturbed run."""
  folder = tmp_path_factory.mktemp("straight")
  progress = train(folder)
  assert progress.finished and progress.best_step > 0
  return folder


def without_clock(folder: pathlib.Path) -> list[dict]:
  lines = read_metrics(folder)
  return [
    {k: v for k, v in line.items() if not k.startswith("speed/")}
    for line in lines
  ]


@pytest.mark.parametrize("judges", ["", "judges"])
def test_resumed_after_kill_9_is_straight_bit_for_bit(
  straight, tmp_path, judges
):
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
  dead = subprocess.run(
    [sys.executable, "-c", KILLED, str(tmp_path), judges],
    env=os.environ | {"PYTHONPATH": path},
    capture_output=True,
  )
  assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
  assert read_state(tmp_path).step == 8
  seen = []
  progress = train(tmp_path, lambda p: seen.append(1) or measure(p))
  assert len(seen) == 4, "went on with the second validation"
  assert_same_run(tmp_path, straight)
  assert progress.best == read_state(straight).loop["best"]


def assert_same_run(folder: pathlib.Path, straight: pathlib.Path) -> None:
  ours, theirs = read_state(folder), read_state(straight)
  assert ours.step == theirs.step == 20
  assert ours.data == theirs.data
  leaves = zip(*[jax.tree.leaves_with_path(r.state) for r in (ours, theirs)])
  for (path, a), (_, b) in leaves:
    np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
  # The record reads as if nothing had happened.
  assert without_clock(folder) == without_clock(straight)


class Stopping:
  """Sends this process a signal after so many of a run's steps."""

  def __init__(self, number: signal.Signals, after: int, times: int = 1):
    self._patch = pytest.MonkeyPatch()
    self._number, self._after, self._times = number, after, times

  def __enter__(self):
    reached, asked = loop.Notice.reached, itertools.count(1)

    def send(notice):
      if next(asked) == self._after:
        for _ in range(self._times):
          os.kill(os.getpid(), self._number)
      return reached(notice)

    self._patch.setattr(loop.Notice, "reached", send)

  def __exit__(self, *error):
    self._patch.undo()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_mid_epoch_and_the_rest_is_straight(
  straight, tmp_path, number
):
  """Also in the middle of a line of metrics.jsonl, which has two steps."""
  before = signal.getsignal(number)
  for steps, stop in ((3, 3), (3, 6), (5, 11)):
    with pytest.raises(Preempted), Stopping(number, after=steps):
      train(tmp_path)
    assert read_state(tmp_path).step == stop
    assert signal.getsignal(number) == before
  assert train(tmp_path).finished
  assert_same_run(tmp_path, straight)


def test_a_signal_at_a_validation_stops_before_it(
  straight, tmp_path, caplog, monkeypatch
):
  """In time for a scheduler; the last step is no exception."""
  seen = []
  validate = lambda params: seen.append(1) or measure(params)  # noqa: E731
  caplog.set_level(logging.INFO)
  for steps, stop, validations in ((3, 3, 0), (5, 8, 1), (12, 20, 3)):
    with pytest.raises(Preempted), Stopping(signal.SIGTERM, after=steps):
      train(tmp_path, validate)
    assert (read_state(tmp_path).step, len(seen)) == (stop, validations)
    seen.clear()
  assert "asked to stop, step 3 of 20, " in caplog.text
  assert caplog.text.count("not validated yet") == 1
  with monkeypatch.context() as patch, pytest.raises(Preempted):
    patch.setattr(loop.Notice, "came", True)  # While it started.
    train(tmp_path, validate)
  assert not seen
  assert train(tmp_path, validate).finished
  assert len(seen) == 1
  assert_same_run(tmp_path, straight)


def test_a_signal_during_a_validation_stops_behind_it(straight, tmp_path):
  def ask(params):
    os.kill(os.getpid(), signal.SIGTERM)
    return measure(params)

  with pytest.raises(Preempted):
    train(tmp_path, ask)
  newest = read_state(tmp_path)
  assert (newest.step, newest.loop["unjudged"]) == (4, False)
  assert train(tmp_path).finished
  assert_same_run(tmp_path, straight)


def test_a_second_interrupt_ends_at_once(tmp_path):
  with pytest.raises(KeyboardInterrupt), Stopping(signal.SIGINT, 6, times=2):
    train(tmp_path)
  assert read_state(tmp_path).step == 4


def test_off_the_main_thread_signals_are_left_alone(tmp_path):
  found = []
  thread = threading.Thread(
    target=lambda: found.append(train(tmp_path, epochs=1))
  )
  thread.start()
  thread.join()
  assert found[0].finished


def test_checkpoints_between_validations(straight, tmp_path):
  """Every third step is saved, every sixth for good; two are the newest."""
  calls = []

  def interrupted(params):
    calls.append(1)
    if len(calls) == 5:
      raise KeyboardInterrupt
    return measure(params)

  changes = dict(checkpoint_every=3, keep_every=6)
  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, interrupted, **changes)
  kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
  best = read_state(tmp_path).loop["best_step"]
  assert kept == {6, 12, 18} | {18, 20} | {best}
  assert train(tmp_path, **changes).finished
  assert_same_run(tmp_path, straight)


def test_metrics_are_means_since_the_last_line(straight):
  lines = read_metrics(straight)
  trained = [line for line in lines if "train/loss" in line]
  assert [line["step"] for line in trained] == list(range(2, 21, 2))
  validated = [line["step"] for line in lines if loop.METRIC in line]
  assert validated == [4, 8, 12, 16, 20]
  rate = make_schedule(OPTIM, 20)
  for line in trained:
    assert 1 < line["train/loss"] < 5
    assert 0 <= line["train/accuracy/level_0"] <= 1
    assert line["speed/targets_per_second"] > 0
    rates = [rate(line["step"] - 2), rate(line["step"] - 1)]
    assert line["train/learning_rate"] == pytest.approx(np.mean(rates))
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
    progress.count(step, metric)
  assert (progress.best_step, progress.stale) == (3, 2)
  assert rank_by_metric({1: 0.0, 2: 0.3, 3: 0.3, 4: float("nan")})[0] == 3


def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
  wild = dataclasses.replace(OPTIM, learning_rate=1e30, warmup_share=0.2)
  with pytest.raises(
    UserError,
    match=r"norm is inf at step 2; .*: lower config\.optim\.learning_rate",
  ):
    train(tmp_path, always(0.5), wild, evaluate_every=3)
  # Nothing was saved that would spoil the next attempt.
  assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_gradient_that_is_not_finite_is_caught_before_it_is_saved():
  class Silent:
    def update(self):
      raise AssertionError("counted a spoilt step")

  reporter = Reporter(None, Silent(), 10, "")  # type: ignore[arg-type]
  metrics = {"loss": 1.0, "targets": 2.0, "gradient_norm": np.inf}
  with pytest.raises(UserError, match="gradient norm is inf at step 7;"):
    reporter.add(7, metrics)


def test_batches_of_another_size_are_refused(tmp_path, monkeypatch):
  train(tmp_path, epochs=1)
  larger = tiny_training.make_batches(16)
  monkeypatch.setattr(tiny_training, "make_batches", lambda *_: larger)
  with pytest.raises(UserError, match=r"steps of 8 rows, but .* batch has 16,"):
    train(tmp_path, epochs=1)
