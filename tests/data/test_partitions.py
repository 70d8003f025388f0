"""Steps on partitions of users, put together, are the filters on all events."""

import collections
import dataclasses

import numpy as np
import pytest

from holorec_jax.data import filters, partitions, schema, shards
from holorec_jax.data.config import DataConfig

PARTITIONS = 3


def _shards(seed) -> list[schema.Events]:
  """Shards that share users and items, with few distinct times."""
  rng = np.random.default_rng(seed)
  found = []
  for num_events in (200, 1, 300):
    users = (35 * rng.random(num_events) ** 1.5).astype(int)
    items = (50 * rng.random(num_events) ** 2).astype(int)
    user_ids, users = np.unique(users, return_inverse=True)
    item_ids, items = np.unique(items, return_inverse=True)
    order = rng.permutation(len(user_ids))  # Not the order of their names.
    found.append(
      schema.Events(
        user_ids=np.array([f"u{u}" for u in user_ids], object)[order],
        item_ids=np.array([f"i{i}" for i in item_ids], object),
        users=np.argsort(order)[users].astype(np.int32),
        items=items.astype(np.int32),
        times_ms=rng.integers(0, 9, num_events),
        ratings=rng.integers(1, 6, num_events).astype(np.float32),
      )
    )
  return found


def _by_key(keyed):
  groups = collections.defaultdict(list)
  for key, value in keyed:
    groups[key].append(value)
  return groups


def _round(parts, bounds):
  counts = _by_key(
    pair
    for key, part in parts.items()
    for pair in partitions.count_items(part, key, PARTITIONS)
  )
  totals = _by_key(
    (total.partition, total)
    for group in counts.values()
    for total in partitions.add_up(group)
  )
  return {
    key: partitions.drop(part, totals[key], *bounds)
    for key, part in parts.items()
  }


def _assert_same(found: schema.Events, expected: schema.Events) -> None:
  users = np.unique(expected.users)
  np.testing.assert_array_equal(found.user_ids, expected.user_ids[users])
  np.testing.assert_array_equal(
    found.user_ids[found.users], expected.user_ids[expected.users]
  )
  np.testing.assert_array_equal(
    found.item_ids[found.items], expected.item_ids[expected.items]
  )
  np.testing.assert_array_equal(found.times_ms, expected.times_ms)
  np.testing.assert_array_equal(found.ratings, expected.ratings)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("duplicates", filters.DUPLICATES)
def test_partitions_put_together_are_the_whole(duplicates, seed):
  config = DataConfig(
    duplicates=duplicates, min_rating=2.0, k_core=5, min_length=6
  )
  read = _shards(seed)
  pieces = _by_key(
    pair
    for number, events in enumerate(read)
    for pair in partitions.by_user(events, number, PARTITIONS)
  )
  assert len(pieces) == PARTITIONS
  parts = {
    key: partitions.tidy(partitions.join(own), config)
    for key, own in pieces.items()
  }
  tidied = filters.tidy(shards.concat(read), config)
  _assert_same(partitions.number(list(parts.values())), tidied)

  bounds = filters.core_bounds(config)
  rounds = 0
  while rounds == 0 or any(part.removed for part in parts.values()):
    parts, rounds = _round(parts, bounds), rounds + 1
  assert rounds > 2, "one round has to be too few"
  core = filters.core_mask(tidied.users, tidied.items, *bounds)
  assert core.any()
  _assert_same(
    partitions.number(list(parts.values())), filters.take(tidied, core)
  )


def test_totals_count_every_partition():
  def count(partition, rows, ids, counts):
    return partitions.Counts(
      partition, np.array(rows), np.array(ids, object), np.array(counts)
    )

  found = partitions.add_up(
    [count(4, [0, 2], ["x", "y"], [1, 2]), count(1, [5], ["y"], [3])]
  )
  first, second = (dataclasses.astuple(total) for total in found)
  for total, expected in (
    (first, (4, [0, 2], ["x", "y"], [1, 5])),
    (second, (1, [5], ["y"], [5])),
  ):
    for a, b in zip(total, expected):
      np.testing.assert_array_equal(a, b)
