"""Seconds and memory that preparing a CSV of events takes.

The file is generated (random users, items, increasing times), then read,
filtered to its 5-core and numbered as `launch/prepare_data.py` does, in a fresh
process, whose peak of resident memory is that of preparation alone.
"""

import concurrent.futures
import multiprocessing
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.csv

from holorec_jax.data import prepare
from holorec_jax.data.config import DataConfig

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


def measure(events: int) -> dict[str, float]:
  """Writes and prepares `events` events.

  Returns:
    events, kept (after the 5-core), seconds, events_per_second, peak_bytes.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "events.csv"
    _in_fresh_process(write_events, path, events)
    kept, seconds, peak_bytes = _in_fresh_process(_prepare, path)
  return {
    "events": events,
    "kept": kept,
    "seconds": seconds,
    "events_per_second": events / seconds,
    "peak_bytes": peak_bytes,
  }


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
