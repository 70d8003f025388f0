"""Why an item: what a generator computes along its codes, as a program.

Search keeps only what ranks items. Here the same steps are fed the codes of
given items: each level's log-probability, normalised as search does it, and
what was thought before it. An item's score is the sum of its levels', its log
share of the items that have the same codes, and what neighbours add.
"""

from typing import Any

import jax
import jax.numpy as jnp

from holorec_jax.codes import Codes
from holorec_jax.decode.search_tree import (
  SearchTree,
  children,
  descend,
  unpack,
)
from holorec_jax.models.generator import Generator
from holorec_jax.types import Batch

# Coarse codes of a thought that are told.
THOUGHTS = 3


def explain(
  model: Generator,
  params: Any,
  codes: Codes,
  tree: SearchTree,
  item_BT: jax.Array,
  target_BK: jax.Array,
) -> dict[str, jax.Array]:
  """Follows the codes of some items.

  Args:
    model: the generator.
    params: of it, in the compute dtype.
    codes: of the catalogue.
    tree: of the catalogue.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    target_BK: the items; all of them in the tree.

  Returns:
    log_prob_BKL and log_share_BK float32; and where the model thinks in codes
    coarse_BKLC int32, the likeliest of each thought, and share_BKLC float32.
  """
  filled_BT = item_BT >= 0
  last_B1 = jnp.maximum(filled_BT.sum(axis=1, keepdims=True) - 1, 0)
  batch = Batch(
    item_BT=item_BT,
    segment_BT=filled_BT.astype(jnp.int32),
    last_BN=jnp.broadcast_to(last_B1, target_BK.shape),
    target_BN=target_BK,
    weight_BN=jnp.ones(target_BK.shape, jnp.float32),
  )
  outputs: Any = model.apply({"params": params}, batch, codes)
  code_BKL = codes.fine_IL[target_BK]
  over_tree = model.config.softmax == "tree"
  node_BK = jnp.zeros_like(target_BK)
  log_probs = []
  for level, output in enumerate(outputs):
    code_BK, group = code_BKL[..., level], tree.group(level)
    valid_BKV = _followers(tree, group, node_BK) if over_tree else None
    log_prob_BKV = jax.nn.log_softmax(output.fine_BNV, where=valid_BKV)
    log_probs.append(jnp.take_along_axis(log_prob_BKV, code_BK[..., None], -1))
    node_BK = jnp.maximum(descend(tree, group, node_BK, code_BK), 0)
  found = {
    "log_prob_BKL": jnp.concatenate(log_probs, axis=-1),
    "log_share_BK": tree.log_share_I[target_BK],
  }
  if outputs[0].coarse_BNV is None:
    return found
  coarse_BKLV = jnp.stack([output.coarse_BNV for output in outputs], axis=2)
  share_BKLV = jax.nn.softmax(coarse_BKLV / model.config.thought_temperature)
  count = min(THOUGHTS, share_BKLV.shape[-1])
  share_BKLC, coarse_BKLC = jax.lax.top_k(share_BKLV, count)
  return found | {"coarse_BKLC": coarse_BKLC, "share_BKLC": share_BKLC}


def _followers(tree: SearchTree, group: int, node_BK: jax.Array) -> jax.Array:
  """(B, K, V) whether a code may follow a node of a group."""
  if tree.is_dense(group):
    return unpack(tree.words[node_BK], tree.num_codes)
  _, code_BKF, exists_BKF = children(tree, group, node_BK)
  hit_BKFV = code_BKF[..., None] == jnp.arange(tree.num_codes)
  return jnp.any(hit_BKFV & exists_BKF[..., None], axis=-2)
