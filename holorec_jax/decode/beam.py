"""Exact constrained beam search over the tree of valid codes, jitted.

The library knows nothing of the network: it is given `start` (level 0, one
branch per user) and `level` (all beams), and walks the tree with them. Level 0
runs outside the scan because it has one beam, not M. Only codes that continue
a beam's prefix are scored; a beam slot without a continuation is dead (score
-inf) and never filled with a fake. A prefix without any item left for the user
takes no slot at any level, so a beam of M finds M items whenever the user has M
left.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from holorec_jax.catalog import Catalog

DEAD = -jnp.inf


@struct.dataclass
class SearchTree:
  """The catalogue's tree on device (see `tree.Tree` for the numbering).

  Attributes:
    code: (nodes,) code that leads into a node.
    first_child: (inner nodes,) first child.
    num_children: (inner nodes,) children.
    first_item: (nodes,) place in leaf_items of the first item below.
    num_items: (nodes,) items below.
    leaf_items: (I,) items in code order.
    place_I: (I,) place of an item in leaf_items.
    log_share_I: (I,) log share of an item in its leaf.
    num_levels: L.
    fanout: most children of a node at depth 0, between, and L - 1.
    largest_leaf: most items of a leaf.
  """

  code: jax.Array
  first_child: jax.Array
  num_children: jax.Array
  first_item: jax.Array
  num_items: jax.Array
  leaf_items: jax.Array
  place_I: jax.Array
  log_share_I: jax.Array
  num_levels: int = struct.field(pytree_node=False)
  fanout: tuple[int, int, int] = struct.field(pytree_node=False)
  largest_leaf: int = struct.field(pytree_node=False)


def device_tree(catalog: Catalog) -> SearchTree:
  """Puts the catalogue's tree on the default device."""
  tree = catalog.tree
  return SearchTree(
    code=jnp.asarray(tree.code),
    first_child=jnp.asarray(tree.first_child),
    num_children=jnp.asarray(tree.num_children),
    first_item=jnp.asarray(tree.first_item),
    num_items=jnp.asarray(tree.num_items),
    leaf_items=jnp.asarray(tree.leaf_items),
    place_I=jnp.asarray(tree.place_of_item()),
    log_share_I=jnp.asarray(catalog.log_share_I),
    num_levels=tree.num_levels,
    fanout=(tree.fanout[0], max(tree.fanout[1:-1], default=0), tree.fanout[-1]),
    largest_leaf=tree.largest_leaf,
  )


class Beams(NamedTuple):
  """Prefixes under search.

  Attributes:
    node_BM: int32 tree node of each prefix.
    score_BM: float32 sum of log-probabilities; -inf marks a dead slot.
  """

  node_BM: jax.Array
  score_BM: jax.Array


class Items(NamedTuple):
  """The search's answer, best first.

  Attributes:
    item_BK: int32 items; -1 where the beam held no further item.
    score_BK: float32 log-probabilities; -inf where no item.
  """

  item_BK: jax.Array
  score_BK: jax.Array


# start() -> (state with one branch per user, log-probabilities (B, 1, V)).
StartFn = Callable[[], tuple]
# level(state, level, code_BM) -> (state, log-probabilities (B, M, V)).
LevelFn = Callable[..., tuple]


def _expand(
  beams: Beams,
  log_prob_BMV: jax.Array,
  tree: SearchTree,
  fanout: int,
  width: int,
  excluded_place_BT: jax.Array | None,
  over_tree: bool,
) -> tuple[Beams, jax.Array]:
  """Best `width` continuations of all beams, and the beam each came from."""
  B, M = beams.node_BM.shape
  slot_F = jnp.arange(fanout)
  first_BM1 = tree.first_child[beams.node_BM][..., None]
  alive_BMF = slot_F < tree.num_children[beams.node_BM][..., None]
  child_BMF = jnp.where(alive_BMF, first_BM1 + slot_F, 0)
  code_BMF = jnp.maximum(tree.code[child_BMF], 0)
  log_prob_BMF = jnp.where(
    alive_BMF, jnp.take_along_axis(log_prob_BMV, code_BMF, axis=-1), DEAD
  )
  if over_tree:
    # A floor keeps dead beams, which have no children, free of NaN.
    log_norm_BM1 = jax.nn.logsumexp(log_prob_BMF, axis=-1, keepdims=True)
    log_prob_BMF -= jnp.maximum(log_norm_BM1, jnp.finfo(jnp.float32).min)
  score_BMF = beams.score_BM[..., None] + log_prob_BMF
  if excluded_place_BT is not None:
    alive_BMF &= ~_exhausted(
      tree.first_item[child_BMF], tree.num_items[child_BMF], excluded_place_BT
    )
  score_BMF = jnp.where(alive_BMF, score_BMF, DEAD)
  flat_BX = score_BMF.reshape(B, M * fanout)
  score_BW, index_BW = jax.lax.top_k(flat_BX, min(width, M * fanout))
  node_BW = jnp.take_along_axis(
    child_BMF.reshape(B, M * fanout), index_BW, axis=-1
  )
  missing = width - node_BW.shape[1]
  if missing > 0:
    pad = ((0, 0), (0, missing))
    score_BW = jnp.pad(score_BW, pad, constant_values=DEAD)
    node_BW = jnp.pad(node_BW, pad)
    index_BW = jnp.pad(index_BW, pad)
  return Beams(node_BW, score_BW), index_BW // fanout


def _places(excluded_BT: jax.Array, tree: SearchTree) -> jax.Array:
  """Excluded items' places, each once (a history may repeat items), else -1."""
  place_BT = tree.place_I[jnp.maximum(excluded_BT, 0)]
  place_BT = jnp.sort(jnp.where(excluded_BT >= 0, place_BT, -1), axis=1)
  repeated_BT = place_BT[:, 1:] == place_BT[:, :-1]
  return place_BT.at[:, 1:].set(jnp.where(repeated_BT, -1, place_BT[:, 1:]))


def _exhausted(
  first_BMX: jax.Array, num_BMX: jax.Array | int, place_BT: jax.Array
) -> jax.Array:
  """Whether all of the `num` places from `first` on are excluded.

  Counts one excluded place at a time: at T = 64, (B, M, X, T) booleans at once
  take ten times as long on CPU, and a binary search twice as long.
  """

  def count(found_BMX, place_B):
    offset_BMX = place_B[:, None, None] - first_BMX
    return found_BMX + ((offset_BMX >= 0) & (offset_BMX < num_BMX)), None

  found_BMX, _ = jax.lax.scan(
    count, jnp.zeros_like(first_BMX), place_BT.T, unroll=8
  )
  return found_BMX == num_BMX


def _items_of_leaves(
  beams: Beams, tree: SearchTree, k: int, excluded_place_BT: jax.Array | None
) -> Items:
  """Resolves collisions: leaves to items, ranked by score + log share."""
  B = beams.node_BM.shape[0]
  slot_G = jnp.arange(tree.largest_leaf)
  place_BMG = tree.first_item[beams.node_BM][..., None] + slot_G
  alive_BMG = (slot_G < tree.num_items[beams.node_BM][..., None]) & (
    beams.score_BM > DEAD
  )[..., None]
  item_BMG = tree.leaf_items[jnp.where(alive_BMG, place_BMG, 0)]
  if excluded_place_BT is not None:
    alive_BMG &= ~_exhausted(place_BMG, 1, excluded_place_BT)
  score_BMG = jnp.where(
    alive_BMG, beams.score_BM[..., None] + tree.log_share_I[item_BMG], DEAD
  )
  flat_BX = score_BMG.reshape(B, -1)
  score_BK, index_BK = jax.lax.top_k(flat_BX, min(k, flat_BX.shape[1]))
  item_BK = jnp.take_along_axis(item_BMG.reshape(B, -1), index_BK, axis=-1)
  item_BK = jnp.where(score_BK > DEAD, item_BK, -1)
  missing = ((0, 0), (0, k - item_BK.shape[1]))
  return Items(
    jnp.pad(item_BK, missing, constant_values=-1),
    jnp.pad(score_BK, missing, constant_values=DEAD),
  )


def beam_search(
  start: StartFn,
  level: LevelFn,
  tree: SearchTree,
  beam: int,
  k: int,
  excluded_BT: jax.Array | None = None,
  over_tree: bool = False,
) -> Items:
  """Best k items of the `beam` best code strings.

  Args:
    start: evaluates level 0 for one branch per user.
    level: evaluates a deeper level for all beams, given the chosen codes.
    tree: the catalogue on device.
    beam: number of prefixes M kept after every level.
    k: number of items returned.
    excluded_BT: items never to return to the user (-1 = none), for example
      those already seen.
    over_tree: share each level's probability among the codes that continue the
      prefix to an item, instead of all codes.

  Returns:
    Items and scores, best first; equal scores keep tree order.
  """
  excluded_place_BT = None
  if excluded_BT is not None:
    excluded_place_BT = _places(excluded_BT, tree)
  state, log_prob_B1V = start()
  B = log_prob_B1V.shape[0]
  root = Beams(jnp.zeros((B, 1), jnp.int32), jnp.zeros((B, 1), jnp.float32))
  last = tree.num_levels - 1
  beams, _ = _expand(
    root,
    log_prob_B1V,
    tree,
    tree.fanout[0],
    beam,
    excluded_place_BT,
    over_tree,
  )
  if last > 0:
    # Every beam starts from the user's one branch.
    state = jax.tree.map(
      lambda x: jnp.repeat(x, beam, axis=1) if jnp.ndim(x) > 1 else x, state
    )

    def inner(carry, depth):
      state, beams = carry
      state, log_prob_BMV = level(state, depth, tree.code[beams.node_BM])
      beams, parent_BM = _expand(
        beams,
        log_prob_BMV,
        tree,
        tree.fanout[1],
        beam,
        excluded_place_BT,
        over_tree,
      )
      return (reorder(state, parent_BM), beams), None

    (state, beams), _ = jax.lax.scan(inner, (state, beams), jnp.arange(1, last))
    # The last level has its own, smaller fan-out.
    _, log_prob_BMV = level(state, jnp.int32(last), tree.code[beams.node_BM])
    beams, _ = _expand(
      beams,
      log_prob_BMV,
      tree,
      tree.fanout[2],
      beam,
      excluded_place_BT,
      over_tree,
    )
  return _items_of_leaves(beams, tree, k, excluded_place_BT)


def reorder(state, parent_BM: jax.Array):
  """Every beam takes over the cache of the beam it continues."""

  def gather(x):
    if jnp.ndim(x) < 2:
      return x
    index = parent_BM.reshape(parent_BM.shape + (1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  return jax.tree.map(gather, state)
