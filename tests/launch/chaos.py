"""Trains while killing what trains; the end has to be that of a quiet run.

  python tests/launch/chaos.py --kills=20

kills 14 times in a run of one process and 6 times in one of two, at random
moments and in these ways:

  kill   SIGKILL
  term   SIGTERM: it saves and is started again
  disk   no file can grow any more, as on a full disk, until it gives up
  start  SIGKILL while it starts again
  peer   SIGKILL of one of two processes; the other cannot go on

launch/supervise.sh does all restarts but the one after `disk`, which a person
would have to mend. Ends with 1 if parameters, their average or the optimiser's
state differ from those of the quiet run in a single bit, or if the record does.
"""

import argparse
import os
import pathlib
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
  TESTS = pathlib.Path(__file__).resolve().parents[1]
  sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import jax
import numpy as np
from quick_xla import xla_flags

from holorec_jax.train.checkpoint import restore_params
from holorec_jax.train.writers import read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
# By the number of processes: what comes after what.
WAYS = {1: ("kill", "term", "disk", "start", "kill"), 2: ("peer", "term")}
STEPS_PER_KILL = 24
PATIENCE = 600.0  # seconds; the machine may be busy


class Chaos:
  """A run of some processes, each under its supervisor, and what befalls it.

  Args:
    folder: gets workdirs, logs and compiled programs.
    processes: how many.
    kills: how often one is killed.
    seed: of moments and victims.
  """

  def __init__(
    self, folder: pathlib.Path, processes: int, kills: int, seed: int
  ):
    self._folder, self._processes, self._kills = folder, processes, kills
    self._random = random.Random(seed)
    with socket.socket() as free:
      free.bind(("localhost", 0))
      self._port = free.getsockname()[1]
    epochs = STEPS_PER_KILL * (kills + 1) // 4
    self._options = (
      f"--epochs={epochs}",
      f"--evaluate_every={-(-epochs // 4)}",
      "--patience=99",
      "--log_every=7",
      "--checkpoint_every=5",
      "--pause=0.02",
    )

  def run(self) -> list[str]:
    """Both runs; what befell the wild one, in words."""
    folder = self._folder
    folder.mkdir(parents=True, exist_ok=True)
    quiet = self._start_all("quiet")
    assert [run.wait(PATIENCE) for run in quiet] == [0] * self._processes, (
      f"see {folder}"
    )
    wild = self._start_all("wild")
    try:
      events = [self._befall(wild, number) for number in range(self._kills)]
      ends = [run.wait(PATIENCE) for run in wild]
    finally:
      for run in wild:
        run.terminate()
    assert ends == [0] * self._processes, f"{ends}: see {folder}"
    return events

  def _start_all(self, name: str) -> list[subprocess.Popen]:
    return [self._start(name, index) for index in range(self._processes)]

  def _start(self, name: str, index: int) -> subprocess.Popen:
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": xla_flags(4 // self._processes),
      "JAX_COMPILATION_CACHE_DIR": str(self._folder / "cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    if self._processes > 1:
      environment |= {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{self._port}",
        "JAX_NUM_PROCESSES": str(self._processes),
        "JAX_PROCESS_ID": str(index),
      }
    supervise = ("bash", str(ROOT / "launch" / "supervise.sh"))
    train = (sys.executable, str(ROOT / "tests" / "tiny_training.py"))
    run = subprocess.Popen(
      [
        *(*supervise, "--restarts=10", "--longest=2"),
        *(*train, f"--workdir={self._folder / name}", *self._options),
      ],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    # Through this process, as the victim's own files may not grow.
    log = self._folder / f"{name}-{index}.log"
    threading.Thread(target=_copy, args=(run.stdout, log)).start()
    return run

  def _befall(self, runs: list[subprocess.Popen], number: int) -> str:
    """Kills one of the runs at a moment that belongs to this number."""
    ways = WAYS[self._processes]
    way = ways[number % len(ways)]
    index = self._random.randrange(self._processes)
    if way != "start":
      # The first half of its share of steps: it makes some progress, and is
      # killed before the end.
      step = STEPS_PER_KILL * (number + self._random.uniform(0.2, 0.7))
      _wait_until(lambda: self._step() >= step, runs)
    _wait_until(lambda: _victim(runs[index]) is not None, runs)
    time.sleep(self._random.uniform(0, 3.0 if way == "start" else 0.2))
    victim = _victim(runs[index])
    assert victim is not None, "it died by itself"
    event = f"{way} of process {index} at step {self._step()}"
    if way == "term":
      os.kill(victim, signal.SIGTERM)
    elif way == "disk":
      resource.prlimit(victim, resource.RLIMIT_FSIZE, (1, 1))
      assert runs[index].wait(PATIENCE) == 2, f"see {self._folder}"
      runs[index] = self._start("wild", index)
    else:
      os.kill(victim, signal.SIGKILL)
    _wait_until(lambda: _victim(runs[index]) != victim, runs)
    return event

  def _step(self) -> int:
    lines = read_metrics(self._folder / "wild")
    return lines[-1]["step"] if lines else 0

  def differences(self) -> list[str]:
    """What is not the same at the end of both runs; best empty."""
    found = []
    quiet, wild = self._folder / "quiet", self._folder / "wild"
    for field in ("params", "average", "opt_state"):
      ours, theirs = (
        jax.tree_util.tree_leaves_with_path(
          restore_params(folder / "checkpoints", field=field)
        )
        for folder in (wild, quiet)
      )
      assert len(ours) == len(theirs) > 0
      found += [
        f"{field}{jax.tree_util.keystr(path)}"
        for (path, a), (_, b) in zip(ours, theirs)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes()
      ]
    if _record(wild) != _record(quiet):
      found.append("metrics.jsonl")
    return found


def _copy(pipe: Any, log: pathlib.Path) -> None:
  with open(log, "ab") as file:
    while data := pipe.read1(65536):
      file.write(data)
      file.flush()


def _wait_until(true: Callable[[], bool], runs: list[subprocess.Popen]) -> None:
  deadline = time.monotonic() + PATIENCE
  while not true():
    assert all(run.poll() is None for run in runs), "a supervisor has ended"
    assert time.monotonic() < deadline
    time.sleep(0.02)


def _victim(supervisor: subprocess.Popen) -> int | None:
  """The training process that is a child of a supervisor, if there is one."""
  pid = supervisor.pid
  try:
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    for child in children.split():
      command = pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
      if b"tiny_training.py" in command and b"supervise.sh" not in command:
        return int(child)
  except FileNotFoundError:
    pass
  return None


def _record(folder: pathlib.Path) -> list[dict]:
  return [
    {k: v for k, v in line.items() if not k.startswith("speed/")}
    for line in read_metrics(folder)
  ]


def main() -> int:
  """Prints what happened; 0 if nothing came of it."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  of_two = options.kills * 3 // 10
  differences = []
  with tempfile.TemporaryDirectory() as temporary:
    for processes, kills in ((1, options.kills - of_two), (2, of_two)):
      began = time.monotonic()
      folder = pathlib.Path(temporary) / str(processes)
      chaos = Chaos(folder, processes, kills, options.seed)
      for event in chaos.run():
        print(event, flush=True)
      found = chaos.differences()
      print(
        f"{processes} process(es), {kills} kills,"
        f" {time.monotonic() - began:.0f} s: {found or 'bit for bit the same'}",
        flush=True,
      )
      differences += found
  return 1 if differences else 0


if __name__ == "__main__":
  sys.exit(main())
