"""Exact constrained beam search over the tree of valid codes, jitted.

The library knows nothing of the network: it is given `start` (level 0, one
branch per user) and `level` (all beams), and walks the tree with them. Level 0
runs outside the scan because it has one beam, not M. Only codes that continue
a beam's prefix to an allowed item are scored; a beam slot without one is dead
(score -inf) and never filled with a fake. Equal scores keep the tree's order.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from holorec_jax.decode import filters
from holorec_jax.decode.evidence import Evidence
from holorec_jax.decode.filters import Live, Masks
from holorec_jax.decode.search_tree import (
  BETWEEN,
  LAST,
  ROOT,
  SearchTree,
  children,
  rank,
  unpack,
)

DEAD = -jnp.inf


@struct.dataclass
class Beams:
  """Prefixes under search.

  Attributes:
    node_BM: int32 tree node of each prefix; the root for a dead slot.
    score_BM: float32 sum of log-probabilities and what evidence adds; -inf
      marks a dead slot.
    level_score_BML: float32 log-probability of each code so far, then zeros.
    holder_BE: int32 the beam whose prefix each item of the evidence begins
      with, M: none; E = 0 without evidence.
  """

  node_BM: jax.Array
  score_BM: jax.Array
  level_score_BML: jax.Array
  holder_BE: jax.Array


@struct.dataclass
class Found:
  """The search's answer, best first.

  Attributes:
    item_BK: int32 items; -1 where no further item is allowed, or the beam held
      none.
    score_BK: float32 scores, log-probabilities but for what evidence adds;
      -inf where no item.
    level_score_BKL: float32 log-probability of each of the item's codes; the
      rest of the score is the log share of the item in its leaf and evidence.
    parent_LBM: int32, for each level and beam kept, the beam that it continues
      (level 0 has one).
    beam_score_LBM: float32 scores of the beams kept; -inf: dead.
  """

  item_BK: jax.Array
  score_BK: jax.Array
  level_score_BKL: jax.Array
  parent_LBM: jax.Array
  beam_score_LBM: jax.Array

  @property
  def valid_BK(self) -> jax.Array:
    """Whether there is an item."""
    return self.item_BK >= 0


# start() -> (state of one branch per user, logits (B, 1, V)).
StartFn = Callable[[], tuple]
# level(state, depth, code_BM) -> (state of the same form, logits (B, M, V)).
LevelFn = Callable[..., tuple]


@struct.dataclass
class Space:
  """Where a search may go.

  Attributes:
    tree: the catalogue on device.
    live: what is available of it.
    masks: what the requests leave of that; None without requests' lists.
    evidence: on items, beside the network's word; None: there is none.
    over_tree: share each level's probability among the codes that continue the
      prefix to an item of the catalogue, instead of all codes.
  """

  tree: SearchTree
  live: Live
  masks: Masks | None = None
  evidence: Evidence | None = None
  over_tree: bool = struct.field(pytree_node=False, default=False)


def top_k(score_BX: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`lax.top_k` in two stages where that pays; the same answer, ties too.

  The best k scores lie in the k groups with the best maxima, so only those are
  looked at. (Groups of equal maxima are taken, and then read, in order: equal
  scores are found in order.)
  """
  B, X = score_BX.shape
  size = max(1, int(math.sqrt(X / max(k, 1))))
  groups = -(-X // size)
  if size < 4 or groups < 2 * k:
    return jax.lax.top_k(score_BX, k)
  pad = ((0, 0), (0, groups * size - X))
  score_BGS = jnp.pad(score_BX, pad, constant_values=DEAD).reshape(
    B, groups, size
  )
  _, group_BK = jax.lax.top_k(score_BGS.max(axis=-1), k)
  group_BK = jnp.sort(group_BK, axis=-1)
  near_BKS = jnp.take_along_axis(
    score_BGS, group_BK[..., None], axis=1, mode="promise_in_bounds"
  )
  index_BKS = group_BK[..., None] * size + jnp.arange(size)
  best_BK, near_BK = jax.lax.top_k(near_BKS.reshape(B, -1), k)
  index_BK = take(index_BKS.reshape(B, -1), near_BK)
  return best_BK, jnp.minimum(index_BK, X - 1)


def take(x_BX: jax.Array, index_BK: jax.Array) -> jax.Array:
  """Entries along the last axis."""
  return jnp.take_along_axis(x_BX, index_BK, axis=-1, mode="promise_in_bounds")


def take_rows(x_BM: jax.Array, index_BK: jax.Array) -> jax.Array:
  """Entries along the second axis, whatever comes behind it."""
  index = index_BK.reshape(index_BK.shape + (1,) * (x_BM.ndim - 2))
  return jnp.take_along_axis(x_BM, index, axis=1, mode="promise_in_bounds")


def _log_probs(logits_BMX, valid_BMX) -> jax.Array:
  """Log-softmax over the valid entries; all, if that is None."""
  if valid_BMX is None:
    return jax.nn.log_softmax(logits_BMX, axis=-1)
  return jax.nn.log_softmax(logits_BMX, axis=-1, where=valid_BMX)


def _score_words(space: Space, depth, node_BM, logits_BMV):
  """Log-probabilities and allowed codes of nodes with bit sets."""
  V = space.tree.num_codes
  allowed_BMW = space.live.words[node_BM]
  if space.masks is not None:
    allowed_BMW = filters.mask_words(space.masks, depth, node_BM, allowed_BMW)
  valid_BMV = None
  if space.over_tree:
    valid_BMV = unpack(space.tree.words[node_BM], V)
  return _log_probs(logits_BMV, valid_BMV), unpack(allowed_BMW, V)


def _score_children(space: Space, depth, group, node_BM, logits_BMV):
  """The same, the children and their codes, of nodes without."""
  child_BMF, code_BMF, valid_BMF = children(space.tree, group, node_BM)
  if space.over_tree:
    log_prob_BMF = _log_probs(take(logits_BMV, code_BMF), valid_BMF)
  else:
    log_prob_BMF = take(_log_probs(logits_BMV, None), code_BMF)
  allowed_BMF = valid_BMF & (space.live.count[child_BMF] > 0)
  if space.masks is not None:
    allowed_BMF = filters.mask_children(
      space.masks, depth, child_BMF, allowed_BMF
    )
  return log_prob_BMF, allowed_BMF, child_BMF, code_BMF


def _expand(
  beams: Beams, logits_BMV, space: Space, depth, group: int, width: int
) -> tuple[Beams, jax.Array]:
  """Best `width` continuations of all beams, and the beam each came from."""
  tree = space.tree
  child_BMX = code_BMX = None
  if tree.is_dense(group):
    log_prob_BMX, allowed_BMX = _score_words(
      space, depth, beams.node_BM, logits_BMV
    )
  else:
    log_prob_BMX, allowed_BMX, child_BMX, code_BMX = _score_children(
      space, depth, group, beams.node_BM, logits_BMV
    )
  B, M, X = log_prob_BMX.shape
  score_BMX = beams.score_BM[..., None] + log_prob_BMX
  if space.evidence is not None:
    added_BMX = space.evidence.of_codes(
      beams.holder_BE, depth, M, tree.num_codes
    )
    if code_BMX is not None:
      added_BMX = take(added_BMX, code_BMX)
    score_BMX += added_BMX
  score_BMX = jnp.where(allowed_BMX, score_BMX, DEAD)
  score_BW, index_BW = top_k(score_BMX.reshape(B, M * X), min(width, M * X))
  missing = ((0, 0), (0, width - score_BW.shape[1]))
  score_BW = jnp.pad(score_BW, missing, constant_values=DEAD)
  index_BW = jnp.pad(index_BW, missing)
  parent_BW = index_BW // X
  if child_BMX is None:
    node_BW = take(beams.node_BM, parent_BW)
    word_BWW = tree.words[node_BW]
    child_BW = tree.first_child[node_BW] + rank(word_BWW, index_BW % X)
  else:
    child_BW = take(child_BMX.reshape(B, M * X), index_BW)
  alive_BW = score_BW > DEAD
  step_BW = take(log_prob_BMX.reshape(B, M * X), index_BW)
  level_score_BWL = jnp.where(
    jnp.arange(tree.num_levels) == depth,
    step_BW[..., None],
    take_rows(beams.level_score_BML, parent_BW),
  )
  node_BW = jnp.where(alive_BW, child_BW, 0)
  holder_BE = beams.holder_BE
  if space.evidence is not None:
    code_BW = jnp.where(alive_BW, tree.code[node_BW], -1)
    holder_BE = space.evidence.follow(holder_BE, depth, parent_BW, code_BW)
  return Beams(
    node_BM=node_BW,
    score_BM=score_BW,
    level_score_BML=level_score_BWL,
    holder_BE=holder_BE,
  ), parent_BW


def reorder(state, parent_BM: jax.Array):
  """Every beam takes over the state of the beam it continues.

  Leaves that have one entry a user are shared by the beams and stay.
  """

  def gather(x):
    if jnp.ndim(x) < 2 or x.shape[1] == 1:
      return x
    return take_rows(x, parent_BM)

  return jax.tree.map(gather, state)


def _leaf_items(beams: Beams, space: Space, k: int):
  """Resolves collisions: leaves to items, ranked by score + log share.

  Returns:
    items, scores and the beams that they were found in, each (B, K).
  """
  tree, live = space.tree, space.live
  B, M = beams.node_BM.shape
  G = tree.largest_leaf
  place_BMG = tree.first_item[beams.node_BM][..., None] + jnp.arange(G)
  held_BMG = jnp.arange(G) < tree.num_items[beams.node_BM][..., None]
  held_BMG &= (beams.score_BM > DEAD)[..., None]
  item_BMG = tree.leaf_items[jnp.where(held_BMG, place_BMG, 0)]
  allowed_BMG = held_BMG & live.item_I[item_BMG]
  if space.masks is not None:
    allowed_BMG = filters.mask_items(space.masks.lists, item_BMG, allowed_BMG)
  score_BMG = beams.score_BM[..., None] + tree.log_share_I[item_BMG]
  if space.evidence is not None and G > 1:
    share_BM = space.evidence.of_leaves(beams.holder_BE, M)
    score_BMG += space.evidence.of_items(share_BM, item_BMG)
  score_BMG = jnp.where(allowed_BMG, score_BMG, DEAD)
  score_BK, index_BK = top_k(score_BMG.reshape(B, -1), min(k, M * G))
  item_BK = take(item_BMG.reshape(B, -1), index_BK)
  item_BK = jnp.where(score_BK > DEAD, item_BK, -1)
  missing = ((0, 0), (0, k - item_BK.shape[1]))
  return (
    jnp.pad(item_BK, missing, constant_values=-1),
    jnp.pad(score_BK, missing, constant_values=DEAD),
    jnp.pad(index_BK // G, missing),
  )


def over_levels(
  step: Callable, carry: Any, depths: range, unroll: bool
) -> tuple[Any, Any]:
  """`lax.scan` over the levels between the first and the last.

  Args:
    step: (carry, depth) -> (carry, what is kept of the depth).
    carry: before the first step.
    depths: to go through; at least one.
    unroll: one program per level instead of a loop. The carry may then grow,
      and holds Python numbers where it began with some. It pays on CPU, where
      a loop copies all that it carries each time around.

  Returns:
    The last carry, and what was kept, stacked.
  """
  if not unroll:
    carry = jax.tree.map(jnp.asarray, carry)
    return jax.lax.scan(step, carry, jnp.asarray(depths))
  kept = []
  for depth in depths:
    carry, of_depth = step(carry, depth)
    kept.append(of_depth)
  return carry, jax.tree.map(lambda *x: jnp.stack(x), *kept)


def beam_search(
  start: StartFn,
  level: LevelFn,
  space: Space,
  beam: int,
  k: int,
  unroll: bool = False,
) -> Found:
  """Best k items of the `beam` best code strings.

  Args:
    start: evaluates level 0 for one branch per user; its state must have the
      form that `level` takes, with `beam` or one entry a user.
    level: evaluates a deeper level for all beams, given the chosen codes.
    space: the catalogue and what is allowed of it.
    beam: number of prefixes M kept after every level.
    k: number of items returned.
    unroll: as in `over_levels`; otherwise the state must keep its form.

  Returns:
    Items, scores and where they came from, best first.
  """
  tree = space.tree
  state, logits_B1V = start()
  B, last = logits_B1V.shape[0], tree.num_levels - 1
  E = 0 if space.evidence is None else space.evidence.item_BE.shape[1]
  beams = Beams(
    node_BM=jnp.zeros((B, 1), jnp.int32),
    score_BM=jnp.zeros((B, 1), jnp.float32),
    level_score_BML=jnp.zeros((B, 1, tree.num_levels), jnp.float32),
    holder_BE=jnp.zeros((B, E), jnp.int32),
  )
  beams, parent_BM = _expand(beams, logits_B1V, space, 0, ROOT, beam)
  kept = [(parent_BM[None], beams.score_BM[None])]
  if last > 1:

    def inner(carry, depth):
      state, beams = carry
      state, logits_BMV = level(state, depth, tree.code[beams.node_BM])
      beams, parent_BM = _expand(beams, logits_BMV, space, depth, BETWEEN, beam)
      return (reorder(state, parent_BM), beams), (parent_BM, beams.score_BM)

    (state, beams), between = over_levels(
      inner, (state, beams), range(1, last), unroll
    )
    kept.append(between)
  if last > 0:
    # The last level has a fan-out of its own.
    _, logits_BMV = level(state, last, tree.code[beams.node_BM])
    beams, parent_BM = _expand(beams, logits_BMV, space, last, LAST, beam)
    kept.append((parent_BM[None], beams.score_BM[None]))
  item_BK, score_BK, beam_BK = _leaf_items(beams, space, k)
  return Found(
    item_BK=item_BK,
    score_BK=score_BK,
    level_score_BKL=take_rows(beams.level_score_BML, beam_BK),
    parent_LBM=jnp.concatenate([parent for parent, _ in kept]),
    beam_score_LBM=jnp.concatenate([score for _, score in kept]),
  )
