"""SASRec: histories of items, as items, to states that score all items.

Source: Kang & McAuley, "Self-Attentive Sequential Recommendation", arXiv
1808.09781: causal self-attention over item embeddings (equations 1 to 5); item
i's score after a history is state . E_i with the embeddings of the input
(section III.E). Blocks are those of the generator's history encoder (pre-norm,
RMS, no biases, relative positions), so that systems differ in what they predict
and not in how they read. Relative positions count within a history wherever it
lies in a packed row.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.history import HistoryEncoder
from holorec_jax.nn.layers import scaled_normal
from holorec_jax.ranges import check_ranges

# Whole blocks of rows divide over devices.
ROW_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class SasRecConfig:
  """Shape of the item-id baseline.

  Attributes:
    d_model: width D of states and item embeddings.
    num_heads: attention heads H, each of D / H.
    layers: depth.
    d_ff: feed-forward width F.
    gated_mlp: gated GELU instead of ReLU.
    dropout: rate on embeddings, on what a layer adds and on the last states.
  """

  d_model: int = 128
  num_heads: int = 4
  layers: int = 2
  d_ff: int = 256
  gated_mlp: bool = False
  dropout: float = 0.4

  def __post_init__(self):
    check_ranges(
      self,
      "config.sasrec",
      d_model="[1, inf)",
      num_heads="[1, inf)",
      layers="[0, inf)",
      d_ff="[1, inf)",
      dropout="[0, 0.99]",
    )
    if self.d_model % self.num_heads:
      raise UserError(
        f"config.sasrec.d_model is {self.d_model}, which"
        f" config.sasrec.num_heads = {self.num_heads} does not divide: choose"
        " a multiple."
      )

  def encoder(self) -> GeneratorConfig:
    """The same as the history encoder knows it."""
    return GeneratorConfig(
      d_model=self.d_model,
      num_heads=self.num_heads,
      head_dim=self.d_model // self.num_heads,
      d_ff=self.d_ff,
      gated_mlp=self.gated_mlp,
      encoder_layers=self.layers,
      dropout=self.dropout,
      history="pooled",
      causal_history=True,
    )


class SasRec(nn.Module):
  """Item embeddings and a causal encoder.

  Attributes:
    config: shape.
    num_items: I; the table has more rows, up to whole blocks, that no item
      uses and no softmax counts.
  """

  config: SasRecConfig
  num_items: int

  def setup(self):
    D = self.config.d_model
    rows = -(-self.num_items // ROW_BLOCK) * ROW_BLOCK
    self.item_embedding_ID = self.param(
      "item_embedding", scaled_normal(D), (rows, D)
    )
    self.encoder = HistoryEncoder(self.config.encoder())

  def states(
    self, item_BT: jax.Array, segment_BT: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """What follows each history item, (B, T, D).

    Args:
      item_BT: history items (any where empty).
      segment_BT: packed histories, as in `Batch`.
      deterministic: no dropout.
    """
    scale = self.config.d_model**0.5
    return self.encoder.encode(
      self.item_embedding_ID[item_BT] * scale, segment_BT, deterministic
    )

  def branches(
    self,
    item_BT: jax.Array,
    segment_BT: jax.Array,
    last_BN: jax.Array,
    deterministic: bool = True,
  ) -> jax.Array:
    """The states that branches predict from, (B, N, D); see `Batch`."""
    states_BTD = self.states(item_BT, segment_BT, deterministic)
    states_BTD = sharding.whole_tokens(states_BTD, 1)
    return jnp.take_along_axis(states_BTD, last_BN[..., None], axis=1)
