"""The catalogue's tree on device, in arrays with room to grow.

The codes that may follow a node are kept in one of two forms. Near the root,
where nodes are few and wide, as a bit set: a mask over all V codes then costs
a few words a beam, however many items there are. Below, where nodes are many
and narrow, as the nodes' children themselves, of which a beam tries at most
`fanout`. Arrays are longer than the catalogue needs, so that a changed one
takes their place without a new compilation (`Capacity`).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from holorec_jax.catalog import Catalog
from holorec_jax.tree import Tree

WORD = 32
# Depths are treated in three groups: the root, all between, the last.
ROOT, BETWEEN, LAST = range(3)


@struct.dataclass
class SearchTree:
  """The tree on device (see `tree.Tree` for the numbering of nodes).

  Attributes:
    code: (nodes,) code that leads into a node.
    first_child: (inner nodes,) first child.
    num_children: (inner nodes,) children.
    first_item: (nodes,) place in leaf_items of the first item below.
    num_items: (nodes,) items below.
    leaf_items: (I,) items in code order.
    log_share_I: (I,) log share of an item in its leaf.
    words: (nodes of dense groups, W) uint32 bit sets: bit v of a row says
      whether code v may follow the node.
    num_levels: L.
    num_codes: V.
    dense_groups: of root, between and last, how many have bit sets.
    fanout: most children of a node in the root, between and the last group.
    largest_leaf: most items of a leaf.
  """

  code: jax.Array
  first_child: jax.Array
  num_children: jax.Array
  first_item: jax.Array
  num_items: jax.Array
  leaf_items: jax.Array
  log_share_I: jax.Array
  words: jax.Array
  num_levels: int = struct.field(pytree_node=False)
  num_codes: int = struct.field(pytree_node=False)
  dense_groups: int = struct.field(pytree_node=False)
  fanout: tuple[int, int, int] = struct.field(pytree_node=False)
  largest_leaf: int = struct.field(pytree_node=False)

  def is_dense(self, group: int) -> bool:
    return group < self.dense_groups

  def group(self, depth: int) -> int:
    """The group of a node's depth, 0 .. L - 1."""
    if depth == 0:
      return ROOT
    return LAST if depth == self.num_levels - 1 else BETWEEN


@dataclasses.dataclass(frozen=True)
class Capacity:
  """What arrays and bounds on device have room for; compilations depend on it.

  Attributes:
    items: of the catalogue, removed ones included.
    nodes: of the tree.
    inner: nodes that are no leaves.
    dense: nodes with bit sets.
    dense_groups, fanout, largest_leaf: as in `SearchTree`.
  """

  items: int
  nodes: int
  inner: int
  dense: int
  dense_groups: int
  fanout: tuple[int, int, int]
  largest_leaf: int

  def holds(self, other: "Capacity") -> bool:
    """Whether a catalogue that needs `other` fits."""
    if self.dense_groups != other.dense_groups:
      return False
    mine, needed = dataclasses.astuple(self), dataclasses.astuple(other)
    return all(
      np.all(np.asarray(a) >= np.asarray(b)) for a, b in zip(mine, needed)
    )


def needs(catalog: Catalog, dense_groups: int | None = None) -> Capacity:
  """The least capacity for a catalogue.

  Args:
    catalog: the items.
    dense_groups: keep to this many; None chooses.
  """
  tree = catalog.tree
  fanout = tree.fanout
  if dense_groups is None:
    dense_groups = _dense_groups(tree)
  return Capacity(
    items=catalog.num_items,
    nodes=len(tree.code),
    inner=len(tree.first_child),
    dense=_group_ends(tree)[dense_groups],
    dense_groups=dense_groups,
    fanout=(fanout[0], max(fanout[1:-1], default=0), fanout[-1]),
    largest_leaf=tree.largest_leaf,
  )


def with_room(least: Capacity, room: float) -> Capacity:
  """Room for a catalogue to grow by a share, and its nodes with it."""

  def grow(count: int) -> int:
    return count + math.ceil(room * count)

  root, between, last = least.fanout
  return Capacity(
    items=grow(least.items),
    nodes=grow(least.nodes),
    inner=grow(least.inner),
    dense=grow(least.dense),
    dense_groups=least.dense_groups,
    fanout=(grow(root), grow(between), grow(last)),
    largest_leaf=grow(least.largest_leaf),
  )


def _group_ends(tree: Tree) -> tuple[int, int, int, int]:
  """Nodes before each group, and nodes that are no leaves."""
  start = tree.level_start
  last = tree.num_levels - 1
  return 0, 1, int(start[max(last, 1)]), int(start[last + 1])


def _dense_groups(tree: Tree) -> int:
  """Groups, from the root, that are wide and whose bit sets are affordable."""
  ends = _group_ends(tree)
  fanouts = (tree.fanout[0], max(tree.fanout[1:-1], default=0), tree.fanout[-1])
  groups = 0
  budget = 2**20 + 16 * len(tree.leaf_items)
  for group, fanout in enumerate(fanouts):
    size = ends[group + 1] * tree.num_codes // 8
    if fanout and (fanout * WORD // 2 < tree.num_codes or size > budget):
      break
    groups = group + 1
  return groups


def bit_sets(tree: Tree, num_nodes: int) -> np.ndarray:
  """(num_nodes, W) uint32 of the first nodes."""
  width = -(-tree.num_codes // WORD)
  word_NW = np.zeros((num_nodes, width), np.uint32)
  children = tree.num_children[:num_nodes]
  parent = np.repeat(np.arange(num_nodes), children)
  code = tree.code[1 : 1 + len(parent)]
  np.bitwise_or.at(
    word_NW.reshape(-1),
    parent * width + code // WORD,
    np.uint32(1) << (code % WORD).astype(np.uint32),
  )
  return word_NW


def device_tree(
  catalog: Catalog, capacity: Capacity | None = None
) -> SearchTree:
  """Puts the catalogue's tree on the default device.

  Args:
    catalog: the items.
    capacity: of the arrays and bounds; None: no more than is needed.

  Raises:
    ValueError: the catalogue does not fit.
  """
  tree = catalog.tree
  if capacity is None:
    capacity = needs(catalog)
  least = needs(catalog, capacity.dense_groups)
  if not capacity.holds(least):
    raise ValueError(f"the catalogue needs {least}, more than {capacity}")

  def pad(array: np.ndarray, length: int, value=0) -> jax.Array:
    rows = ((0, length - len(array)),) + ((0, 0),) * (array.ndim - 1)
    return jnp.asarray(np.pad(array, rows, constant_values=value))

  return SearchTree(
    code=pad(tree.code, capacity.nodes),
    first_child=pad(tree.first_child, capacity.inner),
    num_children=pad(tree.num_children, capacity.inner),
    first_item=pad(tree.first_item, capacity.nodes),
    num_items=pad(tree.num_items, capacity.nodes),
    leaf_items=pad(tree.leaf_items, capacity.items, capacity.items),
    log_share_I=pad(catalog.log_share_I, capacity.items),
    words=pad(bit_sets(tree, least.dense), capacity.dense),
    num_levels=tree.num_levels,
    num_codes=tree.num_codes,
    dense_groups=capacity.dense_groups,
    fanout=capacity.fanout,
    largest_leaf=capacity.largest_leaf,
  )


def unpack(word_W: jax.Array, num_codes: int) -> jax.Array:
  """(.., W) uint32 -> (.., V) bool."""
  shift = jnp.arange(WORD, dtype=jnp.uint32)
  bits = (word_W[..., None] >> shift) & 1
  return bits.reshape(*word_W.shape[:-1], -1)[..., :num_codes] > 0


def rank(word_W: jax.Array, code: jax.Array) -> jax.Array:
  """How many set bits lie below a code: (.., W), (..) -> (..) int32."""
  below = code[..., None] - WORD * jnp.arange(word_W.shape[-1])
  shift = jnp.clip(below, 0, WORD - 1).astype(jnp.uint32)
  mask = jnp.where(
    below >= WORD, jnp.uint32(0xFFFFFFFF), (jnp.uint32(1) << shift) - 1
  )
  return jnp.sum(jax.lax.population_count(word_W & mask), -1).astype(jnp.int32)


def children(
  tree: SearchTree, group: int, node: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Children of nodes of a group without bit sets.

  Returns:
    child, its code and whether there is one, each (.., fanout).
  """
  slot_F = jnp.arange(tree.fanout[group])
  exists = slot_F < tree.num_children[node][..., None]
  child = jnp.where(exists, tree.first_child[node][..., None] + slot_F, 0)
  return child, jnp.maximum(tree.code[child], 0), exists


def descend(
  tree: SearchTree, group: int, node: jax.Array, code: jax.Array
) -> jax.Array:
  """The child that a code leads to from a node of a group, -1 if none.

  A node of -1 has no children.
  """
  safe = jnp.maximum(node, 0)
  if tree.is_dense(group):
    word_W = tree.words[safe]
    here = jnp.take_along_axis(word_W, code[..., None] // WORD, axis=-1)
    found = (here[..., 0] >> (code % WORD).astype(jnp.uint32)) & 1 > 0
    child = tree.first_child[safe] + rank(word_W, code)
  else:
    child_F, code_F, exists_F = children(tree, group, safe)
    match_F = exists_F & (code_F == code[..., None])
    found = match_F.any(-1)
    child = jnp.max(jnp.where(match_F, child_F, -1), axis=-1)
  return jnp.where(found & (node >= 0), child, -1)
