"""Users in equal batches, so that few shapes are compiled."""

from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm


class Batching:
  """Splits users into batches that divide over devices.

  Attributes:
    batch: most users of a batch.
    devices: over which rows are split.
  """

  def __init__(self, batch: int, devices: int):
    self.devices = devices
    self.batch = -(-batch // devices) * devices

  def slices(self, users: int, progress: str = "") -> Iterator[slice]:
    """The batches; with a label, behind a progress bar."""
    starts = range(0, users, self.batch)
    bar = tqdm(
      starts, desc=progress, unit="batch", disable=not progress, leave=False
    )
    for start in bar:
      yield slice(start, min(start + self.batch, users))

  def size(self, users: int) -> int:
    """Rows of every batch of a call: few distinct ones are compiled."""
    size = min(self.batch, 1 << (users - 1).bit_length()) if users else 1
    return -(-size // self.devices) * self.devices


def pad(tree, size: int):
  """Arrays of fewer rows, filled up with nobody: -1 or False."""

  def fill(rows: np.ndarray) -> np.ndarray:
    width = ((0, size - len(rows)),) + ((0, 0),) * (rows.ndim - 1)
    empty = False if rows.dtype == bool else -1
    return np.pad(rows, width, constant_values=empty)

  return jax.tree.map(fill, tree)
