"""What is asked of a recommender: histories, and filters on the answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from holorec_jax.decode.filters import Lists
from holorec_jax.errors import UserError


def _power_of_two(count: int) -> int:
  """Few distinct widths are few compilations."""
  return max(16, 1 << (count - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class Histories:
  """Histories as stretches of one event array.

  Attributes:
    items_E: all events' items.
    starts_U: first event of each history.
    ends_U: one behind its last event.
  """

  items_E: np.ndarray
  starts_U: np.ndarray
  ends_U: np.ndarray

  def __len__(self) -> int:
    return len(self.starts_U)

  def lengths(self) -> np.ndarray:
    """(U,) items of each history."""
    return np.asarray(self.ends_U) - np.asarray(self.starts_U)

  def width(self, rows: slice) -> int:
    """Slots for the longest of these: a power of two, at least 16."""
    return _power_of_two(int(self.lengths()[rows].max(initial=1)))

  def check(self, rows: slice, width: int, num_items: int) -> None:
    """Raises UserError for unknown items among the latest `width` of each."""
    item_BT = self.padded(rows, width)
    filled_BT = np.arange(width) < self.lengths()[rows, None]
    known_BT = (item_BT >= 0) & (item_BT < num_items)
    for row, slot in np.argwhere(filled_BT & ~known_BT):
      raise UserError(
        f"history {rows.start + row} holds item {item_BT[row, slot]}; the"
        f" catalogue has the items 0..{num_items - 1}"
      )

  def padded(self, rows: slice, width: int) -> np.ndarray:
    """(rows, width) int32: the latest `width` items, oldest first, then -1."""
    end = self.ends_U[rows]
    start = np.maximum(self.starts_U[rows], end - width)
    slot = start[:, None] + np.arange(width)
    filled = slot < end[:, None]
    padded = np.full(slot.shape, -1, np.int32)
    padded[filled] = self.items_E[slot[filled]]
    return padded


def make_histories(items: Sequence[Sequence[int]]) -> Histories:
  """Histories from one sequence of item numbers per user, oldest first.

  Raises:
    UserError: one holds other than whole numbers.
  """
  lengths = [len(history) for history in items]
  ends_U = np.cumsum(lengths, dtype=np.int64)
  events = [np.asarray(history) for history in items if len(history)]
  for held in events:
    if not np.issubdtype(held.dtype, np.integer):
      raise UserError(f"a history holds {held.dtype}; expected item numbers")
  return Histories(
    np.concatenate(events) if events else np.zeros(0, np.int64),
    ends_U - lengths,
    ends_U,
  )


@dataclasses.dataclass(frozen=True)
class Filters:
  """What may be returned to each user; every returned item satisfies all.

  What is available to nobody is the recommender's (`set_available`).

  Attributes:
    exclude_seen: no item of the (whole) history.
    deny: item numbers never to return, one sequence per user, or None for a
      user who may get any; None: all users may.
    allow: item numbers to choose from, one sequence per user, or None for a
      user who may get any; None: all users may.
  """

  exclude_seen: bool = False
  deny: Sequence[Sequence[int] | None] | None = None
  allow: Sequence[Sequence[int] | None] | None = None

  def check(self, users: int, num_items: int) -> None:
    """Raises UserError for lists of other users or unknown items."""
    for name in ("deny", "allow"):
      lists = getattr(self, name)
      if lists is None:
        continue
      if len(lists) != users:
        raise UserError(
          f"filters.{name} has {len(lists)} lists for {users} histories:"
          " give one for each (None: the user may get any item)"
        )
      for user, items in enumerate(lists):
        items = np.asarray([] if items is None else items)
        if len(items) and not np.issubdtype(items.dtype, np.integer):
          raise UserError(
            f"filters.{name}[{user}] holds {items.dtype}; expected item numbers"
          )
        unknown = items[(items < 0) | (items >= num_items)]
        if len(unknown):
          raise UserError(
            f"filters.{name}[{user}] names item {unknown[0]}; the catalogue has"
            f" the items 0..{num_items - 1}"
          )

  def lists(self, histories: Histories, rows: slice) -> Lists | None:
    """The rows' lists, padded with -1; None if there are none at all."""
    if not self.exclude_seen and self.deny is None and self.allow is None:
      return None
    count = rows.stop - rows.start
    deny: list = [()] * count
    if self.deny is not None:
      deny = list(self.deny[rows])
    deny_BT = _pad(deny)
    if self.exclude_seen:
      seen_BT = histories.padded(rows, histories.width(rows))
      denied = self.deny is not None
      deny_BT = np.concatenate([seen_BT, deny_BT], 1) if denied else seen_BT
    allow: list = [None] * count
    if self.allow is not None:
      allow = list(self.allow[rows])
    columns: dict[str, Any] = {
      "deny_BT": deny_BT,
      "allow_BA": _pad(allow),
      "restricted_B": np.array([items is not None for items in allow]),
    }
    return Lists(**columns)


def _pad(lists: Sequence[Sequence[int] | None]) -> np.ndarray:
  filled = [() if items is None else items for items in lists]
  width = _power_of_two(max(map(len, filled), default=1))
  padded = np.full((len(lists), width), -1, np.int32)
  for row, items in enumerate(filled):
    padded[row, : len(items)] = items
  return padded


@dataclasses.dataclass(frozen=True)
class Recommendations:
  """Items for every user, best first.

  Attributes:
    items_UK: int32; -1 where no further item is allowed.
    scores_UK: float32 log-probabilities; -inf where no item.
    from_prior_U: bool, users without a history: their items are the most
      popular of the allowed ones, their scores log shares of the training
      interactions.
  """

  items_UK: np.ndarray
  scores_UK: np.ndarray
  from_prior_U: np.ndarray

  @property
  def valid_UK(self) -> np.ndarray:
    """Whether there is an item; False where the filters leave no more."""
    return self.items_UK >= 0
