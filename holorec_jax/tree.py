"""The prefix tree of valid codes as flat numpy arrays (no jax here).

Sorted code rows make every level's nodes contiguous, every node's children
contiguous one level below and its items contiguous in one array, so a node
needs only its code and where its children and its items begin and how many
there are. Nodes are numbered level by level from the root 0.
"""

import dataclasses

import numpy as np

from holorec_jax.errors import UserError


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
    leaf_items: (I,) int32 items, sorted by code row.
    num_codes: V, the bound that codes were checked against.
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
    """(I,) int32 place of each item in `leaf_items`."""
    return np.argsort(self.leaf_items).astype(np.int32)

  def leaf_of_item(self) -> np.ndarray:
    """(I,) int32 node of the leaf that holds each item."""
    leaf_node = np.arange(
      self.level_start[-2], self.level_start[-1], dtype=np.int32
    )
    leaf_I = np.empty(len(self.leaf_items), np.int32)
    leaf_I[self.leaf_items] = np.repeat(
      leaf_node, self.num_items[self.level_start[-2] :]
    )
    return leaf_I


def continuations(tree: Tree) -> np.ndarray:
  """Which codes may follow each prefix of every item.

  Returns:
    (I, L, ceil(V / 8)) uint8, packed bits (little endian) over codes: bit v of
    [i, l] says whether the first l codes of item i may be followed by code v.
  """
  num_items, num_levels = len(tree.leaf_items), tree.num_levels
  width = -(-tree.num_codes // 8)
  packed_ILX = np.empty((num_items, num_levels, width), np.uint8)
  for level in range(num_levels):
    nodes = slice(tree.level_start[level], tree.level_start[level + 1])
    below = slice(tree.level_start[level + 1], tree.level_start[level + 2])
    parent = np.repeat(
      np.arange(nodes.stop - nodes.start), tree.num_children[nodes]
    )
    valid_NV = np.zeros((nodes.stop - nodes.start, tree.num_codes), bool)
    valid_NV[parent, tree.code[below]] = True
    packed_NX = np.packbits(valid_NV, axis=1, bitorder="little")
    packed_ILX[tree.leaf_items, level] = np.repeat(
      packed_NX, tree.num_items[nodes], axis=0
    )
  return packed_ILX


def shares(tree: Tree) -> np.ndarray:
  """(I, L) float32: one over the items below each item's nodes, 1 .. L deep."""
  share_IL = np.empty((len(tree.leaf_items), tree.num_levels), np.float32)
  for level in range(tree.num_levels):
    nodes = slice(tree.level_start[level + 1], tree.level_start[level + 2])
    count_N = tree.num_items[nodes]
    share_IL[tree.leaf_items, level] = np.repeat(1.0 / count_N, count_N)
  return share_IL


def build_tree(codes_IL: np.ndarray, num_codes: int) -> Tree:
  """Builds the tree of the items' code rows.

  Args:
    codes_IL: (I, L) integer codes; rows may repeat (items share a leaf).
    num_codes: V; every code must lie in [0, V).

  Returns:
    The tree; leaf_items keeps items of equal codes in item order.

  Raises:
    UserError: for an empty catalogue or a code out of range.
  """
  codes_IL = np.asarray(codes_IL)
  if codes_IL.ndim != 2 or 0 in codes_IL.shape:
    raise UserError(
      f"The tree needs codes of shape (items, levels); got {codes_IL.shape}."
    )
  out_of_range = np.argwhere((codes_IL < 0) | (codes_IL >= num_codes))
  if len(out_of_range):
    item, level = out_of_range[0]
    raise UserError(
      f"Item {item} has code {codes_IL[item, level]} at level {level}; codes"
      f" must lie in 0..{num_codes - 1}. Fit the semantic ids again."
    )
  num_items, num_levels = codes_IL.shape
  order = np.lexsort(codes_IL.T[::-1]).astype(np.int32)
  sorted_IL = codes_IL[order]
  # A row opens a new node at level l when it differs from the row above in
  # any of its first l codes.
  changed_IL = np.ones((num_items, num_levels), bool)
  changed_IL[1:] = np.logical_or.accumulate(
    sorted_IL[1:] != sorted_IL[:-1], axis=1
  )
  opening_rows = [np.zeros(1, np.int64)] + [
    np.flatnonzero(changed_IL[:, level]) for level in range(num_levels)
  ]
  level_start = np.cumsum([0] + [len(rows) for rows in opening_rows])
  code = [np.full(1, -1, np.int32)] + [
    sorted_IL[rows, level].astype(np.int32)
    for level, rows in enumerate(opening_rows[1:])
  ]
  first_child, num_children = [], []
  for depth in range(num_levels):
    below = opening_rows[depth + 1]
    first = np.searchsorted(below, opening_rows[depth])
    first_child.append(level_start[depth + 1] + first)
    num_children.append(np.diff(first, append=len(below)))
  num_below = [np.diff(rows, append=num_items) for rows in opening_rows]
  return Tree(
    code=np.concatenate(code),
    first_child=np.concatenate(first_child).astype(np.int32),
    num_children=np.concatenate(num_children).astype(np.int32),
    first_item=np.concatenate(opening_rows).astype(np.int32),
    num_items=np.concatenate(num_below).astype(np.int32),
    level_start=level_start,
    fanout=tuple(int(n.max()) for n in num_children),
    leaf_items=order,
    num_codes=num_codes,
  )
