"""Checkpoints come back exactly, from whatever is left of them."""

import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from holorec_jax.errors import UserError
from holorec_jax.train import seal
from holorec_jax.train.checkpoint import Checkpointer, restore_params
from holorec_jax.train.seal import read_metrics


@flax.struct.dataclass
class State:
  step: jax.Array
  params: Any
  opt_state: Any


def make_state(seed: int, rows: int = 256) -> State:
  rng = np.random.default_rng(seed)
  params = {
    "item": {"table": jnp.asarray(rng.normal(size=(rows, 64)), jnp.float32)},
    "scale": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
  }
  moments = jax.tree.map(lambda x: x * 2, params)
  return State(jnp.asarray(seed, jnp.int32), params, ((moments,), ()))


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def steps(folder: pathlib.Path) -> list[int]:
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
  """Checkpoints 1 and 2, the first one with the better metric."""
  folder = tmp_path_factory.mktemp("saved") / "checkpoints"
  with Checkpointer(folder) as checkpointer:
    for step, metric in ((1, 0.5), (2, 0.25)):
      checkpointer.save(
        step,
        make_state(step),
        data={"next": step * 10},
        loop={"best": 0.5, "patience": None},
        metric=metric,
      )
  return folder


def copy(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  subprocess.run(["cp", "-r", saved, tmp_path / "copy"], check=True)
  return tmp_path / "copy"


def test_round_trip_is_exact(saved):
  target = jax.eval_shape(lambda: make_state(0))
  with Checkpointer(saved) as checkpointer:
    for like in (make_state(0), target):
      restored = checkpointer.restore(like)
      assert restored is not None
      assert restored.step == 2
      assert_same(restored.state, make_state(2))
      assert restored.data == {"next": 20}
      assert restored.loop == {"best": 0.5, "patience": None}


def test_nothing_to_restore(tmp_path):
  with Checkpointer(tmp_path / "checkpoints") as checkpointer:
    assert checkpointer.restore(make_state(0)) is None


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
  bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state = make_state(3, rows=20_000)
  expected = jax.tree.map(np.array, state)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, state)
    for _ in range(20):
      state = bump(state)
    restored = checkpointer.restore(state)
  assert restored is not None
  assert_same(restored.state, expected)


def test_keeps_the_last_and_the_best(tmp_path):
  metrics = [0.1, 0.7, float("nan"), 0.7, None, 0.2, None]
  state = make_state(0)
  with Checkpointer(tmp_path) as checkpointer:
    for step, metric in enumerate(metrics):
      checkpointer.save(step, state, metric=metric)
      checkpointer.save(step, state, metric=9.0)  # is there: no second one
  assert steps(tmp_path) == [3, 5, 6]
  assert read_metrics(tmp_path) == {3: 0.7, 5: 0.2, 6: None}


def test_a_metric_that_comes_later(tmp_path):
  """Nothing better is given up before it, nor anything kept that is passed."""
  state = make_state(0)
  with Checkpointer(tmp_path, last=1) as checkpointer:
    for step, metric, kept in (
      (1, 0.5, [1]),
      (2, 0.4, [1, 2]),
      (3, 0.6, [3]),
      (4, float("nan"), [3, 4]),
    ):
      checkpointer.save(step, state, data=step, loop="before")
      checkpointer.wait()
      assert read_metrics(tmp_path)[step] is None
      checkpointer.judge(step, metric, "behind")
      assert steps(tmp_path) == kept
    restored = checkpointer.restore(state)
  assert restored is not None
  assert (restored.step, restored.data, restored.loop) == (4, 4, "behind")
  assert read_metrics(tmp_path)[3] == 0.6


def test_what_is_whole_is_read_once(saved, tmp_path, monkeypatch):
  """A restart looks twice, and a large state takes its time."""
  folder, hashed = copy(saved, tmp_path), []
  hash_files = seal.hash_files
  monkeypatch.setattr(
    seal, "hash_files", lambda path: hashed.append(path) or hash_files(path)
  )
  assert [seal.find_fault(folder / "2") for _ in range(2)] == [None, None]
  assert len(hashed) == 1
  damage(folder / "2" / "state" / "manifest.ocdbt", "flip")
  assert seal.find_fault(folder / "2") == "state/manifest.ocdbt has changed"


def test_keeps_every_so_many(tmp_path):
  with Checkpointer(tmp_path, last=1, every=3) as checkpointer:
    for step in range(1, 8):
      checkpointer.save(step, make_state(0))
  assert steps(tmp_path) == [3, 6, 7]


def damage(file: pathlib.Path, how: str) -> None:
  content = bytearray(file.read_bytes())
  if how == "truncate":
    file.write_bytes(content[: len(content) // 2])
  elif how == "empty":
    file.write_bytes(b"")
  elif how == "flip":
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
  else:
    file.unlink()


@pytest.mark.parametrize("how", ["truncate", "empty", "flip", "remove"])
def test_any_damaged_file_falls_back_or_does_no_harm(saved, tmp_path, how):
  files = sorted(p for p in (saved / "2").rglob("*") if p.is_file())
  assert len(files) > 10
  for i, file in enumerate(files):
    folder = copy(saved, tmp_path)
    damage(folder / file.relative_to(saved), how)
    with Checkpointer(folder) as checkpointer:
      restored = checkpointer.restore(make_state(0))
    assert restored is not None
    assert_same(restored.state, make_state(restored.step))
    assert restored.data == {"next": restored.step * 10}
    needed = file.name == "seal.json" or file.parts[-2] != "2"
    if needed:
      assert restored.step == 1, file
    folder.rename(tmp_path / f"done-{i}")


def test_fall_back_says_so_and_goes_on(saved, tmp_path, caplog):
  folder = copy(saved, tmp_path)
  earlier = folder / "broken-1" / "state"
  earlier.mkdir(parents=True)
  damage(folder / "2" / "state" / "_METADATA", "truncate")
  with Checkpointer(folder) as checkpointer:
    restored = checkpointer.restore(make_state(0))
    assert restored is not None
    assert restored.step == 1
    # The step that was damaged is reached, and can be saved, again.
    checkpointer.save(2, make_state(2), metric=0.9)
  assert f"{folder}/2 is truncated or damaged" in caplog.text
  assert "_METADATA" in caplog.text
  assert (folder / "broken-2").is_dir()
  assert not earlier.exists()
  assert steps(folder) == [1, 2]
  assert_same(restore_params(folder, "best"), make_state(2).params)


def test_none_whole(saved, tmp_path):
  folder = copy(saved, tmp_path)
  for step in (1, 2):
    damage(folder / str(step) / "seal.json", "remove")
  with (
    Checkpointer(folder) as checkpointer,
    pytest.raises(UserError, match=r"none of the checkpoints \[2, 1\]"),
  ):
    checkpointer.restore(make_state(0))
  assert steps(folder) == [1, 2]  # nothing is thrown away


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"item": {"table": jnp.zeros((128, 64))}},
      r"item/table: 'float32\[256,64\]' -> 'float32\[128,64\]'",
    ),
    (
      {"scale": jnp.zeros(7)},
      r"scale: 'bfloat16\[7\]' -> 'float32\[7\]'",
    ),
    ({"new": jnp.zeros(3)}, r"new: \(absent\) -> 'float32\[3\]'"),
  ],
)
def test_another_model_is_told_apart_from_damage(saved, change, message):
  state = make_state(0)
  other = state.replace(params=state.params | change)
  with Checkpointer(saved) as checkpointer:
    with pytest.raises(UserError, match=message):
      checkpointer.restore(other)
    with pytest.raises(UserError, match=r"opt_state/0/0.*-> \(absent\)"):
      checkpointer.restore(state.replace(opt_state=()))
  with pytest.raises(UserError, match=message):
    restore_params(saved, target=other.params)
  assert steps(saved) == [1, 2]


def test_restore_params(saved, tmp_path):
  assert_same(restore_params(saved), make_state(2).params)
  assert_same(restore_params(saved, "best"), make_state(1).params)
  target = make_state(0).params
  read = restore_params(saved, 1, target)
  assert_same(read, make_state(1).params)
  assert isinstance(read["scale"], jax.Array)
  assert restore_params(saved, 1, field="step") == 1
  with pytest.raises(UserError, match=r"no checkpoint 7 in .*\[2, 1\]"):
    restore_params(saved, 7)
  with pytest.raises(UserError, match=r"no checkpoint in .*train first"):
    restore_params(tmp_path)


def test_restore_params_falls_back(saved, tmp_path, caplog):
  folder = copy(saved, tmp_path)
  damage(folder / "1" / "state" / "manifest.ocdbt", "flip")
  assert_same(restore_params(folder, "best"), make_state(2).params)
  assert "manifest.ocdbt has changed" in caplog.text
  assert "instead of the best, step 1" in caplog.text


def place(state, devices: int, spec: PartitionSpec):
  mesh = jax.make_mesh(
    (devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices]
  )

  def put(x):
    wanted = spec if x.ndim == 2 else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, wanted))

  return jax.tree.map(put, state)


@pytest.mark.parametrize(
  ("before", "after"),
  [
    ((8, PartitionSpec("data")), (8, PartitionSpec())),
    ((8, PartitionSpec()), (8, PartitionSpec(None, "data"))),
    ((8, PartitionSpec("data")), (4, PartitionSpec(None, "data"))),
    ((1, PartitionSpec()), (8, PartitionSpec("data"))),
  ],
)
def test_another_device_layout(tmp_path, before, after):
  target = place(make_state(0), *after)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, place(make_state(1), *before))
    restored = checkpointer.restore(target)
  assert restored is not None
  assert_same(restored.state, make_state(1))
  same = jax.tree.map(
    lambda x, y: x.sharding == y.sharding, restored.state, target
  )
  assert jax.tree.all(same)
  params = restore_params(tmp_path, target=target.params)
  assert (
    params["item"]["table"].sharding == target.params["item"]["table"].sharding
  )


KILLED = """
import os, pathlib, signal, sys, threading, time
from tests.train.test_checkpoint import make_state
from holorec_jax.train.checkpoint import Checkpointer
folder = pathlib.Path(sys.argv[1])
def kill_when_half_written():
  partial = folder / "2.orbax-checkpoint-tmp" / "state"
  while not any(p.stat().st_size for p in partial.rglob("d/*")):
    time.sleep(0.0005)
  os.kill(os.getpid(), signal.SIGKILL)
with Checkpointer(folder) as checkpointer:
  checkpointer.save(1, make_state(1), data={"next": 10})
  checkpointer.wait()
  threading.Thread(target=kill_when_half_written).start()
  checkpointer.save(2, make_state(2, rows=200_000), data={"next": 20})
"""


def test_killed_in_the_middle_of_a_save(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  dead = subprocess.run(
    [sys.executable, "-c", KILLED, tmp_path],
    env=os.environ | {"PYTHONPATH": str(root)},
    capture_output=True,
  )
  assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
  assert (tmp_path / "2.orbax-checkpoint-tmp").is_dir()
  with Checkpointer(tmp_path) as checkpointer:
    restored = checkpointer.restore(make_state(0))
    assert restored is not None
    assert (restored.step, restored.data) == (1, {"next": 10})
    assert_same(restored.state, make_state(1))
    checkpointer.save(2, make_state(2))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_a_failed_save_is_told_though_closing_fails_as_well(
  tmp_path, monkeypatch
):
  def fail(error):
    def call(*args, **kwargs):
      raise error

    return call

  checkpointer = Checkpointer(tmp_path)
  manager = checkpointer._manager
  full = OSError(errno.ENOSPC, "no space left")
  with (
    monkeypatch.context() as patch,
    pytest.raises(UserError, match="is full"),
  ):
    patch.setattr(manager, "wait_until_finished", fail(full))
    patch.setattr(manager, "close", fail(ValueError("the same in other words")))
    checkpointer.close()
  checkpointer.close()


@pytest.mark.filterwarnings(
  # What Orbax and tensorstore drop on the way.
  "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_disk_full_while_saving(tmp_path):
  """The system's own error: no file may grow beyond 64 KiB."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Checkpointer(tmp_path) as checkpointer:
    checkpointer.save(1, make_state(1), metric=0.5)
    checkpointer.save(2, make_state(2), metric=0.4)
    checkpointer.wait()
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
      checkpointer.save(3, make_state(3, rows=4000), metric=0.9)
      with pytest.raises(UserError, match=f"disk is full .*{tmp_path}"):
        checkpointer.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    restored = checkpointer.restore(make_state(0))
    assert restored is not None
    assert restored.step == 2
    # With room again, the same checkpointer goes on.
    checkpointer.save(3, make_state(3), metric=0.1)
  assert steps(tmp_path) == [1, 2, 3]
  assert_same(restore_params(tmp_path, "best"), make_state(1).params)
