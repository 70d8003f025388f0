"""Evaluation rows, one target each with its history, and lists for them."""

import dataclasses

import numpy as np

from holorec_jax.data import schema
from holorec_jax.decode.requests import Histories


@dataclasses.dataclass(frozen=True)
class Targets:
  """Rows of one split, as views into the data set's events.

  Attributes:
    events_E: item of every event of the data set, user by user.
    users_U: row's user.
    starts_U: first event of the row's history.
    ends_U: event of the target; the history is [starts, ends).
  """

  events_E: np.ndarray
  users_U: np.ndarray
  starts_U: np.ndarray
  ends_U: np.ndarray

  @property
  def items_U(self) -> np.ndarray:
    """The items to be found."""
    return self.events_E[self.ends_U]

  @property
  def lengths_U(self) -> np.ndarray:
    """Events in each history."""
    return self.ends_U - self.starts_U

  @property
  def histories(self) -> Histories:
    """What a recommender is asked."""
    return Histories(self.events_E, self.starts_U, self.ends_U)

  def __len__(self) -> int:
    return len(self.users_U)

  def history(self, row: int) -> np.ndarray:
    """Items before the row's target, oldest first."""
    return self.events_E[self.starts_U[row] : self.ends_U[row]]

  def take(self, rows: np.ndarray | slice) -> "Targets":
    """The chosen rows, in the given order."""
    return dataclasses.replace(
      self,
      users_U=self.users_U[rows],
      starts_U=self.starts_U[rows],
      ends_U=self.ends_U[rows],
    )

  def flat_histories(self, last: int | None = None) -> tuple[np.ndarray, ...]:
    """All history events of all rows, as flat arrays.

    Args:
      last: only the latest so many events of each row.

    Returns:
      (row, item, age): age 0 is the event just before the target.
    """
    lengths_U = self.lengths_U
    if last is not None:
      lengths_U = np.minimum(lengths_U, last)
    row = np.repeat(np.arange(len(self)), lengths_U)
    first_U = np.cumsum(lengths_U) - lengths_U
    age = np.arange(len(row)) - np.repeat(first_U, lengths_U)
    return row, self.events_E[np.repeat(self.ends_U, lengths_U) - 1 - age], age


@dataclasses.dataclass(frozen=True)
class Lists:
  """What one system recommends for the rows of one split.

  Attributes:
    kept_UK: int32 items in rank order, -1 for none; seen items may be among
      them.
    unseen_UK: the same without the items of the row's history.
  """

  kept_UK: np.ndarray
  unseen_UK: np.ndarray


def from_positions(dataset: schema.Dataset, positions_U: np.ndarray) -> Targets:
  """Rows of all users that have a target.

  Args:
    dataset: the interactions.
    positions_U: a split's `valid` or `test`: the target's position within the
      user's events, or -1 for none.
  """
  users_U = np.flatnonzero(positions_U >= 0)
  starts_U = dataset.offsets[users_U]
  return Targets(
    events_E=dataset.items,
    users_U=users_U,
    starts_U=starts_U,
    ends_U=starts_U + positions_U[users_U],
  )
