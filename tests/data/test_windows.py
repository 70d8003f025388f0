"""Windows of the next training items: literal, cut at the boundary."""

import numpy as np

from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split
from holorec_jax.data.windows import TargetWindows, next_events

# Two training events that matter, then held-out ones (90 and more); a user
# with one training event has no target.
ITEMS = np.array([1, 2, 3, 4, 90, 91, 5, 92, 93, 6, 7, 94, 95], np.int32)
OFFSETS = np.array([0, 6, 9, 13])
TRAIN_END = np.array([4, 1, 2])


def make_windows(rows=4, max_history=2, window=3, seed=0, share=(0, 1)):
  dataset = Dataset("made", np.arange(96), {}, np.arange(3), OFFSETS, ITEMS)
  split = Split(TRAIN_END, TRAIN_END, TRAIN_END + 1)
  return TargetWindows(dataset, split, rows, max_history, window, seed, share)


def test_next_events():
  found = next_events(ITEMS, np.array([1, 3, 4]), np.array([4, 4, 4]), 2)
  assert found.tolist() == [[2, 3], [4, -1], [-1, -1]]
  assert found.dtype == np.int32


def test_every_target_with_its_window():
  windows = make_windows()
  assert windows.num_targets == 4
  batch = windows.at(np.arange(4))
  assert batch["item_BT"].tolist() == [[1, -1], [1, 2], [2, 3], [6, -1]]
  assert batch["target_BW"].tolist() == [
    [2, 3, 4],
    [3, 4, -1],
    [4, -1, -1],
    [7, -1, -1],
  ]


def test_a_batch_depends_on_its_number_and_the_seed():
  first, again, other = (
    make_windows(64),
    make_windows(64),
    make_windows(64, seed=1),
  )
  np.testing.assert_array_equal(first[5]["item_BT"], again[5]["item_BT"])
  assert (first[5]["target_BW"] != first[6]["target_BW"]).any()
  assert (first[5]["target_BW"] != other[5]["target_BW"]).any()


def test_all_targets_are_as_likely_and_nothing_held_out_is_seen():
  batch = make_windows(8000)[0]
  shown = np.concatenate([batch["item_BT"], batch["target_BW"]], axis=1)
  assert shown.max() < 90
  counts = np.bincount(batch["target_BW"][:, 0], minlength=8)
  assert (counts[[2, 3, 4, 7]] > 1850).all()
  assert counts.sum() == counts[[2, 3, 4, 7]].sum()


def test_shares_of_a_batch_are_the_batch():
  whole = make_windows(12)[3]
  for count in (2, 3):
    shares = [make_windows(12, share=(i, count))[3] for i in range(count)]
    for name, expected in whole.items():
      found = np.concatenate([share[name] for share in shares])
      np.testing.assert_array_equal(found, expected)
