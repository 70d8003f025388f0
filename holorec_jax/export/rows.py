"""Requests as arrays of fixed widths, and what is wrong with some.

This file stands alone beside `runtime.py`, here and in every bundle; it imports
the standard library and numpy. Shape suffixes are those of `runtime`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

ListOf = Sequence[int] | np.ndarray


class RequestError(ValueError):
  """A request that no bundle, or not this one, can answer."""


class Rows(NamedTuple):
  """Arguments of one search: what `Bundle.search` takes."""

  item_BT: np.ndarray
  deny_BX: np.ndarray
  allow_BX: np.ndarray
  restricted_B: np.ndarray


class Form(NamedTuple):
  """What the arrays of a bundle's requests look like.

  Attributes:
    items: I.
    max_history: T.
    list_width: X.
  """

  items: int
  max_history: int
  list_width: int


def make_rows(
  form: Form,
  histories: Sequence[ListOf],
  deny: Sequence[ListOf] | None = None,
  allow: Sequence[ListOf | None] | None = None,
  exclude_seen: bool = False,
) -> Rows:
  """Pads requests to the form, one row a user.

  Raises:
    RequestError: unknown items, lists that are too long or not one a user.
  """
  users = len(histories)
  for name, lists in (("deny", deny), ("allow", allow)):
    if lists is not None and len(lists) != users:
      raise RequestError(
        f"{name} has {len(lists)} lists for {users} histories: give one for"
        " each (an empty one denies nothing; None allows all)"
      )
  seen = [_known(form, "history", u, h) for u, h in enumerate(histories)]
  denied = [_known(form, "deny", u, d) for u, d in enumerate(deny or ())]
  denied = denied or [np.zeros(0, np.int32)] * users
  if exclude_seen:
    denied = [np.concatenate(pair) for pair in zip(denied, seen)]
  allow = [None] * users if allow is None else allow
  allowed = [
    _known(form, "allow", u, () if items is None else items)
    for u, items in enumerate(allow)
  ]
  width = form.list_width
  return Rows(
    _fill([h[-form.max_history :] for h in seen], form.max_history, ""),
    _fill([np.unique(items) for items in denied], width, "deny"),
    _fill([np.unique(items) for items in allowed], width, "allow"),
    np.array([items is not None for items in allow], bool),
  )


def _known(form: Form, name: str, user: int, items: ListOf) -> np.ndarray:
  """The items as int32; RequestError for one that is none."""
  items_N = np.asarray(items)
  if not items_N.size:
    return np.zeros(0, np.int32)
  if items_N.ndim != 1 or items_N.dtype.kind not in "iu":
    raise RequestError(
      f"{name} {user} is no list of item numbers: {items!r} (`row_of` gives"
      " the number of an id)"
    )
  wrong_N = (items_N < 0) | (items_N >= form.items)
  if wrong_N.any():
    raise RequestError(
      f"{name} {user} names item {items_N[wrong_N][0]}; this bundle has the"
      f" items 0..{form.items - 1}"
    )
  return items_N.astype(np.int32)


def _fill(lists: Sequence[np.ndarray], width: int, name: str) -> np.ndarray:
  """(lists, width) int32, -1 behind each list's end."""
  rows = np.full((len(lists), width), -1, np.int32)
  for row, items in enumerate(lists):
    if len(items) > width:
      raise RequestError(
        f"{name} {row} has {len(items)} distinct items (those of the history"
        f" count where seen items are left out); this bundle takes {width}"
      )
    rows[row, : len(items)] = items
  return rows


def pad_rows(array: np.ndarray, size: int) -> np.ndarray:
  """More rows, of -1 or False."""
  width = ((0, size - len(array)),) + ((0, 0),) * (array.ndim - 1)
  empty = False if array.dtype == bool else -1
  return np.pad(array, width, constant_values=empty)


def batches(
  users: np.ndarray, buckets: Sequence[int]
) -> Iterator[tuple[np.ndarray, int]]:
  """Users in full largest buckets, the rest in the smallest that takes it."""
  for start in range(0, len(users), buckets[-1]):
    part = users[start : start + buckets[-1]]
    yield part, next(size for size in buckets if size >= len(part))


def choose(order: np.ndarray, rows: Rows, user: int, most: int) -> np.ndarray:
  """The items that a user's lists leave of an order, of its first if of any."""
  if rows.restricted_B[user]:
    order = order[np.isin(order, rows.allow_BX[user])]
  else:
    order = order[:most]
  return order[~np.isin(order, rows.deny_BX[user])]


def check_available(form: Form, available_I: np.ndarray) -> np.ndarray:
  """The availability; RequestError unless it is a bool for each item."""
  available_I = np.asarray(available_I)
  if available_I.shape != (form.items,) or available_I.dtype != bool:
    raise RequestError(
      f"availability is {available_I.dtype} of shape {available_I.shape};"
      f" expected one bool for each of the {form.items} items"
    )
  return available_I


def check_rows(form: Form, buckets: Sequence[int], rows: Rows) -> None:
  """RequestError unless these are arguments of a search that was compiled."""
  size, last = len(rows.item_BT), form.items - 1
  if size not in buckets:
    raise RequestError(f"{size} rows; the buckets are {buckets}")
  lists = (size, form.list_width)
  shapes = ((size, form.max_history), lists, lists, (size,))
  for name, array, shape in zip(Rows._fields, rows, shapes):
    dtype = np.dtype(np.int32 if len(shape) == 2 else bool)
    if array.shape != shape or array.dtype != dtype:
      raise RequestError(
        f"{name} is {array.dtype} of shape {array.shape}; expected"
        f" {dtype} of {shape}"
      )
    if len(shape) == 2 and not -1 <= array.min() <= array.max() <= last:
      raise RequestError(
        f"{name} holds {array.min()} or {array.max()}; expected -1 or one of"
        f" the items 0..{last}"
      )
