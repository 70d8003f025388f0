"""Another catalogue for an opened bundle: items that join it or leave it.

An item delta is a folder like a bundle (manifest, hashes, seal):

  manifest.json           what it is; which codes it belongs to
  items.jsonl.gz          [id, title] of each new item, a line each
  items.safetensors       their codes (N, R, L) of every granularity
  removed.json            ids of the items that leave

The programs take codes and tree as arguments, in arrays with room to grow; here
the tree is built again inside that room, as holorec_jax.tree does it. Items
keep their numbers: new ones get the next, those that left keep theirs, since
histories hold them.

This file stands alone beside `runtime.py`, here and in every bundle; it imports
the standard library and numpy. I items, of which A are active, L levels; a
level's nodes are those with as many codes.
"""

import itertools
import json
import pathlib
from collections.abc import Container, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

KIND = "item delta"
CODES, REMOVED = "items.safetensors", "removed.json"
Arrays = dict[str, np.ndarray]


class ChangeError(ValueError):
  """Items that cannot join or leave this catalogue.

  Attributes:
    what: is wrong.
    mend: what to do about it.
  """

  def __init__(self, what: str, mend: str):
    super().__init__(f"{what}: {mend}")
    self.what, self.mend = what, mend


class Delta(NamedTuple):
  """What changes.

  Attributes:
    ids, titles: of the new items.
    sids_NRL: their codes.
    removed: ids of the items that leave.
  """

  ids: Sequence[str]
  titles: Sequence[str]
  sids_NRL: np.ndarray
  removed: Sequence[str]


class Catalogue(NamedTuple):
  """What a bundle knows of its items.

  Attributes:
    item_ids, titles: by number.
    row_of: id -> number.
    weight_I: float64 smoothed training interactions.
    active_I: bool, whether an item may be recommended.
    arrays: "codes/.." and "index/..", padded, that searches read.
  """

  item_ids: list[str]
  titles: list[str]
  row_of: dict[str, int]
  weight_I: np.ndarray
  active_I: np.ndarray
  arrays: Arrays


def read(
  path: pathlib.Path, sealed: ModuleType, codes: str | None
) -> tuple[Delta, str]:
  """A delta and its hash.

  Args:
    path: its folder.
    sealed: the file of this name that lies beside this one.
    codes: hash of the run's codes that the delta must be of.

  Raises:
    BundleError: no delta of these codes, or damaged.
  """
  manifest = sealed.read_folder(path, verify=True)
  if manifest.get("kind") != KIND or manifest["sids"] != codes:
    raise sealed.BundleError(
      "is no item delta for the codes of this bundle's run",
      path,
      "make one of this run, or of this bundle, with launch/add_items.py",
    )
  pairs = sealed.read_items(path)
  delta = Delta(
    [item for item, _ in pairs],
    [title for _, title in pairs],
    sealed.read_tensors(path / CODES)["sids_NRL"],
    json.loads((path / REMOVED).read_text("utf-8")),
  )
  return delta, manifest["content"]


def change(
  catalogue: Catalogue, delta: Delta, form: Mapping[str, Any]
) -> Catalogue:
  """The catalogue with new items, and without those that leave.

  Args:
    catalogue: is not changed.
    delta: what is.
    form: the manifest's `catalogue`.

  Raises:
    ChangeError: an id that is there already or is not there, codes of another
      form, more than there is room for, or an index that does not grow.
  """
  _check(catalogue, delta, form)
  first, count = len(catalogue.item_ids), len(delta.ids)
  active_I = np.concatenate([catalogue.active_I, np.ones(count, bool)])
  active_I[[catalogue.row_of[item] for item in delta.removed]] = False
  if not active_I.any():
    raise ChangeError("no item would be left", "keep at least one")
  smoothing = np.full(count, form["smoothing"])
  weight_I = np.concatenate([catalogue.weight_I, smoothing])
  rows = zip(delta.ids, range(first, first + count))
  arrays = catalogue.arrays
  if form["kind"] == "tree":
    arrays = _append_codes(arrays, delta.sids_NRL, first)
    fine_IL = arrays["codes/fine_IL"][: first + count]
    built = _build_tree(fine_IL, weight_I, active_I)
    arrays = arrays | _place(built, arrays, form)
  return Catalogue(
    [*catalogue.item_ids, *delta.ids],
    [*catalogue.titles, *delta.titles],
    catalogue.row_of | dict(rows),
    weight_I,
    active_I,
    arrays,
  )


def replay(
  before: Catalogue, bundle: Any, golden: Mapping[str, list[Any]]
) -> None:
  """Asks a changed bundle what the golden request found, and for what is new.

  What is still there must be found, with the golden score but for its share of
  a leaf or of the popularity, which may have changed; so must all that is new.

  Args:
    before: the catalogue that the golden request was answered from.
    bundle: the changed one.
    golden: the request.

  Raises:
    ChangeError: something is not found, or with another score.
  """
  after: Catalogue = bundle.catalogue
  form, width = bundle.manifest["catalogue"], bundle.list_width
  # Then scores hang on which other items there are.
  relative = form.get("over_tree") or form.get("neighbours")
  asked = [
    [item for item in items if after.active_I[item]][:width]
    for items in golden["items"]
  ]
  item_UK, score_UK = bundle.recommend(golden["histories"], allow=asked)
  shared_I, prior_I = (
    of(after)[: len(before.weight_I)] - of(before)
    for of in (_leaf_shares, log_shares)
  )
  for user, items in enumerate(asked):
    shift_I = shared_I if golden["histories"][user] else prior_I
    found = dict(zip(item_UK[user].tolist(), score_UK[user].tolist()))
    scores = dict(zip(golden["items"][user], golden["scores"][user]))
    for item in items:
      wanted = scores[item] + shift_I[item]
      far = abs(found.get(item, np.inf) - wanted) > bundle.manifest["tolerance"]
      if item not in found or (far and not relative):
        raise ChangeError(
          f"golden request {user} finds item {item} with the score"
          f" {found.get(item)} then, not {wanted}",
          "serve the bundle without it, or export the bundle again",
        )
  _find_new(len(before.item_ids), bundle, golden["histories"][0])


def _find_new(first: int, bundle: Any, history: list[int]) -> None:
  """ChangeError unless new items, a batch of lists of them, are found."""
  width = min(bundle.k, bundle.list_width)
  new = np.arange(first, len(bundle.item_ids))
  new = new[bundle.catalogue.active_I[first:]][: width * bundle.buckets[-1]]
  lists = [new[at : at + width].tolist() for at in range(0, len(new), width)]
  item_UK, _ = bundle.recommend([history] * len(lists), allow=lists)
  lost = set(new.tolist()) - set(item_UK.reshape(-1).tolist())
  if lost:
    raise ChangeError(
      f"{_name([bundle.item_ids[item] for item in sorted(lost)])} would not be"
      " found",
      "serve the bundle without it, or export the bundle again",
    )


def _leaf_shares(catalogue: Catalogue) -> np.ndarray:
  items = len(catalogue.item_ids)
  shares_I = catalogue.arrays.get("index/log_share_I", np.zeros(items))
  return np.where(catalogue.active_I, shares_I[:items], 0)


def log_shares(catalogue: Catalogue) -> np.ndarray:
  """(I,) float32 log share of each item in the active ones' interactions."""
  total = catalogue.weight_I[catalogue.active_I].sum()
  return np.log(catalogue.weight_I / total).astype(np.float32)


def _check(catalogue: Catalogue, delta: Delta, form: Mapping[str, Any]) -> None:
  """ChangeError for what can be told from the delta itself."""
  check_ids(catalogue.row_of, delta.ids, delta.removed)
  if not len(delta.ids):
    return
  if form["kind"] != "tree":
    raise ChangeError(
      f"the bundle's system searches {form['kind']}, no tree of codes, and"
      " then takes no new items (any may leave)",
      "export another system of the run",
    )
  fine_IL = catalogue.arrays["codes/fine_IL"]
  known = catalogue.arrays["codes/sids_IRL"].shape[1:]
  codes = delta.sids_NRL
  if codes.shape[1:] != known or codes.shape[2] != fine_IL.shape[1]:
    raise ChangeError(
      f"the new items' codes are of shape {codes.shape}, the catalogue's of"
      f" {known} and {fine_IL.shape[1]} levels in the tree",
      "encode them with the bundle's quantizer; a run that tells items of"
      " equal codes apart by one more level (config.catalog.collisions) takes"
      " no new items, one with 'leaf' does",
    )
  if codes.min() < 0 or codes.max() >= form["num_codes"]:
    raise ChangeError(
      f"the new items have codes of {codes.min()}..{codes.max()}; expected"
      f" 0..{form['num_codes'] - 1}",
      "encode them with the bundle's quantizer",
    )


def check_ids(
  known: Container[str], ids: Sequence[str], removed: Sequence[str]
) -> None:
  """ChangeError for new items that are there, or others that are not."""
  _check_distinct("new", ids)
  _check_distinct("to leave", removed)
  there = [item for item in ids if item in known]
  if there:
    raise ChangeError(
      f"{_name(there)} are to join, but are in the catalogue already",
      "leave them out (what has left keeps its id)",
    )
  absent = [item for item in removed if item not in known]
  if absent:
    raise ChangeError(
      f"{_name(absent)} are to leave, but are not in the catalogue",
      "leave them out",
    )


def _check_distinct(what: str, ids: Sequence[str]) -> None:
  seen: set[str] = set()
  for item in ids:
    if item in seen:
      raise ChangeError(f"item {item!r} is {what} twice", "keep one of them")
    seen.add(item)


def _name(ids: Sequence[str]) -> str:
  """Some ids, for an error."""
  more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
  return f"item(s) {', '.join(map(repr, ids[:3]))}{more}"


def _append_codes(arrays: Arrays, sids_NRL: np.ndarray, first: int) -> Arrays:
  room, end = len(arrays["codes/fine_IL"]), first + len(sids_NRL)
  _check_room("items", end, room)
  sids_IRL = arrays["codes/sids_IRL"].copy()
  fine_IL = arrays["codes/fine_IL"].copy()
  sids_IRL[first:end], fine_IL[first:end] = sids_NRL, sids_NRL[:, -1]
  return arrays | {"codes/sids_IRL": sids_IRL, "codes/fine_IL": fine_IL}


def _check_room(what: str, needed: int, room: int) -> None:
  if needed > room:
    raise ChangeError(
      f"the catalogue would have {needed} {what}, and this bundle has room for"
      f" {room}",
      "export it again with a larger --room, or add fewer items",
    )


class _Tree(NamedTuple):
  """Arrays as `holorec_jax.tree.Tree` names them, and what bounds them."""

  arrays: Arrays
  share_IL: np.ndarray
  level_start: list[int]
  largest_leaf: int


def _build_tree(
  codes_IL: np.ndarray, weight_I: np.ndarray, active_I: np.ndarray
) -> _Tree:
  chosen_A = np.flatnonzero(active_I)
  order_A = np.lexsort(codes_IL[chosen_A].T[::-1])
  items_A = chosen_A[order_A]
  rows_AL = codes_IL[items_A]
  A, L = rows_AL.shape
  opens_A = np.arange(A) == 0
  opening = [np.zeros(1, np.int64)]
  for level in range(L):
    opens_A[1:] |= rows_AL[1:, level] != rows_AL[:-1, level]
    opening.append(np.flatnonzero(opens_A))
  start = np.cumsum([0, *map(len, opening)]).tolist()
  first_child, num_children = [], []
  for depth, (rows, below) in enumerate(itertools.pairwise(opening)):
    first = np.searchsorted(below, rows)
    first_child.append(start[depth + 1] + first)
    num_children.append(np.diff(first, append=len(below)))
  sizes = [np.diff(rows, append=A) for rows in opening]
  codes = [rows_AL[rows, level] for level, rows in enumerate(opening[1:])]
  leaf_A = np.repeat(np.arange(len(sizes[-1])), sizes[-1])
  leaf_weight = np.bincount(leaf_A, weights=weight_I[items_A])
  log_share_I = np.full(len(codes_IL), -np.inf, np.float32)
  log_share_I[items_A] = np.log(weight_I[items_A] / leaf_weight[leaf_A])
  share_IL = np.zeros((len(codes_IL), L), np.float32)
  for level, size in enumerate(sizes[1:]):
    share_IL[items_A, level] = np.repeat(1.0 / size, size)
  arrays = {
    "code": np.concatenate([[-1], *codes]),
    "first_child": np.concatenate(first_child),
    "num_children": np.concatenate(num_children),
    "first_item": np.concatenate(opening),
    "num_items": np.concatenate(sizes),
    "leaf_items": items_A,
    "log_share_I": log_share_I,
  }
  return _Tree(arrays, share_IL, start, int(sizes[-1].max()))


def _place(tree: _Tree, old: Arrays, form: Mapping[str, Any]) -> Arrays:
  """The tree in arrays of the old ones' sizes and types."""
  children, start = tree.arrays["num_children"], tree.level_start
  last = len(start) - 3
  ends = (0, 1, start[max(last, 1)], start[last + 1])
  groups = ("root", "inner nodes", "last inner nodes")
  for group, room, (begin, end) in zip(
    groups, form["fanout"], itertools.pairwise(ends)
  ):
    fanout = int(children[begin:end].max(initial=0))
    _check_room(f"codes below one of its {group}", fanout, room)
  _check_room("items of equal codes", tree.largest_leaf, form["largest_leaf"])
  built = tree.arrays | {
    "words": _bit_sets(tree, ends[form["dense_groups"]], old)
  }
  placed = {"codes/share_IL": _fill(tree.share_IL, old["codes/share_IL"], 0)}
  for name, array in built.items():
    like = old[f"index/{name}"]
    _check_room(f"entries of {name}", len(array), len(like))
    # No place of the tree: an item behind the last one.
    empty = len(like) if name == "leaf_items" else 0
    placed[f"index/{name}"] = _fill(array, like, empty)
  return placed


def _bit_sets(tree: _Tree, nodes: int, old: Arrays) -> np.ndarray:
  """Bit v of a row of the first nodes: whether code v may follow."""
  width = old["index/words"].shape[1]
  word_NW = np.zeros((nodes, width), np.uint32)
  children = tree.arrays["num_children"][:nodes]
  parent = np.repeat(np.arange(nodes), children)
  code = tree.arrays["code"][1 : 1 + len(parent)]
  bit = np.uint32(1) << (code % 32).astype(np.uint32)
  np.bitwise_or.at(word_NW.reshape(-1), parent * width + code // 32, bit)
  return word_NW


def _fill(array: np.ndarray, like: np.ndarray, empty: int) -> np.ndarray:
  filled = np.full_like(like, empty)
  filled[: len(array)] = array
  return filled
