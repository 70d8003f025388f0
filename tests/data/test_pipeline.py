"""Batch sources: both cover every target once an epoch, in a fixed order."""

import json

import numpy as np
import pytest

from holorec_jax.data.pipeline import (
  PipelineConfig,
  batch_shape,
  make_iterator,
  make_source,
)
from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split
from holorec_jax.errors import UserError

BUCKETS = (2, 4, 8)


def make_data(seed: int = 0, users: int = 60) -> tuple[Dataset, Split]:
  """Histories in which every event is an item of its own."""
  rng = np.random.default_rng(seed)
  lengths = rng.geometric(0.15, users) + 2
  lengths[:2] = [3, 40]
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  items = rng.permutation(offsets[-1]).astype(np.int32)
  names = np.arange(len(items)).astype(str).astype(object)
  dataset = Dataset("made", names, {}, names[:users], offsets, items)
  return dataset, Split(lengths - 2, lengths - 2, lengths - 1)


def make(rows: str, devices: int = 2, **changes):
  dataset, split = make_data()
  config = PipelineConfig(
    rows=rows,
    max_history=8,
    targets_per_batch=24,
    slots_per_row=12,
    length_buckets=BUCKETS,
    **changes,
  )
  return dataset, split, make_source(dataset, split, config, devices)


def pairs_of(batch) -> list[tuple[tuple, int]]:
  """(visible history, target) of every branch in use."""
  pairs = []
  for row, branch in np.argwhere(batch["weight_BN"] > 0):
    last = batch["last_BN"][row, branch]
    segment_T = batch["segment_BT"][row]
    own_T = segment_T == segment_T[last]
    history = batch["item_BT"][row, : last + 1][own_T[: last + 1]]
    pairs.append(
      (tuple(history.tolist()), int(batch["target_BN"][row, branch]))
    )
  return pairs


def epoch_of(source, epoch: int = 0) -> list[dict]:
  first = epoch * source.batches_per_epoch
  return [source[first + i] for i in range(source.batches_per_epoch)]


@pytest.mark.parametrize("rows", ["packed", "one_target"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_target_once_an_epoch_with_its_own_past(rows, epoch):
  dataset, split, source = make(rows)
  pairs = [p for batch in epoch_of(source, epoch) for p in pairs_of(batch)]
  wanted = {}
  for user in range(dataset.num_users):
    events = dataset.items[dataset.offsets[user] :][: split.train_end[user]]
    for position in range(1, len(events)):
      wanted[int(events[position])] = tuple(events[:position].tolist())
  assert sorted(target for _, target in pairs) == sorted(wanted)
  assert len(pairs) == source.targets_per_epoch
  for history, target in pairs:
    past = wanted[target]
    # The latest items, all of them where they are few.
    assert history == past[-len(history) :]
    least = 8 if rows == "one_target" else 5
    assert len(history) >= min(len(past), least)


def test_both_sources_show_short_histories_alike():
  short = [
    {
      (history, target)
      for batch in epoch_of(make(rows)[-1])
      for history, target in pairs_of(batch)
      if len(history) <= 4
    }
    for rows in ("packed", "one_target")
  ]
  assert short[0] == short[1] and len(short[0]) > 100


@pytest.mark.parametrize("rows", ["packed", "one_target"])
def test_batches_have_the_shapes_and_types_of_batch(rows):
  _, _, source = make(rows, devices=8)
  assert source.rows_per_batch % 8 == 0
  widths = set()
  for batch in epoch_of(source):
    width = batch["item_BT"].shape[1]
    branches = width if rows == "packed" else 1
    widths.add(width)
    for name, array in batch.items():
      expected = width if name in ("item_BT", "segment_BT") else branches
      assert array.shape == (source.rows_per_batch, expected), name
      assert array.dtype == (np.float32 if name == "weight_BN" else np.int32)
    used = batch["weight_BN"] > 0
    assert (batch["target_BN"][used] >= 0).all()
    assert (batch["item_BT"][batch["segment_BT"] > 0] >= 0).all()
    assert (batch["item_BT"][batch["segment_BT"] == 0] == -1).all()
    assert (batch["last_BN"] < width).all() and (batch["last_BN"] >= 0).all()
  assert widths == ({12} if rows == "packed" else set(BUCKETS))


def test_packed_rows_are_as_long_as_a_history_or_several_short_ones():
  for longest, slots in ((5, 20), (16, 16), (20, 20), (50, 50)):
    assert batch_shape(PipelineConfig(max_history=longest), 1)[1] == slots


def test_one_target_rows_are_padded_to_the_next_bucket_only():
  _, _, source = make("one_target")
  for batch in epoch_of(source):
    width = batch["item_BT"].shape[1]
    length_B = batch["segment_BT"].sum(1)
    below = max([0, *(b for b in BUCKETS if b < width)])
    assert (length_B[length_B > 0] > below).all()


@pytest.mark.parametrize("rows", ["packed", "one_target"])
def test_the_order_is_a_function_of_seed_and_epoch(rows):
  def targets(source, epoch):
    batches = epoch_of(source, epoch)
    return np.concatenate([batch["target_BN"].ravel() for batch in batches])

  _, _, source = make(rows)
  _, _, again = make(rows)
  _, _, other = make(rows, seed=1)
  later = targets(source, 1)
  np.testing.assert_array_equal(targets(again, 1), later)
  # Whichever epoch was asked for before.
  first = targets(source, 0)
  np.testing.assert_array_equal(targets(source, 1), later)
  assert not np.array_equal(first, later)
  assert not np.array_equal(targets(other, 0), first)


@pytest.mark.parametrize("rows", ["packed", "one_target"])
def test_the_iterator_goes_on_where_its_state_was_taken(rows):
  _, _, source = make(rows)
  iterator = make_iterator(source)
  ahead = source.batches_per_epoch - 1
  for _ in range(ahead):
    next(iterator)
  state = json.loads(json.dumps(iterator.get_state()))
  # Over the border of the epoch.
  expected = [next(iterator) for _ in range(3)]
  resumed = make_iterator(source)
  resumed.set_state(state)
  for index, batch in enumerate(expected, ahead):
    again = next(resumed)
    for name in batch:
      np.testing.assert_array_equal(again[name], batch[name])
      np.testing.assert_array_equal(source[index][name], batch[name])


@pytest.mark.parametrize("mean", [4, 15, 60])
def test_padding_is_little_however_long_histories_are(mean):
  rng = np.random.default_rng(0)
  # A mean of 4 is as of Beauty: 5-core, a third at five events, a long tail.
  lengths = np.minimum(4 + rng.geometric(1 / mean, 3000), 200)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  items = rng.integers(0, 1000, offsets[-1]).astype(np.int32)
  dataset = Dataset("made", np.arange(1000), {}, lengths, offsets, items)
  split = Split(lengths - 2, lengths - 2, lengths - 1)
  # The last batch of every length is partly filled: 3,000 users are few.
  for rows, most in (("packed", 0.1), ("one_target", 0.2)):
    config = PipelineConfig(rows=rows, targets_per_batch=256)
    source = make_source(dataset, split, config, 8)
    filled = slots = 0
    for batch in epoch_of(source):
      filled += (batch["segment_BT"] > 0).sum()
      slots += batch["segment_BT"].size
    assert 1 - filled / slots < most, rows


def test_rows_that_stay_empty_are_told_what_helps():
  """Of 16 slots, where two histories of 9 to 12 items never fit."""
  lengths = np.tile([9, 10, 11, 12], 50) + 1
  ends = np.cumsum(lengths)
  items = np.arange(ends[-1], dtype=np.int32)
  dataset = Dataset("made", items, {}, lengths, np.append(0, ends), items)
  split = Split(lengths, lengths, lengths)

  def advise(**changes) -> str:
    config = PipelineConfig(max_history=16, targets_per_batch=64, **changes)
    source = make_source(dataset, split, config, 1)
    filled = sum((b["segment_BT"] > 0).sum() for b in epoch_of(source))
    slots = sum(b["segment_BT"].size for b in epoch_of(source))
    assert source.padding_share == pytest.approx(1 - filled / slots)
    return source.advise()

  assert advise() == (
    "34% of the slots of packed rows are empty;"
    " config.input.slots_per_row=64 would leave 6%"
  )
  assert advise(slots_per_row=64) == ""
  assert advise(rows="one_target", length_buckets=(4, 8, 12, 16)) == ""


@pytest.mark.parametrize("rows", ["packed", "one_target"])
def test_nothing_to_train_on(rows):
  dataset, split = make_data()
  ones = np.minimum(split.train_end, 1)
  with pytest.raises(UserError, match="'made': no user has two training"):
    make_source(dataset, Split(ones, ones, ones), PipelineConfig(rows=rows), 1)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"rows": "rowz"}, "input.rows is 'rowz', expected one of"),
    ({"slots_per_row": 6}, "input.slots_per_row is 6, less than .* = 20"),
    (
      {"rows": "one_target", "max_history": 30},
      "length_buckets ends at 20; .*max_history = 30",
    ),
  ],
)
def test_bad_configs_are_named(config, message):
  dataset, split = make_data()
  with pytest.raises(UserError, match=message):
    make_source(dataset, split, PipelineConfig(**config), 1)
