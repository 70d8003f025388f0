"""Exhaustive scoring: the oracle of the beam search.

Every item is a branch whose codes are teacher-forced through the unroll that
training differentiates: the search shares the network's layers and heads with
it, but neither steps nor ranking. A beam as wide as the catalogue must agree.
"""

import jax
import jax.numpy as jnp

from holorec_jax.codes import Codes
from holorec_jax.models.generator import Generator
from holorec_jax.types import Batch


def score_all(
  params: dict,
  model: Generator,
  codes: Codes,
  log_share_I: jax.Array,
  item_BT: jax.Array,
  valid_ILV: jax.Array | None = None,
) -> jax.Array:
  """Scores the whole catalogue for every user; memory grows with B * I.

  Args:
    params: the generator's parameters in the compute dtype.
    model: the generator.
    codes: of the catalogue.
    log_share_I: log share of each item in its leaf.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    valid_ILV: codes that may come at each level of each item, for models with
      softmax="tree"; None shares among all codes.

  Returns:
    (B, I) float32: sum over levels of log p(code | codes before, history),
    plus the log share.
  """
  B, I = item_BT.shape[0], codes.fine_IL.shape[0]
  filled_BT = item_BT >= 0
  last_B1 = jnp.maximum(jnp.sum(filled_BT, axis=1, keepdims=True) - 1, 0)
  batch = Batch(
    item_BT=item_BT,
    segment_BT=filled_BT.astype(jnp.int32),
    last_BN=jnp.broadcast_to(last_B1, (B, I)),
    target_BN=jnp.broadcast_to(jnp.arange(I), (B, I)),
    weight_BN=jnp.ones((B, I), jnp.float32),
  )
  outputs = model.apply({"params": params}, batch, codes)
  score_BI = jnp.broadcast_to(log_share_I, (B, I))
  for level, output in enumerate(outputs):
    logits_BIV = output.fine_BNV
    if valid_ILV is not None:
      logits_BIV = jnp.where(valid_ILV[:, level], logits_BIV, -jnp.inf)
    log_prob_BIV = jax.nn.log_softmax(logits_BIV, axis=-1)
    code_1I1 = codes.fine_IL[None, :, level, None]
    score_BI += jnp.take_along_axis(log_prob_BIV, code_1I1, axis=-1)[..., 0]
  return score_BI
