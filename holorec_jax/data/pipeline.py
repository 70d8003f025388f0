"""Training batches: one Grain record is one whole batch.

Order comes from the index alone (epoch = index // batches per epoch, shuffled
by (seed, epoch)), so the iterator's state is a small JSON and resuming is
exact. Two forms of the same targets: `packed` trains every position of the
packed histories at once; `one_target` makes a row of each (history, target)
pair, in batches of like lengths, as the papers do.

Of several processes each assembles its own share of a batch's rows. Size and
order of the whole batches do not depend on their number, so a run can go on
with another one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal

import grain.python as grain
import numpy as np

from holorec_jax.data import packing
from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split
from holorec_jax.errors import UserError
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
  """How histories become batches.

  Attributes:
    rows: "packed" (all positions) or "one_target".
    max_history: most items of a history.
    targets_per_batch: targets of a batch, about; rounded up to whole rows on
      every device.
    slots_per_row: length of a packed row; 0 takes the least multiple of
      max_history from 16 on. Rows of another multiple leave slots empty behind
      full windows; longer ones spend attention on histories that are masked.
    length_buckets: history lengths that one_target rows are padded to, in
      ascending order; the last must be max_history.
    seed: of the order.
  """

  rows: Literal["packed", "one_target"] = "packed"
  max_history: int = 20
  targets_per_batch: int = 1024
  slots_per_row: int = 0
  length_buckets: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16, 20)
  seed: int = 0

  def __post_init__(self):
    check_ranges(
      self,
      "config.input",
      max_history="[1, inf)",
      targets_per_batch="[1, inf)",
      slots_per_row="[0, inf)",
      seed="[0, inf)",
    )
    longest = self.max_history
    if self.rows == "packed" and 0 < self.slots_per_row < longest:
      raise UserError(
        f"config.input.slots_per_row is {self.slots_per_row}, less than"
        f" config.input.max_history = {longest}: a history must fit into a"
        " row. Raise slots_per_row, or set it to 0."
      )
    if self.rows != "one_target":
      return
    self._check_buckets()

  def _check_buckets(self):
    longest, buckets = self.max_history, self.length_buckets
    if list(buckets) != sorted({b for b in buckets if b > 0}) or not buckets:
      raise UserError(
        f"config.input.length_buckets is {buckets}; expected lengths that grow"
        f" from 1 or more to config.input.max_history = {longest}."
      )
    if buckets[-1] != longest:
      raise UserError(
        f"config.input.length_buckets ends at {buckets[-1]}; the last bucket"
        f" must be config.input.max_history = {longest}."
      )

  @property
  def packed_slots(self) -> int:
    """Length of a packed row."""
    return self.slots_per_row or self.max_history * -(-16 // self.max_history)


class PackedBatches(grain.RandomAccessDataSource):
  """Batch i of an endless run over the packed training histories."""

  def __init__(
    self,
    dataset: Dataset,
    split: Split,
    config: PipelineConfig,
    devices: int,
    share: tuple[int, int],
  ):
    self._items = dataset.items
    self._seed, self._longest = config.seed, config.max_history
    self._windows = packing.cut_windows(
      dataset.offsets, split.train_end, config.max_history
    )
    self.rows_per_batch, self._capacity = batch_shape(config, devices)
    self._plan = packing.plan_packing(self._windows.length, self._capacity)
    self._own = _own_rows(self.rows_per_batch, share)
    self.batches_per_epoch = -(-self._plan.num_rows // self.rows_per_batch)
    filled = int(self._windows.length.sum(dtype=np.int64))
    self.targets_per_epoch = filled - int(self._windows.context.sum())
    slots = self.batches_per_epoch * self.rows_per_batch * self._capacity
    self.padding_share = 1.0 - filled / slots
    self._epoch = functools.lru_cache(maxsize=2)(self._deal)

  def __len__(self) -> int:
    return np.iinfo(np.int32).max

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    epoch, batch = divmod(index, self.batches_per_epoch)
    first, size = batch * self.rows_per_batch + self._own[0], len(self._own)
    event_RT, segment_RT, weight_RT = packing.lay_rows(
      self._windows,
      self._plan,
      self._epoch(epoch),
      slice(first, first + size),
      self._capacity,
    )
    event_BT = _pad_rows(event_RT, size, -1)
    filled_BT = event_BT >= 0
    last_T = np.arange(self._capacity, dtype=np.int32)
    return {
      "item_BT": np.where(filled_BT, self._items[event_BT], -1),
      "segment_BT": _pad_rows(segment_RT, size, 0),
      "last_BN": np.broadcast_to(last_T, event_BT.shape),
      "target_BN": np.where(
        filled_BT, self._items[(event_BT + 1) * filled_BT], -1
      ),
      "weight_BN": _pad_rows(weight_RT, size, 0),
    }

  def _deal(self, epoch: int) -> packing.Deal:
    rng = np.random.default_rng((self._seed, epoch))
    return packing.deal(self._windows, self._plan, rng)

  def advise(self) -> str:
    """What would leave fewer slots empty, if they are more than a tenth; ""."""
    lengths, longest = self._windows.length, self._longest
    share = packing.empty_share(lengths, self._capacity)
    if share <= 0.1:
      return ""
    others = {
      slots: packing.empty_share(lengths, slots)
      for slots in (longest, 2 * longest, 4 * longest, 8 * longest)
    }
    best = min(others, key=others.__getitem__)
    slots = next((s for s, other in others.items() if other <= 0.1), best)
    if others[slots] >= share:
      return ""
    return (
      f"{share:.0%} of the slots of packed rows are empty;"
      f" config.input.slots_per_row={slots} would leave {others[slots]:.0%}"
    )

  def __repr__(self) -> str:
    return f"PackedBatches({self.rows_per_batch} x {self._capacity} slots)"


class OneTargetBatches(grain.RandomAccessDataSource):
  """Batch i of an endless run over (history, target) pairs."""

  def __init__(
    self,
    dataset: Dataset,
    split: Split,
    config: PipelineConfig,
    devices: int,
    share: tuple[int, int],
  ):
    if config.length_buckets[-1] != config.max_history:
      raise UserError(
        f"input.length_buckets ends at {config.length_buckets[-1]}; the last"
        f" bucket must be input.max_history = {config.max_history}."
      )
    self._items = dataset.items
    self._seed = config.seed
    pairs_U = np.maximum(split.train_end - 1, 0)
    within = np.arange(pairs_U.sum()) - np.repeat(
      np.cumsum(pairs_U) - pairs_U, pairs_U
    )
    self._target = np.repeat(dataset.offsets[:-1], pairs_U) + within + 1
    self._length = np.minimum(within + 1, config.max_history)
    self._buckets = np.asarray(config.length_buckets)
    bucket = np.searchsorted(self._buckets, self._length)
    self._members = [
      np.flatnonzero(bucket == b) for b in range(len(self._buckets))
    ]
    self.rows_per_batch, _ = batch_shape(config, devices)
    rows = self.rows_per_batch
    self._own = _own_rows(rows, share)
    counts = [-(-len(members) // rows) for members in self._members]
    self._batch_bucket = np.repeat(np.arange(len(counts)), counts)
    self._batch_rank = np.concatenate([np.arange(n) for n in counts])
    self.batches_per_epoch = len(self._batch_bucket)
    self.targets_per_epoch = len(self._target)
    tokens = rows * self._buckets[self._batch_bucket].sum()
    self.padding_share = 1.0 - self._length.sum() / tokens
    self._epoch = functools.lru_cache(maxsize=2)(self._shuffle)

  def __len__(self) -> int:
    return np.iinfo(np.int32).max

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    epoch, batch = divmod(index, self.batches_per_epoch)
    members, order = self._epoch(epoch)
    bucket, rank = (
      self._batch_bucket[order[batch]],
      self._batch_rank[order[batch]],
    )
    first = rank * self.rows_per_batch + self._own[0]
    pair_B = members[bucket][first : first + len(self._own)]
    return self._rows(pair_B, int(self._buckets[bucket]))

  def _rows(self, pair_B: np.ndarray, width: int) -> dict[str, np.ndarray]:
    length_B = _pad_rows(self._length[pair_B], len(self._own), 0)
    target_B = _pad_rows(self._target[pair_B], len(self._own), 0)
    slot_T = np.arange(width)
    filled_BT = slot_T < length_B[:, None]
    event_BT = (target_B - length_B)[:, None] + slot_T
    used_B = length_B > 0
    return {
      "item_BT": np.where(filled_BT, self._items[event_BT * filled_BT], -1),
      "segment_BT": filled_BT.astype(np.int32),
      "last_BN": np.maximum(length_B - 1, 0).astype(np.int32)[:, None],
      "target_BN": np.where(used_B, self._items[target_B], -1)[:, None],
      "weight_BN": used_B.astype(np.float32)[:, None],
    }

  def advise(self) -> str:
    """As of packed rows; their lengths are what the config says."""
    return ""

  def _shuffle(self, epoch: int):
    rng = np.random.default_rng((self._seed, epoch))
    members = [rng.permutation(m) for m in self._members]
    return members, rng.permutation(self.batches_per_epoch)

  def __repr__(self) -> str:
    return f"OneTargetBatches({self.rows_per_batch} rows)"


Source = PackedBatches | OneTargetBatches
SOURCES: dict[str, Callable[..., Source]] = {
  "packed": PackedBatches,
  "one_target": OneTargetBatches,
}


def batch_shape(config: PipelineConfig, devices: int) -> tuple[int, int]:
  """Rows of a batch and slots of a row, those of the longest bucket.

  Args:
    config: form and size of the batches.
    devices: that share the rows. There are as many for 1, 2, 4 and 8, so that
      runs can move among them.
  """
  slots, rows = config.max_history, config.targets_per_batch
  if config.rows == "packed":
    slots = config.packed_slots
    rows = -(-config.targets_per_batch // slots)
  multiple = math.lcm(8, devices)
  return -(-rows // multiple) * multiple, slots


def _own_rows(rows: int, share: tuple[int, int]) -> range:
  """Rows of a batch that process `share[0]` of `share[1]` assembles."""
  index, count = share
  if rows % count:
    raise UserError(
      f"a batch has {rows} rows, which {count} processes cannot share evenly:"
      " use a number of processes that divides it, or change"
      " config.input.targets_per_batch"
    )
  size = rows // count
  return range(index * size, (index + 1) * size)


def _pad_rows(array: np.ndarray, rows: int, fill: int) -> np.ndarray:
  if len(array) == rows:
    return array  # As most are; np.pad takes longer than all the rest.
  missing = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
  return np.pad(array, missing, constant_values=fill)


def make_source(
  dataset: Dataset,
  split: Split,
  config: PipelineConfig,
  devices: int,
  share: tuple[int, int] = (0, 1),
) -> Source:
  """The batch source that `config.rows` names.

  Args:
    dataset: canonical interactions.
    split: which events train.
    config: form and size of the batches.
    devices: rows of a batch are a multiple of this, and of 8.
    share: (index, count) of the processes that share a batch's rows; index i
      gets the i-th of count equal blocks of them.

  Raises:
    UserError: unknown form, nothing to train on, or rows that the processes
      cannot share evenly.
  """
  if config.rows not in SOURCES:
    raise UserError(
      f"input.rows is {config.rows!r}, expected one of {sorted(SOURCES)}"
    )
  if not np.any(split.train_end >= 2):
    raise UserError(
      f"data set {dataset.name!r}: no user has two training events, so there"
      " is nothing to train on. Use a data set with longer histories, or filter"
      " less (data.k_core, data.min_rating, data.duplicates)."
    )
  return SOURCES[config.rows](dataset, split, config, devices, share)


def make_iterator(source) -> grain.DatasetIterator:
  """Batches in order, read ahead by threads; its state is a small JSON."""
  read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
  return iter(grain.MapDataset.source(source).to_iter_dataset(read))
