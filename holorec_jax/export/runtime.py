"""Reads an exported bundle and answers from it, without the model code.

This file, with `sealed.py` and `rows.py` beside it, stands alone: it imports
the standard library, numpy and jax (whose `jax.export` needs the package
flatbuffers), and copies lie in every bundle. With its folder on the path:

  import runtime
  bundle = runtime.load("BUNDLE")
  bundle.warm_up()
  history = [bundle.row_of[item] for item in ("item7", "item42")]
  items_UK, scores_UK = bundle.recommend([history], exclude_seen=True, k=10)
  print([bundle.item_ids[item] for item in items_UK[0] if item >= 0])

Items are rows of `item_ids`, -1 is no item. Scores are float32 natural
logarithms of probabilities, -inf where there is no item. Shape suffixes: B rows
of a bucket, U users, T history slots, X list slots, K items returned, I items;
N new items with vectors of width W, R granularities of L codes.
`bundle.py` of holorec_jax.export says what the folder holds.
"""

import functools
import importlib.util
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np


def _load_sibling(name: str) -> ModuleType:
  """A file beside this one, wherever that is and whatever else is there."""
  path = pathlib.Path(__file__).resolve().with_name(f"{name}.py")
  spec = importlib.util.spec_from_file_location(f"bundle_{name}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


sealed = _load_sibling("sealed")
rows_lib = _load_sibling("rows")
BundleError, RequestError = sealed.BundleError, rows_lib.RequestError
Rows = rows_lib.Rows
MANIFEST, GOLDEN = sealed.MANIFEST, sealed.GOLDEN
ITEMS, WEIGHTS = sealed.ITEMS, sealed.WEIGHTS
seal, manifest_text = sealed.seal, sealed.manifest_text


class _Offer(NamedTuple):
  """What is available, swapped as one, so that no search sees half of it."""

  live: dict[str, jax.Array]
  prior_order: np.ndarray


def load(
  path: str | os.PathLike[str], *, verify: bool = True, replay: bool = True
) -> "Bundle":
  """Opens a bundle.

  Args:
    path: its folder.
    verify: hash every file; without, only their sizes are looked at.
    replay: answer the golden request and compare; compiles a small bucket.

  Raises:
    BundleError: no bundle of a known version, damaged, or it answers otherwise
      than where it was exported.
  """
  # Where a link leads may change while what was loaded is in use.
  path = pathlib.Path(path).resolve()
  bundle = Bundle(path, sealed.read_folder(path, verify))
  if replay:
    bundle.replay()
  return bundle


class Bundle:
  """An exported run that answers; all methods may be called from any thread.

  Attributes:
    path: its folder.
    manifest: what it is and was made from.
    item_ids: external id of each item.
    titles: of each item; "" where it has none.
    row_of: external id -> item.
    buckets: batch sizes that can be searched, ascending.
    max_history: T, items of a history that are read.
    list_width: X, most entries of a request's deny or allow list.
    k: items returned.
    beam: that the search keeps; it is compiled in.
  """

  def __init__(self, path: pathlib.Path, manifest: dict[str, Any]):
    """Reads the folder; `load` checks it before."""
    shapes = manifest["shapes"]
    self.path, self.manifest = path, manifest
    self.buckets: tuple[int, ...] = tuple(shapes["buckets"])
    self.max_history: int = shapes["max_history"]
    self.list_width: int = shapes["list_width"]
    self.k: int = shapes["k"]
    self.beam: int = shapes["beam"]
    pairs = sealed.read_items(path)
    self.item_ids: list[str] = [item for item, _ in pairs]
    self.titles: list[str] = [title for _, title in pairs]
    self.row_of = {item: row for row, item in enumerate(self.item_ids)}
    self._form = rows_lib.Form(len(pairs), self.max_history, self.list_width)
    arrays = sealed.read_tensors(path / sealed.WEIGHTS)
    arrays |= sealed.read_tensors(path / sealed.CATALOGUE)
    self._prior_I = arrays.pop("prior/score_I")
    self._active_I = arrays.pop("prior/active_I")
    self._arrays = jax.device_put(arrays)
    self._liveness = self._program(sealed.LIVENESS)
    self._search = {
      bucket: self._program(sealed.search_program(bucket))
      for bucket in self.buckets
    }
    # Few lists are long, and the work of a list is quadratic in its length.
    self._narrow: int = shapes["narrow_list"]
    self._search_wide = self._search[self.buckets[0]]
    if self._narrow < self.list_width:
      self._search_wide = self._program(sealed.WIDE)
    self._lock = threading.Lock()
    self.set_available(np.ones(len(self.item_ids), bool))

  def set_available(self, available_I: np.ndarray) -> None:
    """Returns only these items from now on; nothing is compiled again.

    Args:
      available_I: bool over the items, such as what is in stock.
    """
    available_I = np.asarray(available_I)
    if available_I.shape != (len(self.item_ids),) or available_I.dtype != bool:
      raise RequestError(
        f"availability is {available_I.dtype} of shape {available_I.shape};"
        f" expected one bool for each of the {len(self.item_ids)} items"
      )
    with self._lock:
      live = self._liveness(self._arrays, available_I)
      order = np.argsort(-self._prior_I, kind="stable")
      allowed_I = available_I & self._active_I
      self._offer = _Offer(live, order[allowed_I[order]])

  def warm_up(self) -> None:
    """Compiles every program, so that no request waits for that.

    With jax's persistent compilation cache configured, what is there is read.
    """
    for bucket in self.buckets:
      self.search(*self._blank(bucket))
    self._run(self._search_wide, self._blank(self.buckets[0]), self._offer)

  def search(
    self,
    item_BT: np.ndarray,
    deny_BX: np.ndarray,
    allow_BX: np.ndarray,
    restricted_B: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Searches one batch; B must be one of the buckets.

    Args:
      item_BT: int32 histories, oldest first, left-aligned, then -1; rows of
        nothing but -1 are padding, and what is found for them means nothing.
      deny_BX: int32 items never to return, -1 where empty.
      allow_BX: int32 items to choose from, for the restricted rows.
      restricted_B: bool.

    Returns:
      item_BK int32, -1 where no further item is allowed, and score_BK float32.

    Raises:
      RequestError: other shapes or dtypes, or an item that is none.
    """
    rows, offer = Rows(item_BT, deny_BX, allow_BX, restricted_B), self._offer
    self._check(rows)
    X = self._narrow
    narrow = rows._replace(deny_BX=deny_BX[:, :X], allow_BX=allow_BX[:, :X])
    item_BK, score_BK = self._run(self._search[len(item_BT)], narrow, offer)
    long_BX = (deny_BX >= 0) | (allow_BX >= 0)
    wide_W = np.flatnonzero(long_BX[:, X:].any(axis=1))
    bucket = self.buckets[0]
    for start in range(0, len(wide_W), bucket):
      part = wide_W[start : start + bucket]
      padded = Rows(*(rows_lib.pad_rows(array[part], bucket) for array in rows))
      found = self._run(self._search_wide, padded, offer)
      item_BK[part], score_BK[part] = (array[: len(part)] for array in found)
    return item_BK, score_BK

  def _run(
    self, program: Callable, rows: Any, offer: _Offer
  ) -> tuple[np.ndarray, np.ndarray]:
    """What a program finds, as arrays that may be written to."""
    item_BK, score_BK = program(self._arrays, offer.live, *rows)
    return np.array(item_BK), np.array(score_BK)

  def recommend(
    self,
    histories: Sequence[Sequence[int]],
    *,
    deny: Sequence[Sequence[int]] | None = None,
    allow: Sequence[Sequence[int] | None] | None = None,
    exclude_seen: bool = False,
    k: int | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Best items of any number of users, the best first.

    Args:
      histories: items of each user, oldest first; of longer ones than
        `max_history` the most recent are read. An empty one is answered with
        the most popular items, their scores log shares of the interactions.
      deny: items never to return, a list for each user.
      allow: items to choose from, a list for each user, or None for a user who
        may get any.
      exclude_seen: return no item of the (whole) history.
      k: items a user, at most `self.k`, which is the default.

    Returns:
      item_UK int32, -1 where no further item is allowed, and score_UK float32.

    Raises:
      RequestError: unknown items, lists that are too long or not one a user, k
        out of range.
    """
    k = self.k if k is None else k
    if not 1 <= k <= self.k:
      raise RequestError(f"k is {k}; this bundle was exported for 1..{self.k}")
    rows = rows_lib.make_rows(self._form, histories, deny, allow, exclude_seen)
    offer = self._offer
    item_UK = np.full((len(histories), k), -1, np.int32)
    score_UK = np.full((len(histories), k), -np.inf, np.float32)
    empty_U = (rows.item_BT < 0).all(axis=1)
    for user in np.flatnonzero(empty_U).tolist():
      best = self._most_popular(rows, user, offer.prior_order)[:k]
      item_UK[user, : len(best)] = best
      score_UK[user, : len(best)] = self._prior_I[best]
    for users, bucket in self._batches(np.flatnonzero(~empty_U)):
      padded = Rows(
        *(rows_lib.pad_rows(array[users], bucket) for array in rows)
      )
      item_BK, score_BK = self.search(*padded)
      item_UK[users] = item_BK[: len(users), :k]
      score_UK[users] = score_BK[: len(users), :k]
    return item_UK, score_UK

  def replay(self) -> None:
    """Answers the golden request; BundleError unless as when exported."""
    where = self.path / sealed.GOLDEN
    golden = json.loads(where.read_text("utf-8"))
    item_UK, score_UK = self.recommend(
      golden["histories"], deny=golden["deny"], allow=golden["allow"]
    )
    pairs = zip(golden["items"], golden["scores"])
    for user, (items, scores) in enumerate(pairs):
      found = item_UK[user][item_UK[user] >= 0].tolist()
      own_K = score_UK[user, : len(found)]
      same = found == items
      if same and np.all(np.abs(own_K - scores) <= self.manifest["tolerance"]):
        continue
      raise BundleError(
        f"does not come true: request {user} gets the items {found} with scores"
        f" {own_K.tolist()}, not {items} with {scores}",
        where,
        f"this jax {jax.__version__} on {jax.default_backend()} computes"
        f" something else than jax {self.manifest['versions']['jax']} did"
        " where it was exported; serve another bundle, or export it again",
      )

  def encode(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, R, L) int32 of items by the run's frozen quantizer.

    Args:
      vectors_NW: content vectors, made as the run's were.

    Raises:
      RequestError: vectors of another width or with NaN, or the run's codes
        were given to it and nothing can quantize.
    """
    about = self.manifest["quantizer"]
    if about is None:
      raise RequestError(
        "this bundle has no quantizer, since its run's codes were given to it:"
        " new items need codes from where those came from"
      )
    vectors_NW = np.asarray(vectors_NW, np.float32)
    finite = np.isfinite(vectors_NW).all()
    if vectors_NW.shape[1:] != (about["width"],) or not finite:
      raise RequestError(
        f"item vectors of shape {vectors_NW.shape}; expected finite ones of"
        f" (items, {about['width']})"
      )
    rows = about["rows"]
    codes = [np.zeros((0, *about["codes"]), np.int32)]
    for start in range(0, len(vectors_NW), rows):
      part = vectors_NW[start : start + rows]
      padded = np.pad(part, ((0, rows - len(part)), (0, 0)))
      found = self._encode(self._quantizer, padded)
      codes.append(np.asarray(found)[: len(part)])
    return np.concatenate(codes)

  @functools.cached_property
  def _encode(self) -> Callable:
    return self._program(sealed.ENCODE)

  @functools.cached_property
  def _quantizer(self) -> dict[str, jax.Array]:
    return jax.device_put(sealed.read_tensors(self.path / sealed.QUANTIZER))

  def _program(self, name: str) -> Callable:
    return sealed.read_program(self.path, self.manifest, name)

  def _batches(self, users: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Users in full largest buckets, the rest in the smallest that takes it."""
    largest = self.buckets[-1]
    for start in range(0, len(users), largest):
      part = users[start : start + largest]
      yield part, next(size for size in self.buckets if size >= len(part))

  def _most_popular(self, rows: Any, user: int, order: np.ndarray):
    """Items without a history, best first."""
    if rows.restricted_B[user]:
      order = order[np.isin(order, rows.allow_BX[user])]
    else:
      # No more can be returned or denied.
      order = order[: self.k + self.list_width]
    return order[~np.isin(order, rows.deny_BX[user])]

  def _blank(self, bucket: int) -> Any:
    """Arguments of a search that asks for nothing."""
    return rows_lib.make_rows(self._form, [[]] * bucket)

  def _check(self, rows: Any) -> None:
    """RequestError unless these are arguments of a compiled search."""
    bucket = len(rows.item_BT)
    if bucket not in self.buckets:
      raise RequestError(f"{bucket} rows; the buckets are {self.buckets}")
    last = len(self.item_ids) - 1
    for name, array, like in zip(Rows._fields, rows, self._blank(bucket)):
      if array.shape != like.shape or array.dtype != like.dtype:
        raise RequestError(
          f"{name} is {array.dtype} of shape {array.shape}; expected"
          f" {like.dtype} of {like.shape}"
        )
      if like.ndim == 2 and not -1 <= array.min() <= array.max() <= last:
        raise RequestError(
          f"{name} holds {array.min()} or {array.max()}; expected -1 or one of"
          f" the items 0..{last}"
        )
