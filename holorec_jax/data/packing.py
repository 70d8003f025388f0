"""Packs short histories into rows of one length, so that nothing is wasted.

A training history of n events makes n - 1 slots; slot t holds event t as
history and asks for event t + 1. Histories longer than `max_history` slots
are cut into overlapping windows, whose leading slots are context only.
Windows are packed by their lengths alone: the histogram of lengths does not
change, so the layout is planned once and an epoch only permutes which window
takes which place of its length. Everything is vectorised over windows.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Windows:
  """Contiguous stretches of slots in the event array.

  Attributes:
    start: (W,) int64 event of the first slot.
    length: (W,) int32 slots.
    context: (W,) int32 leading slots that ask for nothing (another window
      already does).
  """

  start: np.ndarray
  length: np.ndarray
  context: np.ndarray

  def __len__(self) -> int:
    return len(self.start)


def cut_windows(
  offsets: np.ndarray, train_end: np.ndarray, max_history: int
) -> Windows:
  """Windows that cover every training target exactly once.

  Args:
    offsets: (U + 1,) first event of each user.
    train_end: (U,) number of each user's training events.
    max_history: most slots of a window, hence most visible history items.
  """
  slots_U = np.maximum(train_end - 1, 0)
  fresh = max(max_history // 2, 1)
  extra_U = np.maximum(-(-(slots_U - max_history) // fresh), 0)
  count_U = np.where(slots_U > 0, 1 + extra_U, 0)
  user_W = np.repeat(np.arange(len(train_end)), count_U)
  first_W = np.repeat(np.cumsum(count_U) - count_U, count_U)
  rank_W = np.arange(len(user_W)) - first_W
  # Window r > 0 ends at max_history + r * fresh; the last one ends early.
  end_W = np.minimum(max_history + rank_W * fresh, slots_U[user_W])
  asked_from_W = np.where(rank_W == 0, 0, max_history + (rank_W - 1) * fresh)
  begin_W = np.maximum(end_W - max_history, 0)
  begin_W = np.where(rank_W == 0, 0, begin_W)
  return Windows(
    start=offsets[:-1][user_W] + begin_W,
    length=(end_W - begin_W).astype(np.int32),
    context=(asked_from_W - begin_W).astype(np.int32),
  )


@dataclasses.dataclass(frozen=True)
class PackPlan:
  """Places for windows, ordered by window length.

  Attributes:
    row: (W,) int64 row of each place.
    column: (W,) int32 first slot of each place.
    segment: (W,) int32 number of the place within its row, from 1.
    num_rows: rows in all.
  """

  row: np.ndarray
  column: np.ndarray
  segment: np.ndarray
  num_rows: int


def plan_packing(lengths: np.ndarray, capacity: int) -> PackPlan:
  """Best-fit decreasing over the histogram of lengths.

  Every pattern (a multiset of lengths that fills a row) is used for as many
  rows as the counts allow, so the loop runs over patterns, not windows.

  Args:
    lengths: (W,) window lengths, each in 1..capacity.
    capacity: slots of a row.

  Returns:
    Places in order of ascending window length.
  """
  counts = np.bincount(lengths, minlength=capacity + 1)
  rows, columns, segments, sizes = [], [], [], []
  num_rows = 0
  while counts.any():
    pattern = _pattern(counts, capacity)
    kinds, uses = np.unique(pattern, return_counts=True)
    repeats = int((counts[kinds] // uses).min())
    row_ids = np.arange(num_rows, num_rows + repeats)
    column = 0
    for segment, size in enumerate(pattern, start=1):
      rows.append(row_ids)
      columns.append(np.full(repeats, column, np.int32))
      segments.append(np.full(repeats, segment, np.int32))
      sizes.append(np.full(repeats, size, np.int32))
      column += size
    counts[kinds] -= uses * repeats
    num_rows += repeats
  if not num_rows:
    empty = np.zeros(0, np.int32)
    return PackPlan(empty.astype(np.int64), empty, empty, 0)
  order = np.argsort(np.concatenate(sizes), kind="stable")
  return PackPlan(
    row=np.concatenate(rows)[order],
    column=np.concatenate(columns)[order],
    segment=np.concatenate(segments)[order],
    num_rows=num_rows,
  )


def _pattern(counts: np.ndarray, capacity: int) -> list[int]:
  """Longest length first, then always the longest that still fits."""
  left, room, pattern = counts.copy(), capacity, []
  while room > 0:
    fitting = np.flatnonzero(left[: room + 1])
    if not len(fitting):
      break
    size = int(fitting[-1])
    pattern.append(size)
    left[size] -= 1
    room -= size
  return pattern


def pack_epoch(
  windows: Windows, plan: PackPlan, capacity: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Deals the windows to places at random and shuffles the rows.

  Returns:
    event_RT: int64 event of each slot, -1 where empty.
    segment_RT: int32 history number within the row, 0 where empty.
    weight_RT: float32, 0 for empty and context-only slots.
  """
  shuffled = rng.permutation(len(windows))
  window = shuffled[np.argsort(windows.length[shuffled], kind="stable")]
  length_W = windows.length[window]
  row_W = rng.permutation(plan.num_rows)[plan.row]
  begin_W = row_W * capacity + plan.column
  within = np.arange(length_W.sum()) - np.repeat(
    np.cumsum(length_W) - length_W, length_W
  )
  flat = np.repeat(begin_W, length_W) + within
  size = plan.num_rows * capacity
  event = np.full(size, -1, np.int64)
  segment = np.zeros(size, np.int32)
  weight = np.zeros(size, np.float32)
  event[flat] = np.repeat(windows.start[window], length_W) + within
  segment[flat] = np.repeat(plan.segment, length_W)
  weight[flat] = within >= np.repeat(windows.context[window], length_W)
  shape = (plan.num_rows, capacity)
  return event.reshape(shape), segment.reshape(shape), weight.reshape(shape)
