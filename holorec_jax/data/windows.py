"""Training targets with the items that come after them (MSRA, methods 3.3).

REG4Rec (arXiv 2508.15308) rewards a path by the next N items, not by the next
one alone. The window is cut where a user's training events end: nothing that
validation or test asks for is ever rewarded.
"""

import numpy as np

from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split


def next_events(
  items_E: np.ndarray, event_B: np.ndarray, end_B: np.ndarray, window: int
) -> np.ndarray:
  """The items from an event on, nearest first.

  Args:
    items_E: item of every event, user by user.
    event_B: the first event of each window.
    end_B: one behind the last event that it may hold.
    window: W.

  Returns:
    (B, W) int32, -1 from the end on.
  """
  event_BW = event_B[:, None] + np.arange(window)
  inside_BW = event_BW < end_B[:, None]
  item_BW = items_E[np.where(inside_BW, event_BW, 0)]
  return np.where(inside_BW, item_BW, -1).astype(np.int32)


class TargetWindows:
  """Batches of training targets, each drawn with equal chance.

  A batch depends on its number alone, so that going on from any is exact. The
  draws are with replacement: no epoch has to be shuffled, however many events.

  Args:
    dataset: of all events.
    split: where training ends.
    rows: targets of a batch.
    max_history: items of a history.
    window: W.
    seed: of the draws.
    share: (index, count), this process's block of rows as `processes.row_share`
      gives it; count divides rows.

  Attributes:
    rows: targets of a batch, those of other processes included.
    num_targets: in all; a user with n training events has n - 1.
  """

  def __init__(
    self,
    dataset: Dataset,
    split: Split,
    rows: int,
    max_history: int,
    window: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
  ):
    self.rows = rows
    self._items = dataset.items
    self._begin_U = dataset.offsets[:-1]
    self._end_U = self._begin_U + split.train_end
    self._after_U = np.cumsum(np.maximum(split.train_end - 1, 0))
    self._width = max_history
    self._window = window
    self._seed = seed
    size = rows // share[1]
    self._own = slice(share[0] * size, (share[0] + 1) * size)
    self.num_targets = int(self._after_U[-1])

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """This process's rows of batch number `index`.

    Returns:
      item_BT: int32 histories, oldest first, left-aligned, -1 padded; never
        empty.
      target_BW: int32 the target and the items after it, -1 padded.
    """
    rng = np.random.default_rng((self._seed, index))
    return self.at(rng.integers(self.num_targets, size=self.rows)[self._own])

  def at(self, target_B: np.ndarray) -> dict[str, np.ndarray]:
    """The targets of these numbers, counted user by user."""
    user_B = np.searchsorted(self._after_U, target_B, side="right")
    # Of the last target of a user, one before the end of his training events.
    event_B = self._end_U[user_B] - (self._after_U[user_B] - target_B)
    start_B = np.maximum(self._begin_U[user_B], event_B - self._width)
    return {
      "item_BT": next_events(self._items, start_B, event_B, self._width),
      "target_BW": next_events(
        self._items, event_B, self._end_U[user_B], self._window
      ),
    }
