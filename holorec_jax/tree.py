"""The prefix tree of valid codes as flat numpy arrays (no jax here).

Sorted code rows make every level's nodes contiguous and every node's children
contiguous one level below, so a node needs only its first child, its number
of children and its code. Nodes are numbered level by level from the root 0.
"""

import dataclasses

import numpy as np

from holorec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tree:
  """A prefix tree of code rows; leaves hold groups of items.

  Attributes:
    code: (nodes,) int32 code that leads into the node; the root's is -1.
    first_child: (nodes,) int32; for a leaf, its first place in `leaf_items`.
    num_children: (nodes,) int32; for a leaf, its number of items.
    level_start: (L + 2,) int64; nodes of level l are level_start[l : l + 2].
    fanout: (L,) most children of any node at depth 0 .. L - 1.
    leaf_items: (I,) int32 items, sorted by code row.
    num_codes: V, the bound that codes were checked against.
  """

  code: np.ndarray
  first_child: np.ndarray
  num_children: np.ndarray
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
    return int(self.num_children[self.level_start[-2] :].max())

  def leaf_of_item(self) -> np.ndarray:
    """(I,) int32 node of the leaf that holds each item."""
    leaf_node = np.arange(
      self.level_start[-2], self.level_start[-1], dtype=np.int32
    )
    leaf_I = np.empty(len(self.leaf_items), np.int32)
    leaf_I[self.leaf_items] = np.repeat(
      leaf_node, self.num_children[self.level_start[-2] :]
    )
    return leaf_I


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
  for depth, rows in enumerate(opening_rows):
    if depth < num_levels:
      below, base = opening_rows[depth + 1], level_start[depth + 1]
    else:
      below, base = np.arange(num_items), 0
    first = np.searchsorted(below, rows)
    first_child.append((base + first).astype(np.int32))
    num_children.append(np.diff(np.append(first, len(below))).astype(np.int32))
  return Tree(
    code=np.concatenate(code),
    first_child=np.concatenate(first_child),
    num_children=np.concatenate(num_children),
    level_start=level_start,
    fanout=tuple(int(n.max()) for n in num_children[:num_levels]),
    leaf_items=order,
    num_codes=num_codes,
  )
