"""Exact ranking of all items by a model that scores them one by one.

The counterpart of beam search for SASRec (arXiv 1808.09781): scores are
log-probabilities under the full softmax, whatever loss the model was trained
with. The items are gone through in chunks, each of which yields its best k;
equal scores keep the items' order.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from holorec_jax.catalog import Catalog
from holorec_jax.decode import evidence
from holorec_jax.decode.beam import DEAD, top_k
from holorec_jax.decode.evidence import Evidence
from holorec_jax.decode.filters import Lists
from holorec_jax.errors import UserError
from holorec_jax.models.sasrec import SasRec
from holorec_jax.neighbours import Neighbours

CHUNK = 16384


@struct.dataclass
class Ranked:
  """The best items, best first.

  Attributes:
    item_BK: int32; -1 where no further item is allowed.
    score_BK: float32 scores, log-probabilities but for what evidence adds;
      -inf where no item.
  """

  item_BK: jax.Array
  score_BK: jax.Array

  @property
  def valid_BK(self) -> jax.Array:
    """Whether there is an item."""
    return self.item_BK >= 0


def _listed(item_BT: jax.Array, start: jax.Array, size: int) -> jax.Array:
  """(B, size) bool: which items from `start` on a list names."""
  place_BT = item_BT - start
  # What lies outside goes behind the end, where it is dropped.
  place_BT = jnp.where(place_BT < 0, size, place_BT)
  none = jnp.zeros(size, bool)
  return jax.vmap(lambda place_T: none.at[place_T].set(True, mode="drop"))(
    place_BT
  )


def rank_items(
  state_BD: jax.Array,
  table_ID: jax.Array,
  live_I: jax.Array,
  lists: Lists | None,
  k: int,
  chunk: int = CHUNK,
  found: Evidence | None = None,
) -> Ranked:
  """Best k of the allowed items for each state.

  Args:
    state_BD: whose scores of item i are state . E_i.
    table_ID: embeddings, with rows behind the items that are none.
    live_I: bool, what is available of the items.
    lists: items that requests deny or ask for; None: none do.
    k: items returned.
    chunk: items scored at a time.
    found: evidence on items, beside the states; None: there is none.
  """
  rows, B = len(table_ID), state_BD.shape[0]
  num_items = len(live_I)
  count = -(-rows // chunk)
  size = -(-rows // count)
  live_XC = jnp.pad(live_I, (0, count * size - num_items)).reshape(count, size)
  table = jnp.pad(table_ID, ((0, count * size - rows), (0, 0)))

  def add(carry, part):
    ranked, log_norm_B = carry
    start, table_CD, live_C = part
    item_C = start + jnp.arange(size, dtype=jnp.int32)
    logits_BC = jnp.matmul(
      state_BD, table_CD.T, preferred_element_type=jnp.float32
    )
    logits_BC = jnp.where(item_C < num_items, logits_BC, DEAD)
    log_norm_B = jnp.logaddexp(log_norm_B, jax.nn.logsumexp(logits_BC, axis=-1))
    allowed_BC = jnp.broadcast_to(live_C, logits_BC.shape)
    if lists is not None:
      allowed_BC &= ~_listed(lists.deny_BT, start, size)
      wanted_BC = _listed(lists.allow_BA, start, size)
      allowed_BC &= wanted_BC | ~lists.restricted_B[:, None]
    if found is not None:
      logits_BC += found.of_range(start, size)
    best_BK, place_BK = top_k(
      jnp.where(allowed_BC, logits_BC, DEAD), min(k, size)
    )
    # Items found before come first, so that of equals the lowest leads.
    score_BX = jnp.concatenate([ranked.score_BK, best_BK], axis=1)
    item_BX = jnp.concatenate([ranked.item_BK, start + place_BK], axis=1)
    score_BK, place_BK = jax.lax.top_k(score_BX, k)
    item_BK = jnp.take_along_axis(item_BX, place_BK, axis=1)
    return (Ranked(item_BK, score_BK), log_norm_B), None

  nothing = Ranked(
    jnp.full((B, k), -1, jnp.int32), jnp.full((B, k), DEAD, jnp.float32)
  )
  (ranked, log_norm_B), _ = jax.lax.scan(
    add,
    (nothing, jnp.full(B, DEAD, jnp.float32)),
    (
      size * jnp.arange(count, dtype=jnp.int32),
      table.reshape(count, size, -1),
      live_XC,
    ),
  )
  alive_BK = ranked.score_BK > DEAD
  return Ranked(
    jnp.where(alive_BK, ranked.item_BK, -1),
    ranked.score_BK - log_norm_B[:, None],
  )


class RankingEngine:
  """Search of all items of an item-id model; has no codes and no beams.

  Attributes:
    model: the network, of the items of one catalogue.
  """

  def __init__(self, model: SasRec):
    self.model = model

  def check(self, catalog: Catalog) -> None:
    """Raises UserError unless the model has exactly these items."""
    known, given = self.model.num_items, catalog.num_items
    if given > known:
      raise UserError(
        f"the catalogue has {given} items, this model knows the first {known}:"
        " it has no embedding of items that were added after its training."
        " Train it again, or use a system that reads items' content"
      )
    if given < known:
      raise UserError(
        f"the catalogue has {given} items, this model was made for {known}:"
        " load the catalogue of the run that trained it"
      )

  def place(self, catalog: Catalog) -> tuple[Neighbours | None, jax.Array]:
    """No codes, but neighbours if there are; and which items are active."""
    neighbours = jax.tree.map(jnp.asarray, catalog.neighbours)
    return neighbours, jnp.asarray(catalog.active_I)

  def live(self, index: jax.Array, available_I: np.ndarray) -> jax.Array:
    """Items that are active and available."""
    return index & jnp.asarray(available_I)

  def make_search(self, beam: int, k: int) -> Callable:
    """Jitted search(params, neighbours, index, live, item_BT, lists) -> Ranked.

    Args:
      beam: not needed, all items are scored.
      k: items returned.
    """
    del beam
    return _make_search(self.model, k)


@functools.cache
def _make_search(model: SasRec, k: int) -> Callable:
  def run(params, neighbours, index, live, item_BT, lists=None):
    del index
    filled_BT = item_BT >= 0
    last_B1 = jnp.maximum(jnp.sum(filled_BT, axis=1, keepdims=True) - 1, 0)
    state_B1D: Any = model.apply(
      {"params": params},
      item_BT,
      filled_BT.astype(jnp.int32),
      last_B1,
      method=SasRec.branches,
    )
    found = None
    if neighbours is not None:
      found = evidence.find(neighbours, item_BT, None, live, lists)
    return rank_items(
      state_B1D[:, 0], params["item_embedding"], live, lists, k, found=found
    )

  return jax.jit(run)
