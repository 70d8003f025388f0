"""S2GR's auxiliary decoder: a user's summary that only training reads.

Source: S2GR (arXiv 2601.18664); methods 2.2. From what opens a branch, a few
layers read the branch's context and yield v_g, which a contrastive loss pulls
to the item to come; the first thought is pulled to v_g in turn. Search calls
the generator alone.
"""

import jax
from flax import linen as nn

from holorec_jax.codes import Codes
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.decoder import Context
from holorec_jax.models.generator import Generator, LevelOutput
from holorec_jax.nn import attention
from holorec_jax.nn.layers import Dropout, FeedForward, RMSNorm
from holorec_jax.types import Batch


class GuideBlock(nn.Module):
  """Pre-norm cross-attention and feed-forward.

  T5's decoder layer without self-attention, as there is one token to decode.
  """

  config: GeneratorConfig

  def setup(self):
    c = self.config
    self.cross_norm = RMSNorm()
    self.cross_attention = attention.Attention(
      c.d_model, c.num_heads, c.head_dim
    )
    self.mlp_norm = RMSNorm()
    self.mlp = FeedForward(c.d_model, c.d_ff, c.gated_mlp, c.dropout)
    self.cross_drop = Dropout(c.dropout)
    self.mlp_drop = Dropout(c.dropout)

  def __call__(self, x_BND, states_BCD, bias_BHNC, deterministic):
    read = attention.attend(
      self.cross_attention.queries(self.cross_norm(x_BND)),
      self.cross_attention.context_keys_values(states_BCD),
      bias_BHNC,
    )
    x_BND = x_BND + self.cross_drop(
      self.cross_attention.merge(read), deterministic
    )
    hidden_BND = self.mlp(self.mlp_norm(x_BND), deterministic)
    return x_BND + self.mlp_drop(hidden_BND, deterministic)


class Guide(nn.Module):
  """Context states and open branches -> v_g (B, N, D)."""

  config: GeneratorConfig
  num_layers: int

  def setup(self):
    self.blocks = [GuideBlock(self.config) for _ in range(self.num_layers)]
    self.final_norm = RMSNorm()

  def __call__(
    self, states_BCD: jax.Array, context: Context, deterministic: bool
  ) -> jax.Array:
    x_BND = context.start_BND
    for block in self.blocks:
      x_BND = block(x_BND, states_BCD, context.bias_BHNC, deterministic)
    return self.final_norm(x_BND)


class GuidedGenerator(nn.Module):
  """A generator in training, with its guide.

  Its parameters are the generator's, and "guide" beside them: the generator
  searches with them as they are, or without "guide".

  Attributes:
    generator: what is trained.
    guide_layers: depth of the guide.
  """

  generator: Generator
  guide_layers: int = 2

  def setup(self):
    nn.share_scope(self, self.generator)
    self.guide = Guide(self.generator.config, self.guide_layers)

  @property
  def num_levels(self) -> int:
    """L."""
    return self.generator.num_levels

  def __call__(
    self, batch: Batch, codes: Codes, deterministic: bool = True
  ) -> tuple[list[LevelOutput], jax.Array]:
    """The generator's outputs, and v_g of every branch (B, N, D)."""
    generator = self.generator
    history = (batch.item_BT, codes, batch.segment_BT)
    encoded = generator.encode(*history, deterministic)
    context = generator.attach(encoded, *history, batch.last_BN, unrolled=True)
    outputs = generator.unroll(
      context, codes.fine_IL[batch.target_BN], deterministic
    )
    states_BCD = generator.states(encoded)
    return outputs, self.guide(states_BCD, context, deterministic)
