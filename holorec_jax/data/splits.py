"""Which events train and which are the targets of validation and test.

leave_one_out: a user's last event is the test target, the one before the
validation target, all before train (Kang & McAuley, SASRec, arXiv 1808.09781).

global_time: two points in time cut everybody's events alike, so that nothing a
model learns from lies after anything it is asked (Ji et al., arXiv 2010.11060).
A user's validation target is the first event of the validation window, the test
target the first event of the test window.

Either way the history of a target at position p is the user's events [0, p).
"""

import dataclasses

import numpy as np
from absl import logging

from holorec_jax import errors
from holorec_jax.data import schema


@dataclasses.dataclass(frozen=True)
class SplitConfig:
  """How to split.

  Attributes:
    method: a key of `METHODS`.
    valid_share: global_time, share of events in the validation window.
    test_share: global_time, share of events in the test window.
    valid_start: global_time, start of the validation window in seconds since
      1970; 0 to derive it from the shares.
    test_start: the same for the test window.
  """

  method: str = "leave_one_out"
  valid_share: float = 0.1
  test_share: float = 0.1
  valid_start: int = 0
  test_start: int = 0


@dataclasses.dataclass(frozen=True)
class Split:
  """Positions within each user's events.

  Attributes:
    train_end: (U,) int64, events [0, train_end) train.
    valid: (U,) int64, position of the validation target, or -1.
    test: (U,) int64, position of the test target, or -1.
  """

  train_end: np.ndarray
  valid: np.ndarray
  test: np.ndarray


def split_dataset(dataset: schema.Dataset, config: SplitConfig) -> Split:
  """Splits every user's events; a target always has a non-empty history.

  Raises:
    UserError: unknown method, no user long enough, or (global_time) no
      timestamps or empty windows.
  """
  if config.method not in METHODS:
    raise errors.UserError(
      f"data.split.method is {config.method!r}, expected one of "
      f"{sorted(METHODS)}"
    )
  split = METHODS[config.method](dataset, config)
  for what, positions in (("validation", split.valid), ("test", split.test)):
    if not np.any(positions >= 0):
      raise errors.UserError(
        f"data set {dataset.name!r}: no user has a {what} target under "
        f"data.split.method={config.method}; the longest of "
        f"{dataset.num_users} users has "
        f"{np.diff(dataset.offsets).max(initial=0)} events. Choose another "
        "split, or data with longer histories"
      )
  logging.info(
    "split %s: %d training events, %d validation and %d test targets",
    config.method,
    split.train_end.sum(),
    (split.valid >= 0).sum(),
    (split.test >= 0).sum(),
  )
  return split


def _leave_one_out(dataset: schema.Dataset, config: SplitConfig) -> Split:
  del config
  lengths = np.diff(dataset.offsets)
  long_enough = lengths >= 3  # Else the validation target has no history.
  short = int((~long_enough).sum())
  if short:
    logging.warning(
      "%d of %d users have fewer than 3 events: they only train",
      short,
      dataset.num_users,
    )
  return Split(
    train_end=np.where(long_enough, lengths - 2, lengths),
    valid=np.where(long_enough, lengths - 2, -1),
    test=np.where(long_enough, lengths - 1, -1),
  )


def _global_time(dataset: schema.Dataset, config: SplitConfig) -> Split:
  if dataset.timestamps is None:
    raise errors.UserError(
      f"data set {dataset.name!r} has no timestamps, which "
      "data.split.method=global_time needs; use leave_one_out"
    )
  valid_start, test_start = _windows(dataset.timestamps, config)
  train_end = _count_before(dataset, valid_start)
  before_test = _count_before(dataset, test_start)
  lengths = np.diff(dataset.offsets)
  in_valid = (train_end < before_test) & (train_end > 0)
  in_test = (before_test < lengths) & (before_test > 0)
  return Split(
    train_end=train_end,
    valid=np.where(in_valid, train_end, -1),
    test=np.where(in_test, before_test, -1),
  )


def _windows(times_E: np.ndarray, config: SplitConfig) -> tuple[int, int]:
  """Start of the validation and of the test window, in seconds."""
  shares = (config.valid_share, config.test_share)
  if min(shares) <= 0 or sum(shares) >= 1:
    raise errors.UserError(
      f"data.split.valid_share={shares[0]} and test_share={shares[1]} must be "
      "positive and leave something to train on (sum below 1)"
    )
  ordered = np.sort(times_E)
  last = len(ordered) - 1
  test_start = config.test_start or int(
    ordered[min(last, int(len(ordered) * (1 - shares[1])))]
  )
  valid_start = config.valid_start or int(
    ordered[min(last, int(len(ordered) * (1 - sum(shares))))]
  )
  if not ordered[0] < valid_start < test_start <= ordered[-1]:
    raise errors.UserError(
      f"global_time windows are empty: events run from {ordered[0]} to "
      f"{ordered[-1]}, validation would start at {valid_start}, test at "
      f"{test_start}; set data.split.valid_start and test_start in between"
    )
  return valid_start, test_start


def _count_before(dataset: schema.Dataset, start: int) -> np.ndarray:
  """(U,) int64: how many of a user's events lie before `start`."""
  assert dataset.timestamps is not None
  before = np.concatenate([[0], np.cumsum(dataset.timestamps < start)])
  return np.diff(before[dataset.offsets])


METHODS = {"leave_one_out": _leave_one_out, "global_time": _global_time}


def train_events(
  dataset: schema.Dataset, split: Split
) -> tuple[np.ndarray, np.ndarray]:
  """(user, item) int32 of all training events, user by user, oldest first."""
  lengths = np.diff(dataset.offsets)
  users = np.repeat(np.arange(dataset.num_users, dtype=np.int32), lengths)
  position = np.arange(dataset.num_events) - dataset.offsets[users]
  train = position < split.train_end[users]
  return users[train], np.asarray(dataset.items)[train]


def train_item_counts(dataset: schema.Dataset, split: Split) -> np.ndarray:
  """(I,) int64: training events of each item."""
  _, items = train_events(dataset, split)
  return np.bincount(items, minlength=dataset.num_items)
