"""The prefix tree of valid codes as flat numpy arrays (no jax here).

Sorted code rows make every level's nodes contiguous, every node's children
contiguous one level below and its items contiguous in one array, so a node
needs only its code and where its children and its items begin and how many
there are. Nodes are numbered level by level from the root 0.

Items that the catalogue counts but no longer recommends stay out of the tree;
their numbers stay theirs.
"""

import dataclasses
import itertools

import numpy as np

from holorec_jax.errors import UserError

MAX_CODES = 1 << 16
_MAX_COUNT = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class Tree:
  """A prefix tree of code rows; leaves hold groups of items.

  Attributes:
    code: (nodes,) int32 code that leads into the node; the root's is -1.
    first_child: (inner nodes,) int32 node; leaves, numbered last, have none.
    num_children: (inner nodes,) int32.
    first_item: (nodes,) int32 place in `leaf_items` of the first item below.
    num_items: (nodes,) int32 items below the node, at consecutive places.
    level_start: (L + 2,) int64; nodes of level l are level_start[l : l + 2].
    fanout: (L,) most children of any node at depth 0 .. L - 1.
    leaf_items: (items in the tree,) int32 items, sorted by code row.
    num_codes: V, the bound that codes were checked against.
    num_catalog_items: I, items that have a number, in the tree or not.
  """

  code: np.ndarray
  first_child: np.ndarray
  num_children: np.ndarray
  first_item: np.ndarray
  num_items: np.ndarray
  level_start: np.ndarray
  fanout: tuple[int, ...]
  leaf_items: np.ndarray
  num_codes: int
  num_catalog_items: int

  @property
  def num_levels(self) -> int:
    return len(self.fanout)

  @property
  def num_leaves(self) -> int:
    return int(self.level_start[-1] - self.level_start[-2])

  @property
  def largest_leaf(self) -> int:
    return int(self.num_items[self.level_start[-2] :].max())

  def place_of_item(self) -> np.ndarray:
    """(I,) int32 place of each item in `leaf_items`; -1 outside the tree."""
    place_I = np.full(self.num_catalog_items, -1, np.int32)
    place_I[self.leaf_items] = np.arange(len(self.leaf_items), dtype=np.int32)
    return place_I

  def leaf_of_item(self) -> np.ndarray:
    """(I,) int32 node of the leaf that holds each item; -1 outside the tree."""
    leaf_node = np.arange(
      self.level_start[-2], self.level_start[-1], dtype=np.int32
    )
    leaf_I = np.full(self.num_catalog_items, -1, np.int32)
    leaf_I[self.leaf_items] = np.repeat(
      leaf_node, self.num_items[self.level_start[-2] :]
    )
    return leaf_I


def continuations(tree: Tree) -> np.ndarray:
  """Which codes may follow each prefix of every item.

  Returns:
    (I, L, ceil(V / 8)) uint8, packed bits (little endian) over codes: bit v of
    [i, l] says whether the first l codes of item i may be followed by code v.
    Items outside the tree have no bit set.
  """
  width = -(-tree.num_codes // 8)
  packed_ILX = np.zeros(
    (tree.num_catalog_items, tree.num_levels, width), np.uint8
  )
  for level in range(tree.num_levels):
    nodes = slice(tree.level_start[level], tree.level_start[level + 1])
    below = slice(tree.level_start[level + 1], tree.level_start[level + 2])
    packed_NX = np.zeros((nodes.stop - nodes.start, width), np.uint8)
    parent = np.repeat(np.arange(len(packed_NX)), tree.num_children[nodes])
    # Children ascend by code, so that the bits of one byte are neighbours.
    byte = parent * width + tree.code[below] // 8
    opening = np.flatnonzero(np.diff(byte, prepend=-1))
    bit = (1 << tree.code[below] % 8).astype(np.uint8)
    packed_NX.reshape(-1)[byte[opening]] = np.bitwise_or.reduceat(bit, opening)
    packed_ILX[tree.leaf_items, level] = np.repeat(
      packed_NX, tree.num_items[nodes], axis=0
    )
  return packed_ILX


def shares(tree: Tree) -> np.ndarray:
  """One over the items below each item's nodes, 1 .. L deep.

  Returns:
    (I, L) float32; 0 for items outside the tree.
  """
  share_IL = np.zeros((tree.num_catalog_items, tree.num_levels), np.float32)
  for level in range(tree.num_levels):
    nodes = slice(tree.level_start[level + 1], tree.level_start[level + 2])
    count_N = tree.num_items[nodes]
    share_IL[tree.leaf_items, level] = np.repeat(1.0 / count_N, count_N)
  return share_IL


def build_tree(
  codes_IL: np.ndarray, num_codes: int, items: np.ndarray | None = None
) -> Tree:
  """Builds the tree of the items' code rows.

  Args:
    codes_IL: (I, L) integer codes; rows may repeat (items share a leaf).
    num_codes: V; every code must lie in [0, V).
    items: numbers of the items that are in the tree (default: all I); order
      and repeats do not matter.

  Returns:
    The tree; leaf_items keeps items of equal codes in item order.

  Raises:
    UserError: for an empty catalogue, no integers, V out of range, a code out
      of range (of any item), an unknown item number or no item at all.
  """
  codes_IL = np.asarray(codes_IL)
  check_codes(codes_IL, num_codes)
  chosen = _chosen(items, len(codes_IL))
  bits = int(num_codes - 1).bit_length()
  if codes_IL.shape[1] * bits <= 64:
    key = _packed(codes_IL, bits)[chosen]
    order = np.argsort(key, kind="stable")
    key = key[order]
    opens = key[1:] != key[:-1]
  else:
    order = np.lexsort(codes_IL[chosen].T[::-1])
    sorted_NL = codes_IL[chosen[order]]
    opens = (sorted_NL[1:] != sorted_NL[:-1]).any(axis=1)
  leaf_items = chosen[order]
  first = np.concatenate([[0], np.flatnonzero(opens) + 1])
  return tree_of_rows(
    codes_IL[leaf_items[first]],
    np.diff(first, append=len(leaf_items)),
    num_codes,
    leaf_items,
    len(codes_IL),
  )


def tree_of_rows(
  rows_NL: np.ndarray,
  count_N: np.ndarray,
  num_codes: int,
  leaf_items: np.ndarray | None = None,
  num_catalog_items: int | None = None,
) -> Tree:
  """Builds the tree of code rows that are sorted already.

  Args:
    rows_NL: (N, L) integer codes; strictly ascending, the first level counts
      most.
    count_N: (N,) items of each row, at least one.
    num_codes: V; every code must lie in [0, V).
    leaf_items: (sum of counts,) items of the first row, the second, and so on;
      by default items are numbered in that order.
    num_catalog_items: I, by default as many as are in the tree.

  Returns:
    The tree.

  Raises:
    UserError: rows that do not ascend or repeat; codes, counts or items of the
      wrong type, shape or range; more nodes or items than int32 counts.
  """
  rows_NL, count_N = np.asarray(rows_NL), np.asarray(count_N)
  check_codes(rows_NL, num_codes, "Row")
  _check_counts(count_N, len(rows_NL))
  place_N = np.concatenate([[0], np.cumsum(count_N)], dtype=np.int32)
  if leaf_items is None:
    leaf_items = np.arange(place_N[-1], dtype=np.int32)
  if num_catalog_items is None:
    num_catalog_items = len(leaf_items)
  leaf_items = np.asarray(leaf_items)
  _check_leaf_items(leaf_items, int(place_N[-1]), num_catalog_items)
  opening = _opening_rows(rows_NL)
  level_start = np.cumsum([0] + [len(rows) for rows in opening])
  _check_count("nodes", int(level_start[-1]))
  code = [np.full(1, -1, np.int32)] + [
    rows_NL[rows, level].astype(np.int32)
    for level, rows in enumerate(opening[1:])
  ]
  first_child, num_children = [], []
  for depth, (rows, below) in enumerate(itertools.pairwise(opening)):
    first = np.searchsorted(below, rows).astype(np.int32)
    first_child.append(level_start[depth + 1].astype(np.int32) + first)
    num_children.append(np.diff(first, append=np.int32(len(below))))
  first_item = [place_N[rows] for rows in opening]
  num_items = [np.diff(places, append=place_N[-1]) for places in first_item]
  return Tree(
    code=np.concatenate(code),
    first_child=np.concatenate(first_child),
    num_children=np.concatenate(num_children),
    first_item=np.concatenate(first_item),
    num_items=np.concatenate(num_items),
    level_start=level_start,
    fanout=tuple(int(n.max()) for n in num_children),
    leaf_items=leaf_items.astype(np.int32, copy=False),
    num_codes=int(num_codes),
    num_catalog_items=int(num_catalog_items),
  )


def check_codes(
  codes_IL: np.ndarray, num_codes: int, what: str = "Item"
) -> None:
  """Holds codes to integers (I, L) in [0, V).

  Raises:
    UserError: names the first row at fault, as `what` and its number.
  """
  if not 1 <= num_codes <= MAX_CODES:
    raise UserError(
      f"num_codes is {num_codes}; expected 1..{MAX_CODES} codes a level. Fit"
      " the semantic ids with a codebook of such a size."
    )
  if codes_IL.ndim != 2 or 0 in codes_IL.shape:
    raise UserError(
      f"The tree needs codes of shape (items, levels); got {codes_IL.shape}."
    )
  if codes_IL.dtype.kind not in "iu":
    raise UserError(
      f"The tree needs integer codes; got {codes_IL.dtype}, whose first row is"
      f" {codes_IL[0].tolist()}. Give the codes themselves, as int32."
    )
  # Two passes without a temporary; what is wrong is looked up when need be.
  if codes_IL.min() < 0 or codes_IL.max() >= num_codes:
    row, level = np.argwhere((codes_IL < 0) | (codes_IL >= num_codes))[0]
    raise UserError(
      f"{what} {row} has code {codes_IL[row, level]} at level {level}; codes"
      f" must lie in 0..{num_codes - 1}. Take them from the quantizer that the"
      " model was trained with, or fit the semantic ids again."
    )


def check_items(items: np.ndarray, num_items: int) -> None:
  """Holds item numbers to integers (N,) in [0, num_items); UserError."""
  if items.ndim != 1 or (len(items) and items.dtype.kind not in "iu"):
    raise UserError(
      "Items must be a flat array of item numbers; got"
      f" {items.dtype} of shape {items.shape}."
    )
  unknown = (items < 0) | (items >= num_items)
  if unknown.any():
    place = int(np.argmax(unknown))
    raise UserError(
      f"There is no item {items[place]} (entry {place}): items are numbered"
      f" 0..{num_items - 1}."
    )


def _chosen(items: np.ndarray | None, num_items: int) -> np.ndarray:
  """Ascending int32 numbers of the items in the tree."""
  _check_count("items", num_items)
  if items is None:
    return np.arange(num_items, dtype=np.int32)
  items = np.asarray(items)
  check_items(items, num_items)
  if not len(items):
    raise UserError("No item is left for the tree: keep at least one.")
  in_tree_I = np.zeros(num_items, bool)
  in_tree_I[items] = True
  return np.flatnonzero(in_tree_I).astype(np.int32)


def _packed(codes_IL: np.ndarray, bits: int) -> np.ndarray:
  """(I,) unsigned keys that compare as the rows do."""
  dtype = np.uint32 if codes_IL.shape[1] * bits <= 32 else np.uint64
  key_I = np.zeros(len(codes_IL), dtype)
  for code_I in codes_IL.T:
    np.left_shift(key_I, dtype(bits), out=key_I)
    np.bitwise_or(key_I, code_I.astype(dtype), out=key_I)
  return key_I


def _opening_rows(rows_NL: np.ndarray) -> list[np.ndarray]:
  """For depth 0 .. L, the rows that open a new node; UserError by row.

  A row does when it differs from the row above in any of its first codes.
  """
  opens_N = np.zeros(len(rows_NL), bool)
  opens_N[0] = True
  opening = [np.zeros(1, np.int32)]
  for level in range(rows_NL.shape[1]):
    code_N = np.ascontiguousarray(rows_NL[:, level])
    falls = (code_N[1:] < code_N[:-1]) & ~opens_N[1:]
    if falls.any():
      row = int(np.argmax(falls)) + 1
      raise UserError(
        f"Row {row} {rows_NL[row].tolist()} comes after row {row - 1}"
        f" {rows_NL[row - 1].tolist()}, but rows must ascend: sort them"
        " (np.lexsort over the levels, the last one first)."
      )
    opens_N[1:] |= code_N[1:] != code_N[:-1]
    opening.append(np.flatnonzero(opens_N).astype(np.int32))
  if not opens_N.all():
    row = int(np.argmin(opens_N))
    raise UserError(
      f"Row {row} {rows_NL[row].tolist()} repeats row {row - 1}: give each row"
      " once and count its items."
    )
  return opening


def _check_counts(count_N: np.ndarray, num_rows: int) -> None:
  if count_N.shape != (num_rows,) or count_N.dtype.kind not in "iu":
    raise UserError(
      f"{num_rows} rows need as many integer counts of items; got"
      f" {count_N.dtype} of shape {count_N.shape}."
    )
  if count_N.min() < 1:
    row = int(np.argmax(count_N < 1))
    raise UserError(
      f"Row {row} has {count_N[row]} items; leave out rows without items."
    )
  _check_count("items", int(count_N.sum(dtype=np.int64)))


def _check_leaf_items(
  leaf_items: np.ndarray, total: int, num_catalog_items: int
) -> None:
  _check_count("items", num_catalog_items)
  check_items(leaf_items, num_catalog_items)
  if len(leaf_items) != total:
    raise UserError(
      f"The rows count {total} items, but {len(leaf_items)} leaf items were"
      " given: list every row's items, row by row."
    )
  in_tree_I = np.zeros(num_catalog_items, bool)
  in_tree_I[leaf_items] = True
  if np.count_nonzero(in_tree_I) < total:
    item = int(np.argmax(np.bincount(leaf_items)))
    raise UserError(
      f"Item {item} is in the tree more than once: give each item one row."
    )


def _check_count(what: str, count: int) -> None:
  if count > _MAX_COUNT:
    raise UserError(
      f"The tree would have {count} {what}; at most {_MAX_COUNT} fit. Use"
      " fewer levels, or split the catalogue."
    )
