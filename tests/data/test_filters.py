"""Filters on literal events, and the k-core against a slow oracle."""

import collections

import numpy as np
import pytest

from holorec_jax.data import filters, schema
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError


def _events(users, items, times=None, ratings=None) -> schema.Events:
  return schema.Events(
    user_ids=np.array([f"u{u}" for u in range(max(users) + 1)], object),
    item_ids=np.array([f"i{i}" for i in range(max(items) + 1)], object),
    users=np.array(users, np.int32),
    items=np.array(items, np.int32),
    times_ms=None if times is None else np.array(times),
    ratings=None if ratings is None else np.array(ratings, np.float32),
  )


def test_equal_times_keep_file_order():
  events = _events([1, 0, 1, 0, 1], [0, 1, 2, 3, 4], [7, 5, 7, 3, 6])
  ordered = filters.order(events)
  np.testing.assert_array_equal(ordered.users, [0, 0, 1, 1, 1])
  np.testing.assert_array_equal(ordered.items, [3, 1, 4, 0, 2])
  no_times = filters.order(_events([1, 0, 1], [5, 5, 4]))
  np.testing.assert_array_equal(no_times.items, [5, 5, 4])


@pytest.mark.parametrize(
  ("policy", "expected"),
  [
    ("keep", [4, 4, 2, 4, 4, 2]),
    ("first", [4, 2, 4, 2]),
    ("consecutive", [4, 2, 4, 4, 2]),
  ],
)
def test_duplicates(policy, expected):
  events = _events([0, 0, 0, 0, 1, 1], [4, 4, 2, 4, 4, 2])
  config = DataConfig(duplicates=policy, min_length=0)
  found = filters.apply_filters(events, config)
  np.testing.assert_array_equal(found.items, expected)


def test_rating_threshold():
  events = _events([0, 0, 0], [0, 1, 2], ratings=[4.0, 3.5, 5.0])
  config = DataConfig(min_rating=4.0, min_length=0)
  found = filters.apply_filters(events, config)
  np.testing.assert_array_equal(found.items, [0, 2])
  with pytest.raises(UserError, match="needs ratings"):
    filters.apply_filters(_events([0], [0]), config)


def test_core_agrees_with_removing_one_by_one():
  rng = np.random.default_rng(0)
  users = rng.integers(0, 30, 150)
  items = (30 * rng.random(150) ** 2).astype(int)
  for min_user, min_item in ((1, 0), (4, 0), (2, 6), (5, 5), (9, 9)):
    left = list(zip(users.tolist(), items.tolist()))
    while True:
      u = collections.Counter(a for a, _ in left)
      i = collections.Counter(b for _, b in left)
      fewer = [(a, b) for a, b in left if u[a] >= min_user and i[b] >= min_item]
      if fewer == left:
        break
      left = fewer
    mask = filters.core_mask(users, items, min_user, min_item)
    assert list(zip(users[mask].tolist(), items[mask].tolist())) == left


def test_nothing_left_or_bad_policy():
  events = _events([0, 0, 1], [0, 1, 0])
  message = "k_core=5, min_length=3 leave nothing of 3 events of 2 users and 2"
  with pytest.raises(UserError, match=message):
    filters.apply_filters(events, DataConfig(k_core=5))
  with pytest.raises(UserError, match="expected one of"):
    filters.apply_filters(events, DataConfig(duplicates="latest"))


def test_the_filter_that_takes_the_last_event_is_named():
  rated = _events([0, 0], [0, 1], ratings=[1.5, np.nan])
  message = r"min_rating=2 leaves nothing of 2 events: the highest .* 1\.5; low"
  with pytest.raises(UserError, match=message):
    filters.apply_filters(rated, DataConfig(min_rating=2.0))
  none = filters.take(rated, np.zeros(2, bool))
  with pytest.raises(
    UserError, match=r"r\.csv: no events in it; set data\.path"
  ):
    filters.apply_filters(none, DataConfig(source="events", path="r.csv"))
