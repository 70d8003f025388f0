"""Seconds and memory that preparing a CSV of events takes.

The file is generated (random users, items, increasing times), then read,
filtered to its 5-core and numbered as `launch/prepare_data.py` does, in a fresh
process, whose peak of resident memory is that of preparation alone.
"""

import concurrent.futures
import multiprocessing
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from holorec_jax.data import prepare
from holorec_jax.data.config import DataConfig
from holorec_jax.experiment import timing

EVENTS_PER_USER = 10
EVENTS_PER_ITEM = 50


def write_events(path: pathlib.Path, events: int) -> None:
  """A CSV of user, item, timestamp with a header."""
  rng = np.random.default_rng(0)
  users = rng.integers(0, -(-events // EVENTS_PER_USER), events)
  items = rng.integers(0, -(-events // EVENTS_PER_ITEM), events)
  times = 1_500_000_000 + np.arange(events)
  pyarrow.csv.write_csv(
    pa.table({"user": users, "item": items, "timestamp": times}), path
  )


def measure(events: int, repeats: int) -> timing.Result:
  """Writes `events` events and prepares them `repeats` times.

  There is no warm-up: whoever prepares starts a process, too, and the file has
  just been written.

  Returns:
    One row with kept (events after the 5-core), seconds and peak_bytes, the
    largest.
  """
  taken, peaks = [], []
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "events.csv"
    _in_fresh_process(write_events, path, events)
    for _ in tqdm(range(repeats), desc="prepare", unit="run"):
      kept, seconds, peak_bytes = _in_fresh_process(_prepare, path)
      taken.append(seconds)
      peaks.append(peak_bytes)
  name = f"CSV of {events:,} events"
  row = timing.make_row(name, "prepare", "events", events, taken)
  seconds, peak = statistics.median(taken), max(peaks)
  note = (
    f"{kept:,} left in the 5-core; {seconds:.1f} s, peak memory"
    f" {peak / 2**30:.2f} GiB"
  )
  return timing.Result(
    [
      row
      | {
        "events": events,
        "kept": kept,
        "seconds": seconds,
        "peak_bytes": peak,
        "note": note,
      }
    ]
  )


def _in_fresh_process(function: Callable, *args):
  """Neither the file's making nor this process counts as peak memory."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, spawn) as fresh:
    return fresh.submit(function, *args).result()


def _prepare(path: pathlib.Path) -> tuple[int, float, int]:
  config = DataConfig(source="events", path=str(path), k_core=5)
  began = time.perf_counter()
  dataset = prepare.prepare(config)
  seconds = time.perf_counter() - began
  # Linux counts kilobytes.
  peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return dataset.num_events, seconds, peak_bytes
