"""History encoder: a user's items, as codes, to context states.

Each history item enters as its L fine codes (one token each, as the papers
do) or pooled to one vector (L times fewer tokens). The encoder is causal (one
pass serves every position's branch, methods 4.1) or bidirectional (parity
with the papers; then every branch must see the whole history).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.layer_stack import (
  init_layers,
  rematerialise,
  scan_layers,
)
from holorec_jax.nn import attention
from holorec_jax.nn.layers import (
  Dropout,
  FeedForward,
  RelativeBias,
  RMSNorm,
  dense,
)


class EncoderBlock(nn.Module):
  """Pre-norm self-attention and feed-forward (T5 encoder layer)."""

  config: GeneratorConfig

  def setup(self):
    c = self.config
    self.attention_norm = RMSNorm()
    self.attention = attention.Attention(c.d_model, c.num_heads, c.head_dim)
    self.mlp_norm = RMSNorm()
    self.mlp = FeedForward(c.d_model, c.d_ff, c.gated_mlp, c.dropout)
    self.attention_drop = Dropout(c.dropout)
    self.mlp_drop = Dropout(c.dropout)

  def __call__(self, x_BCD, bias_BHCC, deterministic):
    normed_BCD = self.attention_norm(x_BCD)
    mixed = attention.attend(
      self.attention.queries(normed_BCD),
      self.attention.context_keys_values(normed_BCD),
      bias_BHCC,
    )
    x_BCD = x_BCD + self.attention_drop(
      self.attention.merge(mixed), deterministic
    )
    hidden_BCD = self.mlp(self.mlp_norm(x_BCD), deterministic)
    return x_BCD + self.mlp_drop(hidden_BCD, deterministic)


class HistoryEncoder(nn.Module):
  """Embedded history (B, T, L, D) -> context states (B, C, D).

  C = T * L with code tokens, C = T with pooled items.
  """

  config: GeneratorConfig

  def setup(self):
    c = self.config
    if c.history == "pooled":
      self.pool = dense(c.d_model, c.d_model)
    self.relative_bias = RelativeBias(
      c.num_heads, bidirectional=not c.causal_history
    )
    if c.scan_layers:
      tiny = (jnp.zeros((1, 1, c.d_model)), jnp.zeros((1, 1, 1, 1)), True)
      block = EncoderBlock(c, parent=None)
      self.layers = self.param(
        "layers", init_layers(block, c.encoder_layers, *tiny)
      )
      self.layers_key = (
        self.make_rng("dropout") if self.has_rng("dropout") else None
      )
    else:
      block_type = rematerialise(EncoderBlock, c.remat, static=3)
      self.blocks = [block_type(c) for _ in range(c.encoder_layers)]
    self.final_norm = RMSNorm()
    self.input_drop = Dropout(c.dropout)
    self.output_drop = Dropout(c.dropout)

  def __call__(
    self, code_embeddings_BTLD: jax.Array, segment_BT: jax.Array, deterministic
  ) -> jax.Array:
    """Encodes; slots of segment 0 are never attended to."""
    x_BCD = self.tokens(code_embeddings_BTLD)
    segment_BC = jnp.repeat(
      segment_BT, x_BCD.shape[1] // segment_BT.shape[1], axis=1
    )
    return self.encode(x_BCD, segment_BC, deterministic)

  def tokens(self, code_embeddings_BTLD: jax.Array) -> jax.Array:
    B, T, L, D = code_embeddings_BTLD.shape
    if self.config.history == "codes":
      return code_embeddings_BTLD.reshape(B, T * L, D)
    # One projection per level, summed: an item is its whole code, ordered.
    return self.pool(code_embeddings_BTLD.reshape(B, T, L * D))

  def encode(self, x_BCD, segment_BC, deterministic) -> jax.Array:
    position_C = jnp.arange(x_BCD.shape[1])
    distance_CC = position_C[:, None] - position_C[None, :]
    mask_BCC = (segment_BC[:, :, None] == segment_BC[:, None, :]) & (
      segment_BC[:, None, :] > 0
    )
    if self.config.causal_history:
      mask_BCC &= distance_CC >= 0
    # Without the barrier XLA on CPU looks every bias up once per user.
    relative_HCC = jax.lax.optimization_barrier(self.relative_bias(distance_CC))
    bias_BHCC = relative_HCC + attention.mask_to_bias(mask_BCC[:, None])
    x_BCD = self.input_drop(sharding.split_tokens(x_BCD), deterministic)
    if self.config.scan_layers:
      x_BCD = self._scan(x_BCD, bias_BHCC, deterministic)
    else:
      for block in self.blocks:
        x_BCD = block(x_BCD, bias_BHCC, deterministic)
    return self.output_drop(self.final_norm(x_BCD), deterministic)

  def _scan(self, x_BCD, bias_BHCC, deterministic) -> jax.Array:
    block = EncoderBlock(self.config, parent=None)

    def layer(params, x_BCD, own, rngs):
      args = (x_BCD, bias_BHCC, deterministic)
      return block.apply({"params": params}, *args, rngs=rngs), own

    x_BCD, _ = scan_layers(
      layer,
      self.layers,
      x_BCD,
      dropout_key=self.layers_key,
      remat=self.config.remat,
    )
    return x_BCD
