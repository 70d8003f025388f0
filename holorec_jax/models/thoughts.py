"""Thoughts: what is fed at a think step, and how it comes back.

A thought is a small module with three pure methods. `think` turns the state of
the last position into a thought, with the logits that supervise it; `feed`
says what of it the decoder is fed next; `inject` joins the state at the think
step with the thought before the fine head reads it. Training and search call
the same three.

  none     no think step (non-thinking mode, L decoder steps)
  holorec  a soft coarse code, gated back (methods 1.2, HoloRec)
  s2gr     t_l = state + p_l, a learned vector per level; training pulls it to
           a cluster of the codes to come (methods 2.2, train/s2gr_loss.py)
  pause    the same without supervision: the control that tells extra compute
           from supervision (methods 4.2)
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.nn.layers import dense, matmul, scaled_normal


class HoloRecThought(nn.Module):
  """c~_l = sum_v softmax(W_c h / tau)(v) E_l[v], injected through a gate."""

  config: GeneratorConfig
  num_levels: int
  num_codes: int

  def setup(self):
    d_model = self.config.d_model
    self.coarse_head_LDV = self.param(
      "coarse_head",
      scaled_normal(d_model),
      (self.num_levels, d_model, self.num_codes),
    )
    if self.config.thought_gate:
      self.gate = dense(d_model, 2 * d_model, use_bias=True)
      self.projection = dense(d_model, d_model)
      self.norm = nn.LayerNorm()

  def think(self, state_BND, level, embedding_VD):
    """State -> (thought (B, N, D), coarse logits (B, N, V) float32)."""
    logits_BNV = matmul(state_BND, self.coarse_head_LDV[level]).astype(
      jnp.float32
    )
    share_BNV = jax.nn.softmax(
      logits_BNV / self.config.thought_temperature, axis=-1
    )
    share_BNV = share_BNV.astype(embedding_VD.dtype)
    return matmul(share_BNV, embedding_VD), logits_BNV

  def feed(self, state_BND, thought_BND):
    """The thought, with `thought_carry` on top of the state it came from."""
    if self.config.thought_carry:
      return state_BND + thought_BND
    return thought_BND

  def inject(self, state_BND, thought_BND):
    """LayerNorm(h + sigmoid(W_g [h ; c~] + b_g) * W_p c~)."""
    if not self.config.thought_gate:
      return state_BND
    gate_BND = nn.sigmoid(
      self.gate(jnp.concatenate([state_BND, thought_BND], axis=-1))
    )
    return self.norm(state_BND + gate_BND * self.projection(thought_BND))


class PauseThought(nn.Module):
  """t_l = state + p_l, the same extra step with nothing of its own to say.

  What S2GR's thought has beyond it is a loss.
  """

  config: GeneratorConfig
  num_levels: int
  num_codes: int

  def setup(self):
    self.pause_LD = self.param(
      "pause",
      nn.initializers.normal(stddev=1.0),
      (self.num_levels, self.config.d_model),
    )

  def think(self, state_BND, level, embedding_VD):
    """State -> (state + p_l, no logits)."""
    return state_BND + self.pause_LD[level].astype(state_BND.dtype), None

  def feed(self, state_BND, thought_BND):
    return thought_BND

  def inject(self, state_BND, thought_BND):
    return state_BND


THOUGHTS = {
  "none": None,
  "holorec": HoloRecThought,
  "s2gr": PauseThought,
  "pause": PauseThought,
}
