"""Which items may be returned: catalogue-wide and by request, on device.

A prefix below which no allowed item is left takes no beam at any level, so a
beam of M finds M allowed items whenever there are that many: no answer is cut
short by a filter, and none needs a wider beam than k. Filters are data, not
shapes: changing them compiles nothing. They never change the score of an item
that they let through.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from holorec_jax.decode.search_tree import WORD, SearchTree, descend

# To so many places comparing all pairs of a row is faster than sorting it; its
# memory grows with their square.
_PAIRS = 64


@struct.dataclass
class Live:
  """What catalogue-wide availability leaves of the tree.

  Attributes:
    item_I: bool, items that are in the tree and available.
    count: (nodes,) int32 such items below each node.
    words: (nodes of dense groups, W) uint32 bit sets of the codes that lead to
      some.
  """

  item_I: jax.Array
  count: jax.Array
  words: jax.Array


@jax.jit
def live_nodes(tree: SearchTree, available_I: jax.Array) -> Live:
  """Turns a bitmap over items into the liveness of every node.

  Args:
    tree: the catalogue on device.
    available_I: bool, of the tree's item capacity.
  """
  place_I = available_I.at[tree.leaf_items].get(mode="fill", fill_value=False)
  before = jnp.cumsum(jnp.pad(place_I, (1, 0)), dtype=jnp.int32)
  count = before[tree.first_item + tree.num_items] - before[tree.first_item]
  first_child = tree.first_child[: len(tree.words)]

  def live_word(rank, word):
    live = jnp.zeros_like(word)
    for bit in range(WORD):
      has = (word >> bit) & 1
      alive = (count[first_child + rank] > 0).astype(jnp.uint32)
      live |= (has & alive) << bit
      rank += has.astype(jnp.int32)
    return rank, live

  rank = jnp.zeros(len(tree.words), jnp.int32)
  _, word_WN = jax.lax.scan(live_word, rank, tree.words.T)
  item_I = (
    jnp.zeros_like(available_I).at[tree.leaf_items].set(place_I, mode="drop")
  )
  return Live(item_I=item_I, count=count, words=word_WN.T)


@struct.dataclass
class Lists:
  """Items named by each request, -1 where empty.

  Attributes:
    deny_BT: never these: seen items and others.
    allow_BA: only these, for the requests that are `restricted_B`.
    restricted_B: bool.
  """

  deny_BT: jax.Array
  allow_BA: jax.Array
  restricted_B: jax.Array


@struct.dataclass
class Marks:
  """Nodes that a list of items marks, by the depth of their parent.

  Attributes:
    parent_LBT: int32 the marked node's parent, -1 for no mark.
    code_LBT: int32 the code between them.
    child_LBT: int32 the marked node, -1 for no mark.
  """

  parent_LBT: jax.Array
  code_LBT: jax.Array
  child_LBT: jax.Array


@struct.dataclass
class Masks:
  """What `Lists` mean for the tree: nodes to leave out and nodes to keep to.

  Attributes:
    lists: they themselves, for the items of a leaf.
    deny: nodes below which the request leaves nothing.
    allow: nodes on the way to what a restricted request asks for.
  """

  lists: Lists
  deny: Marks
  allow: Marks


def make_masks(
  tree: SearchTree, live: Live, fine_IL: jax.Array, lists: Lists
) -> Masks:
  """Follows every listed item through the tree, once per search.

  Args:
    tree: the catalogue on device.
    live: what is available.
    fine_IL: identifying codes of the items.
    lists: of the requests.
  """
  code_LBT = jnp.moveaxis(fine_IL[lists.deny_BT], -1, 0)
  counts_BT = first_of_each(lists.deny_BT) & _is_live(live, lists.deny_BT)
  node_DBT = _paths(tree, code_LBT, counts_BT)
  # Denied items below the same node, against all that are live there.
  denied_DBT = count_equal(node_DBT, counts_BT)
  exhausted_DBT = denied_DBT == live.count[jnp.maximum(node_DBT, 0)]
  deny = _marks(node_DBT, code_LBT, exhausted_DBT & (node_DBT >= 0))

  wanted_BA = _is_live(live, lists.allow_BA) & ~denied_of_allowed(lists)
  code_LBA = jnp.moveaxis(fine_IL[lists.allow_BA], -1, 0)
  node_DBA = _paths(tree, code_LBA, wanted_BA)
  return Masks(lists, deny, _marks(node_DBA, code_LBA, node_DBA >= 0))


def _is_live(live: Live, item_BT: jax.Array) -> jax.Array:
  return (item_BT >= 0) & live.item_I[jnp.maximum(item_BT, 0)]


def first_of_each(item_BT: jax.Array) -> jax.Array:
  """False where the same item stands further left."""
  T = item_BT.shape[1]
  if T <= _PAIRS:
    earlier_TT = jnp.arange(T)[:, None] > jnp.arange(T)
    same_BTT = item_BT[..., None] == item_BT[:, None]
    return ~(same_BTT & earlier_TT).any(-1)
  order_BT = jnp.argsort(item_BT, axis=1, stable=True)
  sorted_BT = jnp.take_along_axis(item_BT, order_BT, axis=1)
  new_BT = jnp.diff(sorted_BT, axis=1, prepend=sorted_BT[:, :1] - 1) != 0
  return jnp.take_along_axis(new_BT, jnp.argsort(order_BT, axis=1), axis=1)


def count_equal(x_XBT: jax.Array, counts_BT: jax.Array) -> jax.Array:
  """How many places of its row that count hold the same value, at each place.

  Args:
    x_XBT: non-negative int32 wherever it counts.
    counts_BT: bool.
  """
  if x_XBT.shape[-1] <= _PAIRS:
    same_XBTT = x_XBT[..., None] == x_XBT[..., None, :]
    return jnp.sum(same_XBTT & counts_BT[..., None, :], axis=-1)
  sorted_XBT = jnp.sort(jnp.where(counts_BT, x_XBT, -2), axis=-1)
  first, behind = (
    _places(sorted_XBT, x_XBT, side) for side in ("left", "right")
  )
  return behind - first


def _places(sorted_XBT, x_XBY, side: str) -> jax.Array:
  """Where values would stand in sorted rows, before or behind their equals."""
  find = functools.partial(jnp.searchsorted, side=side)
  for _ in sorted_XBT.shape[:-1]:
    find = jax.vmap(find)
  return find(sorted_XBT, x_XBY)


def denied_of_allowed(lists: Lists) -> jax.Array:
  """(B, A) which items that a request asks for it denies, too."""
  if lists.allow_BA.shape[1] * lists.deny_BT.shape[1] <= _PAIRS**2:
    return is_among(lists.allow_BA[:, None], lists.deny_BT)[:, 0]
  sorted_BT = jnp.sort(lists.deny_BT, axis=1)
  place_BA = _places(sorted_BT, lists.allow_BA, "left")
  found_BA = jnp.take_along_axis(sorted_BT, place_BA, axis=1, mode="clip")
  return found_BA == lists.allow_BA


def _paths(tree: SearchTree, code_LBT, counts_BT) -> jax.Array:
  """(L + 1, B, T) node at every depth; -1 for items that do not count."""
  nodes = [jnp.where(counts_BT, 0, -1)]
  for depth in range(tree.num_levels):
    group = tree.group(depth)
    nodes.append(descend(tree, group, nodes[-1], code_LBT[depth]))
  return jnp.stack(nodes)


def _marks(node_DBT, code_LBT, marked_DBT) -> Marks:
  marked_LBT = marked_DBT[1:]
  return Marks(
    parent_LBT=jnp.where(marked_LBT, node_DBT[:-1], -1),
    code_LBT=code_LBT,
    child_LBT=jnp.where(marked_LBT, node_DBT[1:], -1),
  )


def mask_words(masks: Masks, depth, node_BM, word_BMW) -> jax.Array:
  """Of bit sets of allowed codes what the requests leave.

  Args:
    masks: of the requests.
    depth: of the nodes; may be traced.
    node_BM: the beams' nodes.
    word_BMW: bit sets.
  """
  width = word_BMW.shape[-1]
  word_BMW &= ~_marked_words(masks.deny, depth, node_BM, width)
  kept_BMW = _marked_words(masks.allow, depth, node_BM, width)
  free_B = ~masks.lists.restricted_B
  return jnp.where(free_B[:, None, None], word_BMW, word_BMW & kept_BMW)


def _marked_words(marks: Marks, depth, node_BM, width: int) -> jax.Array:
  code_BT = marks.code_LBT[depth]
  match_BMT = node_BM[..., None] == marks.parent_LBT[depth][:, None]
  bit_BT = jnp.uint32(1) << (code_BT % WORD).astype(jnp.uint32)
  here_BWT = code_BT[:, None] // WORD == jnp.arange(width)[:, None]
  bit_BWT = jnp.where(here_BWT, bit_BT[:, None], jnp.uint32(0))
  bit_BMWT = jnp.where(match_BMT[:, :, None], bit_BWT[:, None], jnp.uint32(0))
  return jax.lax.reduce(
    bit_BMWT, jnp.uint32(0), jax.lax.bitwise_or, dimensions=(3,)
  )


def mask_children(masks: Masks, depth, child_BMF, allowed_BMF) -> jax.Array:
  """The same for the children themselves."""
  denied_BMF = is_among(child_BMF, masks.deny.child_LBT[depth])
  kept_BMF = is_among(child_BMF, masks.allow.child_LBT[depth])
  return combine(masks.lists, allowed_BMF, denied_BMF, kept_BMF)


def mask_items(lists: Lists, item_BMG, allowed_BMG) -> jax.Array:
  """The same for items, such as those of leaves."""
  denied_BMG = is_among(item_BMG, lists.deny_BT)
  kept_BMG = is_among(item_BMG, lists.allow_BA)
  return combine(lists, allowed_BMG, denied_BMG, kept_BMG)


def combine(lists: Lists, allowed, denied, kept) -> jax.Array:
  free_B = ~lists.restricted_B
  return allowed & ~denied & (kept | free_B[:, None, None])


def is_among(x_BMX: jax.Array, listed_BT: jax.Array) -> jax.Array:
  return (x_BMX[..., None] == listed_BT[:, None, None]).any(-1)
