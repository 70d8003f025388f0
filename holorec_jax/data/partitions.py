"""Users in partitions: the steps of preparation that need not see all events.

Every function is columnar and pure, and each step's result, put together, is
what `filters` gives on all events at once. Whoever has several workers
(`beam`) only carries what these functions hand over:

  by_user -> join -> tidy -> (count_items -> add_up -> drop) * rounds -> number
"""

import dataclasses
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from holorec_jax.data import filters, schema, shards
from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import columns


@dataclasses.dataclass(frozen=True)
class Part:
  """All events of some users.

  Attributes:
    events: of these users only.
    seen: (U,) int64, where each user was first seen: shard << 32 | row of the
      shard's `user_ids`. In this order the local executor numbers users.
    removed: how many events the last round of the core took.
  """

  events: schema.Events
  seen: np.ndarray
  removed: int = 0


@dataclasses.dataclass(frozen=True)
class Counts:
  """How many events of some items there are.

  Attributes:
    partition: whose `item_ids` the rows are of.
    rows: (N,) int64.
    ids: (N,) str.
    counts: (N,) int64.
  """

  partition: int
  rows: np.ndarray
  ids: np.ndarray
  counts: np.ndarray


def by_user(
  events: schema.Events, shard: int, partitions: int
) -> Iterator[tuple[int, Part]]:
  """A shard's events by the partition of their user, in order."""
  seen = (shard << 32) + np.arange(len(events.user_ids))
  buckets = _buckets(events.user_ids, partitions)[events.users]
  for partition, index in _group(buckets):
    yield partition, _compact(Part(filters.take(events, index), seen))


def join(parts: list[Part]) -> Part:
  """What the shards, in order, have of one partition."""
  # By first appearance, as `concat` numbers them.
  seen: dict[str, int] = {}
  for part in parts:
    for user, place in zip(part.events.user_ids, part.seen.tolist()):
      seen.setdefault(user, place)
  events = shards.concat([part.events for part in parts])
  return Part(events, np.fromiter(seen.values(), np.int64, len(seen)))


def tidy(part: Part, config: DataConfig) -> Part:
  """`filters.tidy` of one partition."""
  return _compact(Part(filters.tidy(part.events, config), part.seen))


def count_items(
  part: Part, partition: int, partitions: int
) -> Iterator[tuple[int, Counts]]:
  """A partition's item counts, by the partition of the item."""
  ids = part.events.item_ids
  counts = np.bincount(part.events.items, minlength=len(ids))
  for target, rows in _group(_buckets(ids, partitions)):
    yield target, Counts(partition, rows, ids[rows], counts[rows])


def add_up(parts: list[Counts]) -> Iterator[Counts]:
  """The same items' counts over all partitions, for each that asked."""
  ids = np.concatenate([part.ids for part in parts])
  distinct, rows = columns.encode(pa.array(ids, pa.string()))
  totals = np.zeros(len(distinct), np.int64)
  np.add.at(totals, rows, np.concatenate([part.counts for part in parts]))
  ends = np.cumsum([len(part.ids) for part in parts])
  for part, own in zip(parts, np.split(rows, ends[:-1])):
    yield dataclasses.replace(part, counts=totals[own])


def drop(
  part: Part, totals: Iterable[Counts], min_user: int, min_item: int
) -> Part:
  """A partition without users and items of too few events: one round."""
  events = part.events
  counts = np.zeros(len(events.item_ids), np.int64)
  for total in totals:
    counts[total.rows] = total.counts
  mask = filters.core_round(
    events.users, events.items, counts, min_user, min_item
  )
  removed = int(np.count_nonzero(~mask))
  return _compact(Part(filters.take(events, mask), part.seen, removed))


def number(parts: list[Part]) -> schema.Events:
  """One `Events` of all users, numbered and grouped as locally."""
  events = shards.concat([part.events for part in parts])
  rank = np.argsort(np.concatenate([part.seen for part in parts]))
  renumber = np.empty(len(rank), np.int32)
  renumber[rank] = np.arange(len(rank), dtype=np.int32)
  users = renumber[events.users]
  numbered = dataclasses.replace(
    events, user_ids=events.user_ids[rank], users=users
  )
  return filters.take(numbered, np.argsort(users, kind="stable"))


def _buckets(ids: np.ndarray, partitions: int) -> np.ndarray:
  """(N,) int32 partition of each id, the same in every process."""
  hashes = (zlib.crc32(value.encode()) % partitions for value in ids)
  return np.fromiter(hashes, np.int32, len(ids))


def _group(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """(key, ascending positions that have it) of each key."""
  order = np.argsort(keys, kind="stable")
  for index in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
    if len(index):
      yield int(keys[index[0]]), index


def _compact(part: Part) -> Part:
  """Without users and items that have no events."""
  used = np.unique(part.events.users)
  return Part(shards.compact(part.events), part.seen[used], part.removed)
