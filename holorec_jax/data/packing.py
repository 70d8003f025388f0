"""Packs short histories into rows of one length, so that nothing is wasted.

A training history of n events makes n - 1 slots; slot t holds event t as
history and asks for event t + 1. Histories longer than `max_history` slots
are cut into overlapping windows, whose leading slots are context only.
Windows are packed by their lengths alone: the histogram of lengths does not
change, so the layout is planned once and an epoch only permutes which window
takes which place of its length. Slots exist for one batch at a time.
Everything is vectorised.
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
  """Places for windows. Those of a row lie side by side from its first slot.

  Attributes:
    rank: (W,) int64 of each place, row by row and left to right: its rank
      among all places by length.
    first: (num_rows + 1,) int64 where each row's places begin.
  """

  rank: np.ndarray
  first: np.ndarray

  @property
  def num_rows(self) -> int:
    """Rows in all."""
    return len(self.first) - 1


@dataclasses.dataclass(frozen=True)
class Deal:
  """What an epoch puts where.

  Attributes:
    window: (W,) int64 window of each place of the plan.
    row: (num_rows,) int64 the plan's rows in the order of the epoch.
  """

  window: np.ndarray
  row: np.ndarray


def empty_share(lengths: np.ndarray, capacity: int) -> float:
  """Share of the slots of `plan_packing`'s rows that no window fills."""
  rows = plan_packing(lengths, capacity).num_rows
  return 1.0 - lengths.sum(dtype=np.int64) / (rows * capacity)


def plan_packing(lengths: np.ndarray, capacity: int) -> PackPlan:
  """Best-fit decreasing over the histogram of lengths.

  Every pattern (a multiset of lengths that fills a row) is used for as many
  rows as the counts allow, so the loop runs over patterns, not windows.

  Args:
    lengths: (W,) window lengths, each in 1..capacity.
    capacity: slots of a row.
  """
  counts = np.bincount(lengths, minlength=capacity + 1)
  rows: list[np.ndarray] = [np.zeros(0, np.int64)]
  sizes: list[np.ndarray] = [np.zeros(0, np.int32)]
  num_rows = 0
  while counts.any():
    pattern = _pattern(counts, capacity)
    kinds, uses = np.unique(pattern, return_counts=True)
    repeats = int((counts[kinds] // uses).min())
    for size in pattern:
      rows.append(np.arange(num_rows, num_rows + repeats))
      sizes.append(np.full(repeats, size, np.int32))
    counts[kinds] -= uses * repeats
    num_rows += repeats
  row = np.concatenate(rows)
  rank = np.empty(len(row), np.int64)
  rank[np.argsort(np.concatenate(sizes), kind="stable")] = np.arange(len(row))
  by_row = np.argsort(row, kind="stable")
  first = np.searchsorted(row[by_row], np.arange(num_rows + 1))
  return PackPlan(rank[by_row], first)


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


def deal(windows: Windows, plan: PackPlan, rng: np.random.Generator) -> Deal:
  """Deals the windows to places of their length and the rows, at random."""
  shuffled = rng.permutation(len(windows))
  by_length = shuffled[np.argsort(windows.length[shuffled], kind="stable")]
  # Inverted, as older runs have drawn where a row goes, not which one comes.
  row = np.argsort(rng.permutation(plan.num_rows))
  return Deal(by_length[plan.rank], row)


def lay_rows(
  windows: Windows, plan: PackPlan, dealt: Deal, rows: slice, capacity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The slots of some of an epoch's rows.

  Args:
    windows: of the histories.
    plan: of their packing.
    dealt: of the epoch.
    rows: which of its rows; those behind the last are left out.
    capacity: slots of a row.

  Returns:
    event_RT: int64 event of each slot, -1 where empty.
    segment_RT: int32 history number within the row, 0 where empty.
    weight_RT: float32, 0 for empty and context-only slots.
  """
  row_R = dealt.row[rows]
  begin_R, count_R = plan.first[row_R], plan.first[row_R + 1]
  count_R = count_R - begin_R
  # Of the places: number within the row, window, and slots up to its end.
  number_P = _count_up(count_R)
  window_P = dealt.window[np.repeat(begin_R, count_R) + number_P]
  length_P = windows.length[window_P]
  before_P = np.cumsum(length_P) - length_P
  slot_X = np.arange(length_P.sum())
  filled_R = np.bincount(
    np.repeat(np.arange(len(row_R)), count_R), length_P, len(row_R)
  )
  used_RT = np.arange(capacity) < filled_R[:, None]
  event_RT = np.full(used_RT.shape, -1, np.int64)
  segment_RT = np.zeros(used_RT.shape, np.int32)
  weight_RT = np.zeros(used_RT.shape, np.float32)
  event_RT[used_RT] = slot_X + np.repeat(
    windows.start[window_P] - before_P, length_P
  )
  segment_RT[used_RT] = np.repeat(number_P + 1, length_P)
  weight_RT[used_RT] = slot_X >= np.repeat(
    windows.context[window_P] + before_P, length_P
  )
  return event_RT, segment_RT, weight_RT


def _count_up(count_R: np.ndarray) -> np.ndarray:
  """[3, 1, 2] -> [0, 1, 2, 0, 0, 1]."""
  before_R = np.cumsum(count_R) - count_R
  return np.arange(count_R.sum()) - np.repeat(before_R, count_R)
