"""Exact constrained beam search over unordered codes (REG4Rec), jitted.

Source: REG4Rec (arXiv 2508.15308); the design's methods 3.2, 3.4 and 3.5. A
path is a set of codes in the order in which they were chosen. Its score is the
sum of log p(code | codebook, codes chosen before), each a softmax over one
codebook's codes, all or those that the lattice has, as training has it; the
item's is that plus the log of its share of the leaf, and what neighbours of the
history say for it (`evidence`) if they are heeded. Only codes that lead to an
allowed item are tried, which changes no score. The orders:

  confident  CRSS: every path goes on with its most confident unused codebook
  fixed      codebook 0, 1, .., the ablation
  any        every path tries every unused codebook; equal sets that were
             reached in different orders are merged, the best one stays

With "confident" and "fixed" the paths form a tree: no set is found twice, the
probabilities of all sets sum to one, and a beam of at least k finds k items
whenever k are allowed. With "any" a set scores what its best order does, and
paths may run together: a beam that is no wider than k may yield fewer.

CORP drops, once a path has two codes, those of whose adjacent codes less than
half agree in category, but none of the best k.

The library knows nothing of the network but `decode`. Here N is the beam and M
the number of codebooks.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from holorec_jax.decode.beam import DEAD, reorder, take, take_rows, top_k
from holorec_jax.decode.evidence import Evidence
from holorec_jax.decode.set_space import Lattice, SetLive, SetMasks
from holorec_jax.models.set_generator import next_codebook, restrict

SearchOrder = Literal["confident", "fixed", "any"]
# What CORP takes from the rank of an inconsistent path: more than any score.
_DEMOTION = 1e4


@struct.dataclass
class Paths:
  """Sets of codes under search.

  Attributes:
    node_BN: int32 node of each set; the root for a dead slot.
    score_BN: float32 sum of log-probabilities and what evidence adds; -inf: a
      dead slot.
    token_BNM: int32 tokens in the order of their choice, then -1.
    agree_BN: int32 adjacent codes of equal category, for CORP.
    held_BNE: bool, which items of the evidence have all codes of each set;
      E = 0 without evidence.
  """

  node_BN: jax.Array
  score_BN: jax.Array
  token_BNM: jax.Array
  agree_BN: jax.Array
  held_BNE: jax.Array


@struct.dataclass
class FoundSets:
  """The search's answer, best first.

  Attributes:
    item_BK: int32 items; -1 where no further one is allowed or found.
    score_BK: float32 log-probabilities, and what evidence adds; -inf where no
      item.
    token_BKM: int32 codebook * V + code of each item, in the order in which
      the path chose them.
  """

  item_BK: jax.Array
  score_BK: jax.Array
  token_BKM: jax.Array

  @property
  def valid_BK(self) -> jax.Array:
    """Whether there is an item."""
    return self.item_BK >= 0


@struct.dataclass
class SetSpace:
  """Where a search may go.

  Attributes:
    lattice: the catalogue on device.
    live: what is available of it.
    masks: what the requests leave of that; None without requests' lists.
    category_X: int32 category of every token, for CORP; None: no pruning.
    evidence: on items, beside the network's word; None: there is none. It
      needs an order of the codebooks.
    order: of the codebooks.
    over_lattice: share a codebook's probability among the codes that continue
      the chosen ones to an item of the catalogue, instead of all codes.
  """

  lattice: Lattice
  live: SetLive
  masks: SetMasks | None = None
  category_X: jax.Array | None = None
  evidence: Evidence | None = None
  order: SearchOrder = struct.field(pytree_node=False, default="confident")
  over_lattice: bool = struct.field(pytree_node=False, default=False)


# decode(state, token_BN) -> (state, logits (B, N, M, V)); tokens chosen last,
# None at first, when every user has one branch.
DecodeFn = Callable[[Any, jax.Array | None], tuple[Any, jax.Array]]


def _agreement(space: SetSpace, paths: Paths, token_BNF, step: int):
  """Adjacent codes of equal category with one more token, (B, N, F)."""
  assert space.category_X is not None
  last_BN = space.category_X[paths.token_BNM[..., step - 1]]
  # Those without a category agree with nothing.
  same_BNF = space.category_X[token_BNF] == last_BN[..., None]
  same_BNF &= last_BN[..., None] >= 0
  return paths.agree_BN[..., None] + same_BNF


def _choose(space: SetSpace, rank_BX, child_BX, step: int, width: int):
  """Places of the best `width` of all continuations; none leads where another.

  Args:
    space: the lattice and the order.
    rank_BX: what they are ranked by; -inf: not allowed.
    child_BX: function of places (B, Y) -> nodes.
    step: codes before.
    width: paths kept.

  Returns:
    Ranks and places (B, width); padded with -inf and 0.
  """
  X = rank_BX.shape[1]
  if space.order != "any" or step == 0:
    rank_BW, place_BW = top_k(rank_BX, min(width, X))
  else:
    # A set of step + 1 codes has at most as many parents, whose nodes differ:
    # so many times the width hold `width` distinct sets if there are any.
    rank_BY, place_BY = top_k(rank_BX, min(width * (step + 1), X))
    node_BY = child_BX(place_BY)
    earlier_YY = jnp.tri(node_BY.shape[1], k=-1, dtype=bool)
    same_BYY = node_BY[..., None] == node_BY[:, None]
    rank_BY = jnp.where((same_BYY & earlier_YY).any(-1), DEAD, rank_BY)
    rank_BW, best_BW = top_k(rank_BY, min(width, rank_BY.shape[1]))
    place_BW = take(place_BY, best_BW)
  missing = ((0, 0), (0, width - rank_BW.shape[1]))
  return (
    jnp.pad(rank_BW, missing, constant_values=DEAD),
    jnp.pad(place_BW, missing),
  )


def _score(space: SetSpace, paths: Paths, logits_BNMV, step: int):
  """What every edge of the paths' nodes leads to.

  Returns:
    Places of the edges (B, N, F), their tokens, and the scores of the paths
    with them, -inf where one is not allowed or not there.
  """
  lattice, (B, N, M, V) = space.lattice, logits_BNMV.shape
  edge_BNF, exists_BNF = lattice.edges(step, paths.node_BN)
  token_BNF = space.live.edge_token[edge_BNF]
  allowed_BNF = exists_BNF & (token_BNF >= 0)
  token_BNF = jnp.maximum(token_BNF, 0)
  if space.masks is not None:
    child_BNF = lattice.edge_child[edge_BNF]
    allowed_BNF &= space.masks.keep(step + 1, child_BNF)
  if space.over_lattice:
    logits_BNMV = restrict(logits_BNMV, lattice.valid(step, paths.node_BN))
  log_prob_BNX = jax.nn.log_softmax(logits_BNMV, axis=-1).reshape(B, N, M * V)
  gain_BNF = take(log_prob_BNX, token_BNF)
  if space.order != "any":
    used_BNM = (
      paths.token_BNM[..., None, :] // V == jnp.arange(M)[:, None]
    ).any(-1)
    turn_BN = next_codebook(logits_BNMV, ~used_BNM, space.order)
    allowed_BNF &= token_BNF // V == turn_BN[..., None]
    if space.evidence is not None:
      added_BNV = space.evidence.of_codebook(paths.held_BNE, turn_BN, V)
      gain_BNF += take(added_BNV, token_BNF % V)
  score_BNF = jnp.where(allowed_BNF, paths.score_BN[..., None] + gain_BNF, DEAD)
  return edge_BNF, token_BNF, score_BNF


def _expand(
  space: SetSpace, paths: Paths, logits_BNMV, step: int, width: int, k: int
) -> tuple[Paths, jax.Array]:
  """Best `width` continuations of all paths, and the path each came from."""
  B, N, _, V = logits_BNMV.shape
  edge_BNF, token_BNF, score_BNF = _score(space, paths, logits_BNMV, step)
  rank_BNF, agree_BNF = score_BNF, None
  if space.category_X is not None and step > 0:
    agree_BNF = _agreement(space, paths, token_BNF, step)
    rank_BNF -= jnp.where(2 * agree_BNF < step, _DEMOTION, 0.0)
  F = token_BNF.shape[-1]

  def child(place_BY):
    edge_BY = take(edge_BNF.reshape(B, N * F), place_BY)
    return space.lattice.edge_child[edge_BY]

  rank_BW, place_BW = _choose(
    space, rank_BNF.reshape(B, N * F), child, step, width
  )

  def chosen(x_BNF):
    return take(x_BNF.reshape(B, N * F), place_BW)

  alive_BW = rank_BW > DEAD
  agree_BW = jnp.zeros_like(place_BW)
  if agree_BNF is not None:
    agree_BW = chosen(agree_BNF)
    alive_BW &= (2 * agree_BW >= step) | (jnp.arange(width) < k)
  parent_BW = place_BW // F
  token_BWM = take_rows(paths.token_BNM, parent_BW)
  new_BW = chosen(token_BNF)
  held_BWE = take_rows(paths.held_BNE, parent_BW)
  if space.evidence is not None:
    held_BWE = space.evidence.keep(held_BWE, new_BW // V, new_BW % V)
  return Paths(
    node_BN=jnp.where(alive_BW, child(place_BW), 0),
    score_BN=jnp.where(alive_BW, chosen(score_BNF), DEAD),
    token_BNM=token_BWM.at[..., step].set(new_BW),
    agree_BN=agree_BW,
    held_BNE=held_BWE,
  ), parent_BW


def _leaf_items(space: SetSpace, paths: Paths, k: int) -> FoundSets:
  """Resolves collisions: leaves to items, ranked by score + log share."""
  lattice = space.lattice
  B = paths.node_BN.shape[0]
  slot_G = jnp.arange(lattice.largest_leaf)
  alive_BN1 = paths.score_BN[..., None] > DEAD
  leaf_BN = jnp.maximum(paths.node_BN - lattice.first_leaf, 0)
  held_BNG = alive_BN1 & (slot_G < lattice.num_items[leaf_BN][..., None])
  place_BNG = lattice.first_item[leaf_BN][..., None] + slot_G
  item_BNG = lattice.leaf_items[jnp.where(held_BNG, place_BNG, 0)]
  allowed_BNG = held_BNG & space.live.item_I[item_BNG]
  if space.masks is not None:
    allowed_BNG &= space.masks.keep_items(item_BNG)
  score_BNG = paths.score_BN[..., None] + lattice.log_share_I[item_BNG]
  if space.evidence is not None and lattice.largest_leaf > 1:
    share_BN = space.evidence.of_sets(paths.held_BNE)
    score_BNG += space.evidence.of_items(share_BN, item_BNG)
  score_BX = jnp.where(allowed_BNG, score_BNG, DEAD).reshape(B, -1)
  score_BK, place_BK = top_k(score_BX, min(k, score_BX.shape[1]))
  missing = ((0, 0), (0, k - score_BK.shape[1]))
  score_BK = jnp.pad(score_BK, missing, constant_values=DEAD)
  place_BK = jnp.pad(place_BK, missing)
  item_BK = take(item_BNG.reshape(B, -1), place_BK)
  return FoundSets(
    item_BK=jnp.where(score_BK > DEAD, item_BK, -1),
    score_BK=score_BK,
    token_BKM=take_rows(paths.token_BNM, place_BK // lattice.largest_leaf),
  )


def set_search(
  decode: DecodeFn, state: Any, space: SetSpace, beam: int, k: int
) -> FoundSets:
  """Best k items of the `beam` best code sets.

  Args:
    decode: feeds the tokens chosen last. State leaves with an entry a path
      have it on the second axis; those with one a user are shared.
    state: before the first step, of one branch per user.
    space: the catalogue and what is allowed of it.
    beam: paths kept after every step.
    k: items returned.
  """
  state, logits_BNMV = decode(state, None)
  B, _, M, _ = logits_BNMV.shape
  E = 0 if space.evidence is None else space.evidence.item_BE.shape[1]
  paths = Paths(
    node_BN=jnp.zeros((B, 1), jnp.int32),
    score_BN=jnp.zeros((B, 1), jnp.float32),
    token_BNM=jnp.full((B, 1, M), -1, jnp.int32),
    agree_BN=jnp.zeros((B, 1), jnp.int32),
    held_BNE=jnp.ones((B, 1, E), bool),
  )
  paths, _ = _expand(space, paths, logits_BNMV, 0, beam, k)
  # Unrolled: every step has a fan-out of its own, and they are few.
  for step in range(1, M):
    state, logits_BNMV = decode(state, paths.token_BNM[..., step - 1])
    paths, parent_BN = _expand(space, paths, logits_BNMV, step, beam, k)
    state = reorder(state, parent_BN)
  return _leaf_items(space, paths, k)
