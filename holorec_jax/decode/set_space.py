"""The lattice of valid code sets on device, and what filters leave of it.

The counterpart of `search_tree` and `filters` for unordered codes: see
`set_index` for nodes, edges and tokens. Filters are data, not shapes: changing
them compiles nothing, and they never change the score of what they let
through. A node is live while an allowed item lies below it, exactly, at every
step and whatever the lists. (What lists deny is counted node by node: work
grows with the square of a list's length.)
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from holorec_jax.catalog import Catalog
from holorec_jax.decode.filters import (
  Lists,
  combine,
  count_equal,
  denied_of_allowed,
  first_of_each,
  is_among,
)
from holorec_jax.set_index import SetIndex, build_set_index


@struct.dataclass
class Lattice:
  """`SetIndex` on device; arrays may be longer than the catalogue needs.

  Attributes:
    node_IX: (I, 2^M) node of each item in each subset; -1: not in the index.
    first_edge: (inner nodes,) place of a node's first edge.
    num_edges: (inner nodes,) edges.
    edge_token: (edges,) token of an edge; -1 behind the last one.
    edge_child: (edges,) node that it leads to.
    first_leaf: () number of the first leaf.
    first_item: (leaves,) place in leaf_items of a leaf's first item.
    num_items: (leaves,) items of a leaf.
    leaf_items: (I,) items, leaf by leaf.
    log_share_I: (I,) log share of an item in its leaf.
    num_codes: V.
    fanout: (M,) most edges of a node with 0 .. M - 1 codes.
    largest_leaf: most items of a leaf.
  """

  node_IX: jax.Array
  first_edge: jax.Array
  num_edges: jax.Array
  edge_token: jax.Array
  edge_child: jax.Array
  first_leaf: jax.Array
  first_item: jax.Array
  num_items: jax.Array
  leaf_items: jax.Array
  log_share_I: jax.Array
  num_codes: int = struct.field(pytree_node=False)
  fanout: tuple[int, ...] = struct.field(pytree_node=False)
  largest_leaf: int = struct.field(pytree_node=False)

  @property
  def num_codebooks(self) -> int:
    return len(self.fanout)

  def edges(self, size: int, node_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Places of the edges of nodes with `size` codes, and which there are.

    Returns:
      (B, N, F) int32, in bounds, and bool.
    """
    slot_F = jnp.arange(self.fanout[size], dtype=jnp.int32)
    exists_BNF = slot_F < self.num_edges[node_BN][..., None]
    place_BNF = self.first_edge[node_BN][..., None] + slot_F
    return jnp.where(exists_BNF, place_BNF, 0), exists_BNF

  def valid(self, size: int, node_BN: jax.Array) -> jax.Array:
    """Which codes continue nodes with `size` codes to an item.

    Whatever is available: probabilities are shared among these codes with
    softmax="tree". All codes of a codebook that the node has are said to be
    valid, so that shares among them are finite.

    Returns:
      (B, N, M, V) bool; (1, 1, M, V) for the root, where all are alike.
    """
    M, V = self.num_codebooks, self.num_codes
    if size == 0:
      node_BN = jnp.zeros((1, 1), jnp.int32)
    edge_BNF, exists_BNF = self.edges(size, node_BN)
    token_BNF = jnp.where(exists_BNF, self.edge_token[edge_BNF], M * V)

    def mark(token_F):
      return jnp.zeros(M * V, bool).at[token_F].set(True, mode="drop")

    # Row by row, so that devices which share the rows gather nothing.
    valid_BNX = jax.vmap(jax.vmap(mark))(token_BNF)
    valid_BNMV = valid_BNX.reshape(*valid_BNX.shape[:2], M, V)
    return valid_BNMV | ~valid_BNMV.any(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class SetCapacity:
  """Lengths of arrays and bounds on device; compilations depend on them.

  Attributes:
    items, inner, leaves, edges: of the catalogue and its index.
    fanout, largest_leaf: as in `Lattice`.
  """

  items: int
  inner: int
  leaves: int
  edges: int
  fanout: tuple[int, ...]
  largest_leaf: int

  def holds(self, other: "SetCapacity") -> bool:
    """Whether a catalogue that needs `other` fits."""
    mine, needed = dataclasses.astuple(self), dataclasses.astuple(other)
    return all(
      np.all(np.asarray(a) >= np.asarray(b)) for a, b in zip(mine, needed)
    )

  def with_room(self, share: float) -> "SetCapacity":
    """Room for all of it to grow by a share."""

    def grow(count: int) -> int:
      return count + math.ceil(share * count)

    return SetCapacity(
      items=grow(self.items),
      inner=grow(self.inner),
      leaves=grow(self.leaves),
      edges=grow(self.edges),
      fanout=tuple(map(grow, self.fanout)),
      largest_leaf=grow(self.largest_leaf),
    )


def index_of(catalog: Catalog) -> SetIndex:
  """The lattice of the catalogue's active items."""
  return build_set_index(
    catalog.codes_IL, catalog.num_codes, np.flatnonzero(catalog.active_I)
  )


def needs(index: SetIndex) -> SetCapacity:
  """The least capacity for an index."""
  return SetCapacity(
    items=len(index.node_IX),
    inner=index.first_leaf,
    leaves=len(index.num_items),
    edges=len(index.edge_token),
    fanout=index.fanout,
    largest_leaf=index.largest_leaf,
  )


def device_lattice(
  index: SetIndex, log_share_I: np.ndarray, capacity: SetCapacity
) -> Lattice:
  """Puts an index on the default device.

  Args:
    index: of the catalogue.
    log_share_I: log share of each item in its leaf.
    capacity: of the arrays; must hold the index.
  """

  def pad(array: np.ndarray, length: int, value=0) -> jax.Array:
    rows = ((0, length - len(array)),) + ((0, 0),) * (array.ndim - 1)
    return jnp.asarray(np.pad(array, rows, constant_values=value))

  return Lattice(
    node_IX=pad(index.node_IX, capacity.items, -1),
    first_edge=pad(index.first_edge, capacity.inner),
    num_edges=pad(index.num_edges, capacity.inner),
    edge_token=pad(index.edge_token, capacity.edges, -1),
    edge_child=pad(index.edge_child, capacity.edges),
    first_leaf=jnp.int32(index.first_leaf),
    first_item=pad(index.first_item, capacity.leaves),
    num_items=pad(index.num_items, capacity.leaves),
    leaf_items=pad(index.leaf_items, capacity.items),
    log_share_I=pad(log_share_I, capacity.items),
    num_codes=index.num_codes,
    fanout=capacity.fanout,
    largest_leaf=capacity.largest_leaf,
  )


@struct.dataclass
class SetLive:
  """What catalogue-wide availability leaves of the lattice.

  Attributes:
    item_I: bool, items that are in the index and available.
    count: (nodes,) int32 such items below each node.
    edge_token: (edges,) int32 as in the lattice, -1 where none is below.
  """

  item_I: jax.Array
  count: jax.Array
  edge_token: jax.Array


@jax.jit
def live_edges(lattice: Lattice, available_I: jax.Array) -> SetLive:
  """Turns a bitmap over items into the liveness of every edge.

  Args:
    lattice: the catalogue on device.
    available_I: bool, of the lattice's item capacity.
  """
  nodes = len(lattice.first_edge) + len(lattice.first_item)
  item_I = available_I & (lattice.node_IX[:, 0] >= 0)
  # Items that do not count go behind the end, where they are dropped.
  node_IX = jnp.where(item_I[:, None], lattice.node_IX, nodes)
  count = jnp.zeros(nodes, jnp.int32).at[node_IX].add(1, mode="drop")
  alive = count[lattice.edge_child] > 0
  return SetLive(item_I, count, jnp.where(alive, lattice.edge_token, -1))


@struct.dataclass
class SetMasks:
  """What `Lists` mean for the lattice.

  Attributes:
    lists: they themselves, for the items of a leaf.
    deny_BTX: int32 nodes below which the request leaves nothing, by denied
      item and subset; -1: none.
    allow_BAX: int32 nodes of what a restricted request asks for; -1: none.
  """

  lists: Lists
  deny_BTX: jax.Array
  allow_BAX: jax.Array

  def keep(self, size: int, child_BNF: jax.Array) -> jax.Array:
    """Which nodes with `size` codes the requests leave, (B, N, F) bool."""
    subsets = self.deny_BTX.shape[-1]
    own = np.array([s for s in range(subsets) if s.bit_count() == size])

    def among(node_BTX):
      node_BTY = node_BTX[..., own]
      return is_among(child_BNF, node_BTY.reshape(node_BTY.shape[0], -1))

    yes_BNF = jnp.ones(child_BNF.shape, bool)
    return combine(
      self.lists, yes_BNF, among(self.deny_BTX), among(self.allow_BAX)
    )

  def keep_items(self, item_BNG: jax.Array) -> jax.Array:
    """Which items the requests leave, (B, N, G) bool."""
    yes_BNG = jnp.ones(item_BNG.shape, bool)
    denied_BNG = is_among(item_BNG, self.lists.deny_BT)
    wanted_BNG = is_among(item_BNG, self.lists.allow_BA)
    return combine(self.lists, yes_BNG, denied_BNG, wanted_BNG)


def make_set_masks(lattice: Lattice, live: SetLive, lists: Lists) -> SetMasks:
  """Looks every listed item up in every subset, once per search."""

  def is_live(item_BT):
    return (item_BT >= 0) & live.item_I[jnp.maximum(item_BT, 0)]

  def nodes(item_BT, counts_BT):
    return jnp.where(counts_BT[..., None], lattice.node_IX[item_BT], -1)

  denied_BT = first_of_each(lists.deny_BT) & is_live(lists.deny_BT)
  node_BTX = nodes(lists.deny_BT, denied_BT)
  # Denied items below the same node, against all that are live there.
  count_XBT = count_equal(jnp.moveaxis(node_BTX, -1, 0), denied_BT)
  count_BTX = jnp.moveaxis(count_XBT, 0, -1)
  exhausted_BTX = count_BTX == live.count[jnp.maximum(node_BTX, 0)]
  among_BA = denied_of_allowed(lists)
  return SetMasks(
    lists=lists,
    deny_BTX=jnp.where(exhausted_BTX, node_BTX, -1),
    allow_BAX=nodes(lists.allow_BA, is_live(lists.allow_BA) & ~among_BA),
  )
