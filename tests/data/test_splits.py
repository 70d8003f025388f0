"""Targets and histories, and that nothing of the future is in them."""

import numpy as np
import pytest

from holorec_jax.data import schema, splits
from holorec_jax.errors import UserError


def _dataset(histories, times=None) -> schema.Dataset:
  lengths = [len(h) for h in histories]
  items = np.concatenate(histories).astype(np.int32)
  return schema.Dataset(
    name="tiny",
    item_ids=np.array([str(i) for i in range(items.max() + 1)], object),
    item_text={},
    user_ids=np.array([f"u{u}" for u in range(len(histories))], object),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
    items=items,
    timestamps=None if times is None else np.concatenate(times),
  )


def test_leave_one_out():
  dataset = _dataset([[3, 1, 2, 0], [1, 2], [0, 3, 1], [2]])
  split = splits.split_dataset(dataset, splits.SplitConfig())
  np.testing.assert_array_equal(split.train_end, [2, 2, 1, 1])
  np.testing.assert_array_equal(split.valid, [2, -1, 1, -1])
  np.testing.assert_array_equal(split.test, [3, -1, 2, -1])
  users, items = splits.train_events(dataset, split)
  np.testing.assert_array_equal(users, [0, 0, 1, 1, 2, 3])
  np.testing.assert_array_equal(items, [3, 1, 1, 2, 0, 2])
  counts = splits.train_item_counts(dataset, split)
  np.testing.assert_array_equal(counts, [1, 2, 2, 1])


def test_global_time_with_given_windows():
  dataset = _dataset(
    [[0, 1, 2, 3], [0, 1], [2, 3], [1, 2, 3], [0]],
    [[10, 20, 21, 30], [10, 30], [20, 31], [10, 19, 19], [30]],
  )
  config = splits.SplitConfig("global_time", valid_start=20, test_start=30)
  split = splits.split_dataset(dataset, config)
  np.testing.assert_array_equal(split.train_end, [1, 1, 0, 3, 0])
  # User 2's first event is in the validation window: nothing to go by. Its
  # test target has that event as history.
  np.testing.assert_array_equal(split.valid, [1, -1, -1, -1, -1])
  np.testing.assert_array_equal(split.test, [3, 1, 1, -1, -1])
  _, items = splits.train_events(dataset, split)
  np.testing.assert_array_equal(items, [0, 0, 1, 2, 3])


def test_global_time_shares_never_leak():
  rng = np.random.default_rng(0)
  times = [np.sort(rng.integers(0, 50, n)) for n in rng.integers(1, 30, 80)]
  dataset = _dataset([rng.integers(0, 9, len(t)) for t in times], times)
  config = splits.SplitConfig("global_time", valid_share=0.2, test_share=0.1)
  split = splits.split_dataset(dataset, config)
  trained = np.concatenate([t[:e] for t, e in zip(times, split.train_end)])
  valid = [t[p] for t, p in zip(times, split.valid) if p >= 0]
  test = [t[p] for t, p in zip(times, split.test) if p >= 0]
  before_test = [t[p - 1] for t, p in zip(times, split.test) if p >= 0]
  assert trained.max() < min(valid) <= max(valid) < min(test)
  assert max(before_test) < min(test)
  assert abs(len(trained) / dataset.num_events - 0.7) < 0.05


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (splits.SplitConfig("random"), "'random', expected one of"),
    (splits.SplitConfig("global_time", valid_share=0.9, test_share=0.2), "sum"),
    (splits.SplitConfig("global_time", valid_start=99), "windows are empty"),
    (
      splits.SplitConfig("global_time", valid_start=5, test_start=4),
      "windows are empty",
    ),
  ],
)
def test_bad_splits(config, message):
  dataset = _dataset([[0, 1, 2]], [[1, 5, 9]])
  with pytest.raises(UserError, match=message):
    splits.split_dataset(dataset, config)


def test_too_short_for_the_split():
  dataset = _dataset([[0, 1], [1]])
  with pytest.raises(UserError, match="longest of 2 users has 2 events"):
    splits.split_dataset(dataset, splits.SplitConfig())
  with pytest.raises(UserError, match="no timestamps"):
    splits.split_dataset(dataset, splits.SplitConfig("global_time"))
