"""The loop of alignment: it learns, resumes, and keeps the start."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import signal

import jax
import numpy as np
import pytest
import tiny_models as tiny
from pair import run_pair

from holorec_jax import processes, sharding
from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split
from holorec_jax.data.windows import TargetWindows
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.train import loop, preference_loop
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.optimizer import OptimConfig
from holorec_jax.train.preemption import Preempted
from holorec_jax.train.preference import (
  Ground,
  PreferenceConfig,
  PreferenceObjective,
)
from holorec_jax.train.preference_rewards import make_tables
from holorec_jax.train.preference_sampling import TreePolicy
from holorec_jax.train.writers import read_metrics

ITEMS = 12
CATALOG = tiny.make_catalog(ITEMS, levels=2, codes=4)
MESH = sharding.make_mesh(jax.devices()[:2])
CONFIG = PreferenceConfig(
  users=4, group=8, learning_rate=0.02, log_every=1, validate_every=5
)
SHORT = dict(steps=8, rounds=2, passes=2, validate_every=1, patience=9)
MODEL, PARAMS = tiny.make_model(CATALOG, encoder_layers=0, history="pooled")
OBJECTIVE = GeneratorObjective(MODEL, LossConfig())
POLICY = TreePolicy(MODEL)


@pytest.fixture(autouse=True, scope="module")
def compile_once():
  """Runs of one configuration share their compiled functions."""
  with pytest.MonkeyPatch.context() as patch:
    for name in ("make_optimizer_like", "make_train_step", "make_collect"):
      patch.setattr(
        preference_loop, name, functools.cache(getattr(preference_loop, name))
      )
    yield


def make_ground(mesh):
  return jax.device_put(
    Ground(
      tiny.make_codes(CATALOG),
      TreeEngine(MODEL).place(CATALOG)[1],
      make_tables(CATALOG.codes_IL, np.full(ITEMS, -1), POLICY.ordered),
    ),
    sharding.replicated(mesh),
  )


def make_windows(mesh, window=3, rows=4, right=None):
  """Ten users; with `right` every target is that item."""
  rng = np.random.default_rng(0)
  offsets = np.arange(11) * 6
  items = rng.integers(0, ITEMS, 60).astype(np.int32)
  if right is not None:
    items[np.arange(60) % 6 > 0] = right
  dataset = Dataset("made", np.arange(ITEMS), {}, np.arange(10), offsets, items)
  length_U = np.full(10, 6)
  return TargetWindows(
    dataset,
    Split(length_U - 2, length_U - 2, length_U - 1),
    rows,
    4,
    window,
    0,
    processes.row_share(sharding.by_row(mesh)),
  )


def run(folder, validate=None, right=None, mesh=MESH, **changes):
  config = dataclasses.replace(CONFIG, **changes)
  seen = []

  def constant(params):
    if jax.process_count() == 1:
      seen.append(jax.device_get(params))
    return {loop.METRIC: 0.5 - 0.01 * len(seen)}

  progress = preference_loop.align(
    preference_loop.AlignTask(
      PreferenceObjective(POLICY, OBJECTIVE, config),
      jax.device_put(PARAMS, sharding.param_shardings(PARAMS, mesh)),
      make_windows(mesh, config.reward.window, right=right),
      make_ground(mesh),
      validate or constant,
      mesh,
      OptimConfig(clip_norm=10.0),
      "float32",
      folder,
    )
  )
  return progress, seen


def test_what_is_always_right_becomes_likely(tmp_path):
  run(tmp_path, right=5, steps=30, kl=0.0, sft=0.0, validate_every=30)
  curve = [line for line in read_metrics(tmp_path) if "train/reward" in line]
  reward = [line["train/reward"] for line in curve]
  assert len(reward) == 30
  assert np.mean(reward[-5:]) > np.mean(reward[:5]) + 0.4
  hits = [line["train/hit"] for line in curve]
  assert np.mean(hits[-5:]) > np.mean(hits[:5]) + 0.2
  assert curve[0]["train/kl"] == pytest.approx(0.0, abs=1e-5)
  assert curve[-1]["train/kl"] > 0.01
  assert curve[-1]["train/entropy"] < curve[0]["train/entropy"]


@pytest.fixture(scope="module", params=["on_policy", "offline"])
def straight(request, tmp_path_factory):
  """A run that nobody disturbed: its config, folder, end and validations."""
  changes = SHORT | {"mode": request.param}
  folder = tmp_path_factory.mktemp(request.param)
  return changes, folder, *run(folder, **changes)


def values(folder, name):
  """The curve of a metric."""
  return [line[name] for line in read_metrics(folder) if name in line]


def test_rounds(straight):
  changes, folder, progress, seen = straight
  assert progress.finished
  # The start counts: nothing that was tried later is better.
  assert (progress.best, progress.best_step) == (0.49, 0)
  reward = values(folder, "train/reward")
  if changes["mode"] == "on_policy":
    assert len(seen) == 1 + 8
    assert len(set(reward)) == 8
  else:  # Two rounds, each of two passes over two batches.
    assert len(seen) == 1 + 2
    assert reward[:2] == reward[2:4]
    assert reward[4:6] == reward[6:8] != reward[:2]


def test_the_first_step_offline_is_that_of_on_policy(straight, tmp_path):
  changes, folder, *_ = straight
  other = {"on_policy": "offline", "offline": "on_policy"}[changes["mode"]]
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, validate=make_stop(2), **changes | {"mode": other})
  for name in ("train/loss", "train/reward", "train/gradient_norm"):
    assert values(tmp_path, name)[0] == values(folder, name)[0]


def make_stop(call):
  """A validation that is interrupted at some call."""
  calls = []

  def stop(params):
    calls.append(1)
    if len(calls) == call:
      raise KeyboardInterrupt
    return {loop.METRIC: 0.5 - 0.01 * len(calls)}

  return stop


def test_resumed_is_straight(straight, tmp_path):
  changes, folder, _, seen = straight
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, validate=make_stop(3), **changes)
  progress, resumed = run(tmp_path, **changes)
  assert progress.finished
  for ours, theirs in zip(
    jax.tree.leaves(resumed[-1]), jax.tree.leaves(seen[-1])
  ):
    np.testing.assert_array_equal(ours, theirs)
  assert values(tmp_path, "train/loss") == values(folder, "train/loss")
  again, nothing = run(tmp_path, **changes)
  assert again.finished
  assert not nothing


class NoticeAt:
  """Of several processes: the answer is yes after one step alone."""

  came = False

  def __init__(self, step):
    self._step, self._asked = step, itertools.count(1)

  def __call__(self):
    return contextlib.nullcontext(self)

  def reached(self):
    return next(self._asked) == self._step


@pytest.mark.parametrize(
  ("changes", "asked", "saved"),
  [
    # Lines of three steps span the stop.
    (dict(steps=9, validate_every=4, log_every=3), 5, 5),
    # Within a round of four updates, two rounds before a validation.
    (SHORT | dict(mode="offline", rounds=4, steps=16, validate_every=8), 6, 8),
    (SHORT | dict(mode="offline", rounds=4, steps=16, validate_every=12), 2, 4),
  ],
)
def test_asked_to_stop_it_saves_when_the_round_is_done(
  tmp_path, monkeypatch, changes, asked, saved
):
  straight, stopped = tmp_path / "straight", tmp_path / "stopped"
  run(straight, **changes)
  with monkeypatch.context() as patch:
    patch.setattr(preference_loop, "Notice", NoticeAt(asked))
    with pytest.raises(Preempted):
      run(stopped, **changes)
  steps = [int(path.name) for path in (stopped / "checkpoints").glob("[0-9]*")]
  assert max(steps) == saved
  run(stopped, **changes)
  for name in ("train/loss", "train/reward", "train/gradient_norm"):
    assert values(stopped, name) == values(straight, name)


def test_a_signal_during_validation_stops_at_once(tmp_path):
  calls = []

  def ask(params):
    calls.append(1)
    if len(calls) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return {loop.METRIC: 0.5 - 0.01 * len(calls)}

  changes = dict(steps=9, validate_every=4)
  with pytest.raises(Preempted):
    run(tmp_path, validate=ask, **changes)
  assert (tmp_path / "checkpoints" / "4").is_dir()
  progress, _ = run(tmp_path, validate=ask, **changes)
  assert progress.finished
  assert len(calls) == 4  # of steps 0, 4, 8 and 9


# Rows over four pairs of devices, each of which shares matrices.
SPLIT = sharding.MeshConfig(fsdp=2, tensor=2)
FEW = dict(steps=3, validate_every=3)
SCRIPT = """
import pathlib
sys.path.append(sys.argv[1])
import test_preference_loop as of
mesh = of.sharding.make_mesh(shape=of.SPLIT)
of.run(pathlib.Path(sys.argv[2]), mesh=mesh, **of.FEW)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """What one device makes of three updates."""
  folder = tmp_path_factory.mktemp("alone")
  run(folder, mesh=sharding.make_mesh(jax.devices()[:1]), **FEW)
  return folder


def check_curves(folder, alone):
  for name in ("train/loss", "train/reward", "train/kl", "train/sft"):
    np.testing.assert_allclose(
      values(folder, name), values(alone, name), rtol=2e-5, atol=1e-7
    )


def test_on_a_mesh_it_is_as_on_one_device(alone, tmp_path):
  run(tmp_path, mesh=sharding.make_mesh(shape=SPLIT), **FEW)
  check_curves(tmp_path, alone)


def test_two_processes_are_one(alone, tmp_path):
  run_pair(SCRIPT, 4, pathlib.Path(__file__).parent, tmp_path)
  check_curves(tmp_path, alone)
