"""Reads an exported bundle and answers from it, without the model code.

This file, with six others beside it, stands alone: it imports the standard
library, numpy and jax (whose `jax.export` needs the package flatbuffers), and
copies lie in every bundle. With its folder on the path:

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

import copy
import importlib.util
import os
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np


def _load_sibling(name: str, home: str = "export") -> ModuleType:
  """A file beside this one, wherever that is and whatever else is there.

  Args:
    name: the file's, without its suffix.
    home: where in the package it lies.
  """
  path = pathlib.Path(__file__).resolve().with_name(f"{name}.py")
  if not path.is_file():
    path = path.parent.with_name(home) / path.name
  spec = importlib.util.spec_from_file_location(f"bundle_{name}", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


sealed = _load_sibling("sealed")
rows_lib = _load_sibling("rows")
changes = _load_sibling("changes")
coding = _load_sibling("coding")
explaining = _load_sibling("explaining")
cold_items = _load_sibling("cold_items", "vectors")
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
  manifest = sealed.read_folder(path, verify)
  if "shapes" not in manifest:
    raise BundleError(
      f"is no bundle but an {manifest.get('kind', 'unknown folder')}",
      path,
      "apply it to one (Bundle.apply_delta)",
    )
  bundle = Bundle(path, manifest)
  if replay:
    bundle.replay()
  return bundle


class Bundle:
  """An exported run that answers; all methods may be called from any thread.

  Attributes:
    path: its folder.
    manifest: what it is and was made from; `deltas` names those in it.
    item_ids: external id of each item.
    titles: of each item; "" where it has none.
    row_of: external id -> item.
    buckets: batch sizes that can be searched, ascending.
    max_history: T, items of a history that are read.
    list_width: X, most entries of a request's deny or allow list.
    catalogue: its items as arrays (`changes.Catalogue`).
    k: items returned.
    beam: that the search keeps; it is compiled in.
    explains: whether `explain` does.
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
    self._coder = coding.Coder(path, manifest, sealed, cold_items, RequestError)
    self._explainer = explaining.Explainer(path, manifest, sealed, rows_lib)
    self.explains: bool = self._explainer.explains
    self._weights = jax.device_put(sealed.read_tensors(path / sealed.WEIGHTS))
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
    pairs = sealed.read_items(path)
    arrays = sealed.read_tensors(path / sealed.CATALOGUE)
    self._adopt(
      changes.Catalogue(
        [item for item, _ in pairs],
        [title for _, title in pairs],
        {item: row for row, (item, _) in enumerate(pairs)},
        arrays.pop("prior/weight_I"),
        arrays.pop("prior/active_I"),
        arrays,
      )
    )
    self._exported = self.catalogue

  def _adopt(self, catalogue: Any) -> None:
    """Answers from a catalogue, all of whose items are available."""
    self._lock = threading.Lock()
    self.catalogue = catalogue
    self.item_ids: list[str] = catalogue.item_ids
    self.titles: list[str] = catalogue.titles
    self.row_of: dict[str, int] = catalogue.row_of
    items = len(self.item_ids)
    self._form = rows_lib.Form(items, self.max_history, self.list_width)
    self._prior_I = changes.log_shares(catalogue)
    self._arrays = self._weights | jax.device_put(catalogue.arrays)
    self.set_available(np.ones(items, bool))

  def set_available(self, available_I: np.ndarray) -> None:
    """Returns only these items from now on; nothing is compiled again.

    Args:
      available_I: bool over the items, such as what is in stock.
    """
    available_I = rows_lib.check_available(self._form, available_I)
    allowed_I = available_I & self.catalogue.active_I
    room = self.manifest["shapes"]["capacity"] - len(allowed_I)
    with self._lock:
      live = self._liveness(self._arrays, np.pad(allowed_I, (0, room)))
      order = np.argsort(-self._prior_I, kind="stable")
      self._offer = _Offer(live, order[allowed_I[order]])

  def warm_up(self) -> None:
    """Compiles every program, so that no request waits for that.

    With jax's persistent compilation cache configured, what is there is read.
    """
    for bucket in self.buckets:
      self.search(*self._blank(bucket))
    self._run(self._search_wide, self._blank(self.buckets[0]), self._offer)
    self._explainer.warm_up(self._arrays, self._blank(1).item_BT)

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
    rows_lib.check_rows(self._form, self.buckets, rows)
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
      # No more than these can be returned or denied.
      most = self.k + self.list_width
      best = rows_lib.choose(offer.prior_order, rows, user, most)[:k]
      item_UK[user, : len(best)] = best
      score_UK[user, : len(best)] = self._prior_I[best]
    for users, bucket in rows_lib.batches(
      np.flatnonzero(~empty_U), self.buckets
    ):
      padded = Rows(
        *(rows_lib.pad_rows(array[users], bucket) for array in rows)
      )
      item_BK, score_BK = self.search(*padded)
      item_UK[users] = item_BK[: len(users), :k]
      score_UK[users] = score_BK[: len(users), :k]
    return item_UK, score_UK

  def explain(
    self, history: Sequence[int], items: Sequence[int]
  ) -> list[dict[str, Any]]:
    """Why some items for one user, as JSON.

    Args:
      history: of the user, oldest first, not empty.
      items: such as were recommended.

    Returns:
      Of each item: `levels`, of which each has its `code`, the code's
      `log_probability` and the `thought` before it (the likeliest coarse codes,
      each a `code` and its `probability`; none where the system does not think
      in codes); and `log_share`, of the item among those of equal codes. These
      logarithms add up to the score, unless search heeds neighbours.

    Raises:
      RequestError: no history, items that cannot be recommended, or a bundle
        that does not explain.
    """
    item_1T = rows_lib.make_rows(self._form, [history]).item_BT
    return self._explainer.explain(self.catalogue, self._arrays, item_1T, items)

  def replay(self) -> None:
    """Answers the golden request; BundleError unless as when exported."""
    golden = sealed.read_golden(self.path)
    item_UK, score_UK = self.recommend(
      golden["histories"], deny=golden["deny"], allow=golden["allow"]
    )
    sealed.compare(self.path, self.manifest, golden, item_UK, score_UK)

  def codes_of(
    self,
    items: Sequence[Mapping[str, str]],
    given: Mapping[str, np.ndarray] | None = None,
  ) -> np.ndarray:
    """Codes (N, R, L) int32 of new items, from their texts.

    Args:
      items: of each, column of the item table -> text; what is not there is
        empty. manifest["encoder"] says which columns the run has read.
      given: rows of the sources that are no text, where the run has such ones
        (manifest["encoder"]["given"]: name -> width).

    Raises:
      RequestError: an unknown column, rows that are missing or of another
        shape, or the bundle has no encoder or no quantizer.
    """
    return self.encode(self.vectors_of(items, given))

  def vectors_of(
    self,
    items: Sequence[Mapping[str, str]],
    given: Mapping[str, np.ndarray] | None = None,
  ) -> np.ndarray:
    """Vectors (N, W) float32 of new items; arguments as of `codes_of`."""
    return self._coder.vectors(items, given)

  def encode(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, R, L) int32 of items by the run's frozen quantizer.

    Args:
      vectors_NW: content vectors, made as the run's were.

    Raises:
      RequestError: vectors of another width or with NaN, or the run's codes
        were given to it and nothing can quantize.
    """
    return self._coder.codes(vectors_NW)

  def apply_delta(self, path: str | os.PathLike[str]) -> "Bundle":
    """This bundle with the items of a delta; nothing is compiled again.

    Args:
      path: the delta's folder, such as launch/add_items.py writes.

    Returns:
      Another bundle, which shares programs and weights with this one and has
      every item available. This one goes on as it was.

    Raises:
      BundleError: no delta of this bundle's codes, damaged, there is no room
        for it, or what the golden request found is not found any more.
    """
    own = self.manifest.get("made_from", {}).get("sids")
    delta, name = changes.read(pathlib.Path(path).resolve(), sealed, own)
    try:
      return self.change(delta, name)
    except changes.ChangeError as error:
      what = f"cannot be applied, since {error.what}"
      raise BundleError(what, path, error.mend) from None

  def change(self, delta: Any, name: str) -> "Bundle":
    """As `apply_delta`, of a `changes.Delta` that has a name."""
    other = copy.copy(self)
    deltas = [*self.manifest.get("deltas", []), name]
    other.manifest = self.manifest | {"deltas": deltas}
    other.manifest["content"] = seal(other.manifest)
    form = self.manifest["catalogue"]
    other._adopt(changes.change(self.catalogue, delta, form))
    changes.replay(self._exported, other, sealed.read_golden(self.path))
    return other

  def _program(self, name: str) -> Callable:
    return sealed.read_program(self.path, self.manifest, name)

  def _blank(self, bucket: int) -> Any:
    """Arguments of a search that asks for nothing."""
    return rows_lib.make_rows(self._form, [[]] * bucket)
