"""Histories per second that the host's input pipeline assembles.

The source and the loader are those of the training loop (`data.pipeline`), and
nothing trains on what they yield. Whole epochs follow each other without a
break, so shuffling is paid for and what the loader read ahead is neither given
nor taken. The first turn is not timed: its batches are counted instead.
"""

import time

import numpy as np

from holorec_jax import sharding
from holorec_jax.data import pipeline, splits
from holorec_jax.experiment import timing
from holorec_jax.experiment.speed_cases import Case

# Least batches of a timed turn.
TURN_BATCHES = 200


def measure(
  case: Case,
  side: str,
  config: pipeline.PipelineConfig,
  devices: int,
  repeats: int,
) -> timing.Row:
  """Times turns of whole epochs.

  Args:
    case: whose training targets are read.
    side: of the row.
    config: form of the batches.
    devices: that they would be split over.
    repeats: timed turns.

  Returns:
    The row, with targets_per_second, bytes_per_second, batches_per_second and
    padding, the share of history slots without an item, the rows that fill up
    an epoch's last batch of a shape included. A history is a row's one with
    one_target, one of a row's several if packed.
  """
  split = splits.split_dataset(case.dataset, splits.SplitConfig())
  source = pipeline.make_source(case.dataset, split, config, devices)
  iterator = pipeline.make_iterator(source)
  epochs = -(-TURN_BATCHES // source.batches_per_epoch)
  batches = epochs * source.batches_per_epoch
  histories = size = slots = filled = 0
  for _ in range(batches):
    batch = next(iterator)
    histories += _count_histories(batch["segment_BT"])
    slots += batch["segment_BT"].size
    filled += int((batch["segment_BT"] > 0).sum())
    size += sum(array.nbytes for array in batch.values())
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    for _ in range(batches):
      next(iterator)
    seconds.append(time.perf_counter() - began)
  row = timing.make_row(case.name, side, "histories", histories, seconds)
  turns_per_second = row["median"] / histories
  targets = epochs * source.targets_per_epoch * turns_per_second
  padding = 1.0 - filled / slots
  return row | {
    "targets_per_second": targets,
    "padding": padding,
    "bytes_per_second": size * turns_per_second,
    "batches_per_second": batches * turns_per_second,
    "note": f"{targets:,.0f} targets/s in batches of {source.rows_per_batch}"
    f" rows, padding {padding:.1%}",
  }


def _count_histories(segment_BT: np.ndarray) -> int:
  """Segments are numbered from 1 in every row."""
  return int(segment_BT.max(axis=1).sum())


def compare(case: Case, repeats: int) -> timing.Result:
  """All sides of a case."""
  devices = sharding.make_mesh().size
  return timing.Result(
    [
      measure(case, side, config, devices, repeats)
      for side, configs in case.sides.items()
      for config in configs
    ]
  )
