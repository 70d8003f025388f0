"""Packing: every target once, no overlaps, little padding, any lengths."""

import itertools

import numpy as np
import pytest

from holorec_jax.data.packing import (
  Windows,
  cut_windows,
  deal,
  lay_rows,
  plan_packing,
)


def make_lengths(seed: int, users: int = 300, mean: float = 7.0) -> np.ndarray:
  """Training events per user: none, one, and a long tail."""
  rng = np.random.default_rng(seed)
  lengths = rng.geometric(1 / mean, users)
  lengths[:4] = [0, 1, 2, 150]
  return lengths


def offsets_of(train_end: np.ndarray, behind: int = 2) -> np.ndarray:
  """Users' events, with events behind the training ones."""
  return np.concatenate([[0], np.cumsum(train_end + behind)])


@pytest.mark.parametrize("max_history", [1, 2, 3, 5, 20, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_windows_ask_for_every_target_exactly_once(max_history, seed):
  train_end = make_lengths(seed)
  offsets = offsets_of(train_end)
  windows = cut_windows(offsets, train_end, max_history)
  assert windows.length.max() <= max_history
  assert windows.length.min() >= 1 and windows.context.min() >= 0
  asked = [
    start + slot + 1
    for start, length, context in zip(
      windows.start, windows.length, windows.context
    )
    for slot in range(context, length)
  ]
  expected = [
    offsets[user] + position
    for user, end in enumerate(train_end)
    for position in range(1, end)
  ]
  assert sorted(asked) == expected
  # A window never reaches over the border of its user's training events.
  user_W = np.searchsorted(offsets, windows.start, side="right") - 1
  last_target_W = windows.start + windows.length
  assert (last_target_W < offsets[user_W] + train_end[user_W]).all()
  # A target of a long history sees at least half of what it may see.
  begins_W = windows.start == offsets[user_W]
  seen_W = windows.context[~begins_W] + 1
  assert (seen_W > max_history // 2).all()


def test_windows_by_hand():
  # 9 training events: 8 slots; 4 to a window, of which 2 ask anew.
  windows = cut_windows(np.array([10, 21, 23]), np.array([9, 1]), 4)
  assert windows.start.tolist() == [10, 12, 14]
  assert windows.length.tolist() == [4, 4, 4]
  assert windows.context.tolist() == [0, 2, 2]


@pytest.mark.parametrize("capacity", [20, 23, 32, 64])
def test_plan_holds_every_window_once_within_its_row(capacity):
  rng = np.random.default_rng(capacity)
  lengths = np.minimum(rng.geometric(0.2, 500), 20)
  plan = plan_packing(lengths, capacity)
  assert sorted(plan.rank) == list(range(500))
  assert plan.first[0] == 0 and plan.first[-1] == 500
  places_R = np.split(np.sort(lengths)[plan.rank], plan.first[1:-1])
  assert len(places_R) == plan.num_rows
  for length_P in places_R:
    assert 0 < length_P.sum() <= capacity


def test_plan_of_nothing():
  assert plan_packing(np.zeros(0, int), 8).num_rows == 0


@pytest.mark.parametrize("mean", [3.0, 7.0, 15.0, 100.0])
def test_rows_that_hold_whole_windows_are_nearly_full(mean):
  train_end = make_lengths(2, users=3000, mean=mean)
  windows = cut_windows(offsets_of(train_end), train_end, 20)
  plan = plan_packing(windows.length, 40)
  assert 1 - windows.length.sum() / (plan.num_rows * 40) < 0.02


def pack_epoch(windows, plan, capacity, rng, rows=slice(None)):
  dealt = deal(windows, plan, rng)
  return lay_rows(windows, plan, dealt, rows, capacity)


def test_an_epoch_deals_all_windows():
  train_end = make_lengths(3)
  windows = cut_windows(offsets_of(train_end), train_end, 20)
  plan = plan_packing(windows.length, 32)
  event_RT, segment_RT, weight_RT = pack_epoch(
    windows, plan, 32, np.random.default_rng(0)
  )
  assert event_RT.shape == (plan.num_rows, 32)
  assert ((event_RT >= 0) == (segment_RT > 0)).all()
  found = []
  for event_T, segment_T, weight_T in zip(event_RT, segment_RT, weight_RT):
    for segment in range(1, segment_T.max() + 1):
      own = segment_T == segment
      events = event_T[own]
      # A history is one stretch of slots and one stretch of events.
      assert (np.diff(np.flatnonzero(own)) == 1).all()
      assert (np.diff(events) == 1).all()
      context = int((weight_T[own] == 0).sum())
      assert weight_T[own].tolist() == [0] * context + [1] * (
        len(events) - context
      )
      found.append((events[0], len(events), context))
  expected = zip(windows.start, windows.length, windows.context)
  assert sorted(found) == sorted(expected)
  assert (weight_RT[event_RT < 0] == 0).all()


def test_epochs_differ_and_repeat_by_their_generator():
  train_end = make_lengths(4)
  windows = cut_windows(offsets_of(train_end), train_end, 20)
  plan = plan_packing(windows.length, 32)

  def pack(seed):
    return pack_epoch(windows, plan, 32, np.random.default_rng(seed))[0]

  np.testing.assert_array_equal(pack(1), pack(1))
  assert not np.array_equal(pack(1), pack(2))


def test_some_rows_are_those_of_the_whole_epoch():
  train_end = make_lengths(5)
  windows = cut_windows(offsets_of(train_end), train_end, 20)
  plan = plan_packing(windows.length, 23)

  def pack(rows):
    return pack_epoch(windows, plan, 23, np.random.default_rng(0), rows)

  whole = pack(slice(None))
  ends = [0, 1, 8, plan.num_rows - 1, plan.num_rows + 9, plan.num_rows + 12]
  for first, end in itertools.pairwise(ends):
    for part, all_of_it in zip(pack(slice(first, end)), whole):
      assert part.dtype == all_of_it.dtype
      np.testing.assert_array_equal(part, all_of_it[first:end])


def test_rows_by_hand():
  windows = Windows(
    start=np.array([10, 20, 30]),
    length=np.array([2, 3, 1]),
    context=np.array([0, 2, 0]),
  )
  # Lengths 3 and 1 share a row; 2 is alone.
  plan = plan_packing(windows.length, 4)
  rows = zip(*pack_epoch(windows, plan, 4, np.random.default_rng(0)))
  found = sorted(tuple(part.tolist() for part in row) for row in rows)
  assert found == [
    ([10, 11, -1, -1], [1, 1, 0, 0], [1, 1, 0, 0]),
    ([20, 21, 22, 30], [1, 1, 1, 2], [0, 0, 1, 1]),
  ]


def test_equal_windows_take_every_place():
  """Windows of one length are dealt at random, not in the order of users."""
  windows = Windows(
    start=np.arange(0, 80, 2), length=np.full(40, 2), context=np.zeros(40, int)
  )
  plan = plan_packing(windows.length, 8)
  neighbours = set()
  for seed in range(20):
    event_RT, *_ = pack_epoch(windows, plan, 8, np.random.default_rng(seed))
    neighbours |= {(row[0], row[2]) for row in event_RT.tolist()}
  assert len(neighbours) > 150
