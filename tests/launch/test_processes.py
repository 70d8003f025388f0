"""Two processes are one: the same losses, one decision to stop, any number."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from quick_xla import xla_flags
from tiny_training import make_data, train

from holorec_jax import processes, sharding
from holorec_jax.data.pipeline import PipelineConfig, make_source
from holorec_jax.errors import UserError
from holorec_jax.train.writers import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STEPS = 52
CONFIG = {"epochs": 13, "evaluate_every": 13, "log_every": 1}


def start(
  folder: pathlib.Path, count: int, devices: int, *options: str
) -> list[subprocess.Popen]:
  """As many processes as make one run, each with so many devices."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": xla_flags(devices),
    "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  if count > 1:
    environment |= {
      "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
      "JAX_NUM_PROCESSES": str(count),
    }
  command = [sys.executable, str(ROOT / "tests" / "tiny_training.py")]
  command += [f"--workdir={folder}", *options]
  command += [f"--{name}={value}" for name, value in CONFIG.items()]
  return [
    subprocess.Popen(
      command,
      env=environment | ({"JAX_PROCESS_ID": str(i)} if count > 1 else {}),
      stdout=subprocess.DEVNULL,
      stderr=open(folder.parent / f"{folder.name}-{i}.log", "ab"),
    )
    for i in range(count)
  ]


def last_step(folder: pathlib.Path) -> int:
  lines = read_metrics(folder)
  return lines[-1]["step"] if lines else 0


def wait_for_step(step: int, folder: pathlib.Path, runs: list) -> None:
  deadline = time.monotonic() + 200
  while last_step(folder) < step:
    assert all(run.poll() is None for run in runs), "ended too soon"
    assert time.monotonic() < deadline
    time.sleep(0.05)


def ends(runs: list[subprocess.Popen]) -> list[int]:
  return [run.wait(timeout=200) for run in runs]


def newest(folder: pathlib.Path) -> int:
  steps = [p.name for p in (folder / "checkpoints").iterdir()]
  return max(int(name) for name in steps if name.isdigit())


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> pathlib.Path:
  """What one device makes of the run."""
  folder = tmp_path_factory.mktemp("straight")
  one_device = sharding.make_mesh(jax.devices()[:1])
  assert train(folder, mesh=one_device, **CONFIG).finished
  return folder


def check_losses(folder: pathlib.Path, straight: pathlib.Path) -> None:
  """A finished run lost as much at every step, each of them once."""
  assert newest(folder) == STEPS
  lines, wanted = (
    [line for line in read_metrics(run) if "train/loss" in line]
    for run in (folder, straight)
  )
  assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
  for line, other in zip(lines, wanted, strict=True):
    assert abs(line["train/loss"] - other["train/loss"]) < 1e-5


def test_any_number_of_processes_makes_the_same_run(straight, tmp_path):
  """2 processes x 4 devices, 1 x 4, 2 x 4 twice: as one device, and as 8.

  All but the last are stopped, the third before its first step.
  """
  alone, changing = tmp_path / "alone", tmp_path / "changing"
  assert len(jax.devices()) == 8
  assert train(alone, mesh=sharding.make_mesh(), **CONFIG).finished

  pair = start(changing, 2, 4, "--pause=0.15")
  wait_for_step(5, changing, pair)
  pair[1].send_signal(signal.SIGTERM)  # not the one that writes
  assert ends(pair) == [75, 75]
  first = newest(changing)
  assert 5 <= first < STEPS

  single = start(changing, 1, 4, "--pause=0.15")
  wait_for_step(first + 2, changing, single)
  single[0].send_signal(signal.SIGINT)
  assert ends(single) == [75]
  second = newest(changing)
  assert first + 2 <= second < STEPS

  pair = start(changing, 2, 4, "--pause=0.15", "--stopped_early")
  assert ends(pair) == [75, 75]
  assert second < newest(changing) < STEPS

  assert ends(start(changing, 2, 4)) == [0, 0]
  check_losses(alone, straight)
  check_losses(changing, straight)


def test_processes_that_share_parameters_make_the_same_run(straight, tmp_path):
  """Stored over both, multiplied in shares; one goes on in another layout."""
  folder = tmp_path / "shared"
  pair = start(folder, 2, 4, "--fsdp=4", "--tensor=2", "--pause=0.15")
  wait_for_step(5, folder, pair)
  pair[0].send_signal(signal.SIGTERM)
  assert ends(pair) == [75, 75]
  assert 5 <= newest(folder) < STEPS
  assert ends(start(folder, 1, 4, "--fsdp=2")) == [0]
  check_losses(folder, straight)


@pytest.mark.parametrize("rows", ["packed", "one_target"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_shares_of_a_batch_are_the_batch(rows, count):
  config = PipelineConfig(
    rows=rows, max_history=8, targets_per_batch=40, length_buckets=(2, 8)
  )
  dataset, split = make_data()
  whole = make_source(dataset, split, config, 8)
  shares = [
    make_source(dataset, split, config, 8, (index, count))
    for index in range(count)
  ]
  for share in shares:
    assert share.batches_per_epoch == whole.batches_per_epoch
  for batch in range(2 * whole.batches_per_epoch):
    parts = [share[batch] for share in shares]
    for name, expected in whole[batch].items():
      found = np.concatenate([part[name] for part in parts])
      np.testing.assert_array_equal(found, expected)
  with pytest.raises(UserError, match="rows, which 3 processes cannot share"):
    make_source(dataset, split, config, 8, (0, 3))


def test_one_process_has_all_rows():
  for shape in ((-1, 1, 1), (2, 2, 2), (1, 2, 4)):
    mesh = sharding.make_mesh(jax.devices(), sharding.MeshConfig(*shape))
    assert processes.row_share(sharding.by_row(mesh)) == (0, 1)
  assert processes.from_first(lambda: {"a": [1]}) == {"a": [1]}
  assert processes.after_first(lambda: np.int32(3)) == 3


class Rows:
  """How rows lie: which devices are ours, and where each one's begin."""

  def __init__(self, starts, ours):
    self.num_devices = len(starts)
    self.addressable_devices = set(ours)
    self._starts = starts

  def devices_indices_map(self, shape):
    return {d: (slice(s or None, None),) for d, s in enumerate(self._starts)}


def test_shares_of_rows_follow_the_mesh():
  apart = [0, 1, 2, 3, 4, 5, 6, 7]
  assert processes.row_share(Rows(apart, range(4, 8))) == (1, 2)
  assert processes.row_share(Rows(apart, [2, 3])) == (1, 4)
  # A tensor axis of two within a process, and over two processes.
  pairs = [0, 0, 2, 2, 4, 4, 6, 6]
  assert processes.row_share(Rows(pairs, range(4))) == (0, 2)
  fours = [0, 0, 0, 0, 4, 4, 4, 4]
  assert processes.row_share(Rows(fours, [6, 7])) == (1, 2)
  assert processes.row_share(Rows(fours, range(8))) == (0, 1)
  with pytest.raises(UserError, match="not one block"):
    processes.row_share(Rows(apart, [0, 4]))


JAX = {
  "JAX_COORDINATOR_ADDRESS": "head:1234",
  "JAX_NUM_PROCESSES": "4",
  "JAX_PROCESS_ID": "3",
}


@pytest.mark.parametrize(
  ("environment", "flags", "expected"),
  [
    ({}, (), None),
    ({}, ("auto",), {}),
    ({}, ("a:1", 2, 0), ("a:1", 2, 0)),
    (JAX, (), ("head:1234", 4, 3)),
    (JAX, (None, None, 1), ("head:1234", 4, 1)),
    # An indexed job, whose pods know their number under another name.
    (
      {**JAX, "JAX_PROCESS_ID": "", "JOB_COMPLETION_INDEX": "2"},
      (),
      ("head:1234", 4, 2),
    ),
    ({"JOB_COMPLETION_INDEX": "2"}, (), None),
    # Launchers that JAX asks itself; a step of one task is one process.
    ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "3"}, (), {}),
    ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "16"}, (), None),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, (), {}),
  ],
)
def test_clusters(environment, flags, expected):
  found = processes.find_cluster(environment, *flags)
  if isinstance(expected, tuple):
    names = ("coordinator_address", "num_processes", "process_id")
    expected = dict(zip(names, expected))
  assert found == expected


@pytest.mark.parametrize(
  ("environment", "flags", "message"),
  [
    ({}, ("a:1", 2), r"--process_id from 0 \(found None\)"),
    ({}, (None, 2, 0), r"--coordinator=HOST:PORT of process 0 \(found None\)"),
    ({}, (None, None, 1), r"--processes \(found None\)"),
    ({}, ("a:1", 2, 2), r"--process_id is 2; expected 0..1"),
    ({}, ("a", 2, 1), r"--coordinator is 'a'; expected HOST:PORT"),
    (
      {**JAX, "JAX_NUM_PROCESSES": "four"},
      (),
      "JAX_NUM_PROCESSES is 'four' in the environment",
    ),
  ],
)
def test_half_a_cluster(environment, flags, message):
  with pytest.raises(UserError, match=message):
    processes.find_cluster(environment, *flags)
