"""The lattice of valid code sets as flat numpy arrays (no jax here).

REG4Rec (arXiv 2508.15308; the design's methods 3.5) identifies an item by M
codes, one of each codebook, which may be chosen in any order. What the prefix
tree (`tree.py`) is for ordered codes, this is for sets: a node is a subset S
of the codebooks with a code of each, shared by at least one item, so the same
codes chosen in another order lead to the same node. An edge adds a code of an
unused codebook; every node but the root has as many edges into it as codes.

Subsets are bit masks, codebook r is bit r. Nodes are numbered subset by
subset from the root 0, within one by their codes, the lowest codebook first.
A token is a codebook and its code in one number, codebook * V + code.
"""

import dataclasses

import numpy as np

from holorec_jax import tree as tree_lib
from holorec_jax.errors import UserError

MIN_CODEBOOKS, MAX_CODEBOOKS = 2, 8
_MAX_COUNT = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True)
class SetIndex:
  """All nodes of the catalogue's code sets; leaves hold groups of items.

  Attributes:
    node_IX: (I, 2^M) int32 node of each item's codes in each subset; -1 for
      items outside the index.
    subset_start: (2^M + 1,) int64; nodes of subset X are
      subset_start[X : X + 2].
    first_edge: (inner nodes,) int32 place of the node's first edge; leaves,
      numbered last, have none.
    num_edges: (inner nodes,) int32.
    edge_token: (edges,) int32 token that an edge adds, ascending per node.
    edge_child: (edges,) int32 node that it leads to.
    first_item: (leaves,) int32 place in `leaf_items` of a leaf's first item.
    num_items: (leaves,) int32.
    leaf_items: (items in the index,) int32, leaf by leaf in item order.
    fanout: (M,) most edges of any node with 0 .. M - 1 codes.
    num_codes: V.
  """

  node_IX: np.ndarray
  subset_start: np.ndarray
  first_edge: np.ndarray
  num_edges: np.ndarray
  edge_token: np.ndarray
  edge_child: np.ndarray
  first_item: np.ndarray
  num_items: np.ndarray
  leaf_items: np.ndarray
  fanout: tuple[int, ...]
  num_codes: int

  @property
  def num_codebooks(self) -> int:
    return len(self.fanout)

  @property
  def num_nodes(self) -> int:
    return int(self.subset_start[-1])

  @property
  def first_leaf(self) -> int:
    """Node number of the first leaf: leaves are the full subset's nodes."""
    return int(self.subset_start[-2])

  @property
  def largest_leaf(self) -> int:
    return int(self.num_items.max())

  @property
  def bytes_per_item(self) -> float:
    """Of all arrays, by item in the index; at most about (4 M + 12) 2^M."""
    arrays = (getattr(self, f.name) for f in dataclasses.fields(self))
    total = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
    return total / len(self.leaf_items)


def build_set_index(
  codes_IM: np.ndarray, num_codes: int, items: np.ndarray | None = None
) -> SetIndex:
  """Builds the lattice of the items' code sets.

  Args:
    codes_IM: (I, M) integer codes, one of each codebook; rows may repeat.
    num_codes: V; every code must lie in [0, V).
    items: numbers of the items in the index (default: all I); order and
      repeats do not matter.

  Returns:
    The index; the same for the same items, whatever machine built it.

  Raises:
    UserError: M out of 2..8, codes of the wrong type or range, an unknown item
      number, no item at all, or more nodes or edges than int32 counts.
  """
  codes_IM = np.asarray(codes_IM)
  tree_lib.check_codes(codes_IM, num_codes)
  num_items, M = codes_IM.shape
  if not MIN_CODEBOOKS <= M <= MAX_CODEBOOKS:
    raise UserError(
      f"The items have {M} codes; sets of"
      f" {MIN_CODEBOOKS}..{MAX_CODEBOOKS} can be searched in any order. Fit"
      " the semantic ids with as many codebooks."
    )
  chosen_J = _chosen(items, num_items)
  node_JX, subset_start = _number_nodes(codes_IM[chosen_J], num_codes)
  node_IX = np.full((num_items, 1 << M), -1, np.int32)
  node_IX[chosen_J] = node_JX
  leaf_J = node_JX[:, -1] - subset_start[-2]
  counts = np.bincount(leaf_J).astype(np.int32)
  parent, token, child = _edges(
    node_JX, codes_IM[chosen_J], num_codes, subset_start
  )
  num_edges = np.bincount(parent, minlength=subset_start[-2]).astype(np.int32)
  size_X = np.array([subset.bit_count() for subset in range(1 << M)])
  size_N = np.repeat(size_X[:-1], np.diff(subset_start)[:-1])
  return SetIndex(
    node_IX=node_IX,
    subset_start=subset_start,
    first_edge=_starts(num_edges),
    num_edges=num_edges,
    edge_token=token,
    edge_child=child,
    first_item=_starts(counts),
    num_items=counts,
    leaf_items=chosen_J[np.argsort(leaf_J, kind="stable")],
    fanout=tuple(int(num_edges[size_N == size].max()) for size in range(M)),
    num_codes=int(num_codes),
  )


def shares(index: SetIndex) -> np.ndarray:
  """One over the items below each item's node of every subset.

  Returns:
    (I, 2^M) float32; 0 for items outside the index.
  """
  inside_I = index.node_IX[:, 0] >= 0
  share_IX = np.zeros(index.node_IX.shape, np.float32)
  for subset, node_I in enumerate(index.node_IX.T):
    place_J = node_I[inside_I] - index.subset_start[subset]
    share_IX[inside_I, subset] = 1.0 / np.bincount(place_J)[place_J]
  return share_IX


def _chosen(items: np.ndarray | None, num_items: int) -> np.ndarray:
  """Ascending int32 numbers of the items in the index."""
  if items is None:
    return np.arange(num_items, dtype=np.int32)
  items = np.asarray(items)
  tree_lib.check_items(items, num_items)
  if not len(items):
    raise UserError("No item is left for the index: keep at least one.")
  return np.unique(items).astype(np.int32)


def _number_nodes(
  codes_JM: np.ndarray, num_codes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Node of every item in every subset, and where each subset's begin."""
  J, M = codes_JM.shape
  node_JX = np.zeros((J, 1 << M), np.int32)
  subset_start = np.zeros((1 << M) + 1, np.int64)
  subset_start[1] = 1
  for subset in range(1, 1 << M):
    # The subset without its highest codebook is numbered already, in the
    # order of its codes.
    highest = subset.bit_length() - 1
    before_J = node_JX[:, subset ^ (1 << highest)].astype(np.int64)
    key_J = before_J * num_codes + codes_JM[:, highest]
    unique, place_J = np.unique(key_J, return_inverse=True)
    subset_start[subset + 1] = subset_start[subset] + len(unique)
    _check_count("nodes", int(subset_start[subset + 1]))
    node_JX[:, subset] = subset_start[subset] + place_J
  return node_JX, subset_start


def _edges(
  node_JX: np.ndarray,
  codes_JM: np.ndarray,
  num_codes: int,
  subset_start: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Parent, token and child of every edge, by parent and token."""
  member_N = np.zeros(subset_start[-1], np.int64)
  for node_J in node_JX.T:
    member_N[node_J] = np.arange(len(node_J))
  parents, tokens, children = [], [], []
  for subset in range(1, len(subset_start) - 1):
    child = np.arange(
      subset_start[subset], subset_start[subset + 1], dtype=np.int32
    )
    # Any item of the child says where it came from and by which code.
    member = member_N[child]
    for codebook in range(codes_JM.shape[1]):
      if subset >> codebook & 1:
        parents.append(node_JX[member, subset ^ (1 << codebook)])
        tokens.append(codebook * num_codes + codes_JM[member, codebook])
        children.append(child)
  _check_count("edges", sum(map(len, parents)))
  parent = np.concatenate(parents)
  token = np.concatenate(tokens).astype(np.int32)
  order = np.lexsort((token, parent))
  return parent[order], token[order], np.concatenate(children)[order]


def _starts(counts: np.ndarray) -> np.ndarray:
  return (np.cumsum(counts) - counts).astype(np.int32)


def _check_count(what: str, count: int) -> None:
  if count > _MAX_COUNT:
    raise UserError(
      f"The index would have {count} {what}; at most {_MAX_COUNT} fit. Use"
      " fewer codebooks, or split the catalogue."
    )
