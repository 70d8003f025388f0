"""A decoder-only backbone in the shape of Qwen3 (arXiv 2505.09388).

One stack of layers reads histories and decodes branches: pre-norm RMS, grouped
queries with normed heads, rotary positions, SwiGLU, no biases. The history's
tokens pass once, causally within their segment; each layer's keys and values
are what branches share. A branch is the continuation of its history: step s
takes position (tokens that the branch sees) + s and attends, in one softmax, to
those tokens and to its own slots. So a user's branches cost one history, and a
branch computes what a language model computes on [history, BOS, codes ..].

The module is encoder and decoder of a generator at once (`models/backbones`).
Parameters: "blocks_0", "blocks_1", .. of one layer each, or, with
config.scan_layers, "layers" with all of them stacked (`layer_stack`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.decoder import Context, DecodeState
from holorec_jax.models.layer_stack import POLICIES, init_layers, scan_layers
from holorec_jax.nn import fused_attention, grouped_attention, rotary
from holorec_jax.nn.attention import KeyValues, mask_to_bias
from holorec_jax.nn.layers import Dropout, RMSNorm, dense
from holorec_jax.nn.rotary import Rotation


class Encoded(NamedTuple):
  """Histories that have passed the stack.

  Attributes:
    states_BCD: of every token, after the last norm.
    layers: for each layer keys and values (B, heads of keys, C, K); of scanned
      layers (Y, B, heads of keys, C, K).
  """

  states_BCD: jax.Array
  layers: tuple[KeyValues, ...] | KeyValues


class SwiGlu(nn.Module):
  """(silu(x W_gate) * x W_in) W_out (Shazeer, arXiv 2002.05202)."""

  d_model: int
  d_ff: int
  dropout: float

  def setup(self):
    self.wi = dense(self.d_ff, self.d_model)
    self.wi_gate = dense(self.d_ff, self.d_model)
    self.wo = dense(self.d_model, self.d_ff)
    self.drop = Dropout(self.dropout)

  def __call__(
    self, x: jax.Array, deterministic: bool, steps: int = 1
  ) -> jax.Array:
    hidden = nn.silu(self.wi_gate(x)) * self.wi(x)
    return self.wo(self.drop(hidden, deterministic, steps))


class Block(nn.Module):
  """One layer, for history tokens and branches alike."""

  config: GeneratorConfig

  def setup(self):
    c = self.config
    self.attention_norm = RMSNorm()
    self.attention = grouped_attention.GroupedAttention(
      c.d_model, c.num_heads, c.num_kv_heads or c.num_heads, c.head_dim
    )
    self.mlp_norm = RMSNorm()
    self.mlp = SwiGlu(c.d_model, c.d_ff, c.dropout)
    self.attention_drop = Dropout(c.dropout)
    self.mlp_drop = Dropout(c.dropout)

  def __call__(
    self,
    x_BCD: jax.Array,
    by: Rotation,
    attend: Callable[[jax.Array, KeyValues], jax.Array],
    deterministic: bool,
    steps: int = 1,
  ) -> tuple[jax.Array, KeyValues]:
    """Returns x and its keys and values; attend(queries, those) mixes.

    Of several steps x holds one behind the other, (B, S * N, D).
    """
    normed_BCD = self.attention_norm(x_BCD)
    own = self.attention.keys_values(normed_BCD, by)
    mixed_BCHK = attend(self.attention.queries(normed_BCD, by), own)
    x_BCD = x_BCD + self.attention_drop(
      self.attention.merge(mixed_BCHK), deterministic, steps
    )
    hidden_BCD = self.mlp(self.mlp_norm(x_BCD), deterministic, steps)
    return x_BCD + self.mlp_drop(hidden_BCD, deterministic, steps), own


def positions_within(segment_BC: jax.Array) -> jax.Array:
  """Index of each slot within its segment, which lies in one piece."""
  slot_C = jnp.arange(segment_BC.shape[1])
  before_BC = jnp.roll(segment_BC, 1, axis=1)
  opens_BC = (segment_BC != before_BC) | (slot_C == 0)
  return slot_C - jax.lax.cummax(jnp.where(opens_BC, slot_C, 0), axis=1)


def split_steps(own: KeyValues, steps: int) -> tuple[KeyValues, ...]:
  """(B, S * N, ..), one step behind the other, -> a slot (B, N, ..) each."""
  keys = jnp.split(own.key, steps, axis=1)
  return tuple(map(KeyValues, keys, jnp.split(own.value, steps, axis=1)))


def _attend_steps(
  bias_BHNC, bias_S, steps: int, each, query_BXHK: jax.Array, own: KeyValues
) -> jax.Array:
  """Every step's branches read the context and the slots so far.

  Args:
    bias_BHNC: of the context.
    bias_S: which slots are filled, those of the steps included.
    steps: how many lie one behind the other.
    each: the layer's context, and its slots of steps before these.
    query_BXHK: of the steps.
    own: their keys and values.
  """
  context, cache = each
  mixed = []
  for query_BNHK, slot in zip(
    jnp.split(query_BXHK, steps, axis=1), split_steps(own, steps)
  ):
    cache = (*cache, slot)
    seen = (cache, bias_S[: len(cache)])
    mixed.append(
      grouped_attention.attend_branches(query_BNHK, context, bias_BHNC, *seen)
    )
  return jnp.concatenate(mixed, axis=1)


class Qwen3(nn.Module):
  """The stack: embedded histories in, one vector a branch in, states out."""

  config: GeneratorConfig

  def setup(self):
    c = self.config
    if c.history == "pooled":
      self.pool = dense(c.d_model, c.d_model)
    self.block = Block(c, parent=None)
    by = self._rotation(jnp.zeros((1, 1), jnp.int32))
    args = (jnp.zeros((1, 1, c.d_model)), by, lambda query, own: query, True)
    if c.scan_layers:
      init = init_layers(self.block, c.decoder_layers, *args)
      self.layers = self.param("layers", init)
    else:
      self.blocks = [
        self.param(
          f"blocks_{number}", lambda key: self.block.init(key, *args)["params"]
        )
        for number in range(c.decoder_layers)
      ]
    self.final_norm = RMSNorm()
    self.dropout_key = (
      self.make_rng("dropout") if self.has_rng("dropout") else None
    )

  def _rotation(self, position_BC: jax.Array) -> Rotation:
    c = self.config
    return rotary.rotation(position_BC, c.head_dim, c.rope_theta)

  def __call__(
    self,
    code_embeddings_BTLD: jax.Array,
    segment_BT: jax.Array,
    deterministic: bool,
  ) -> Encoded:
    """Reads embedded histories; C = T * L with code tokens, T with pooled."""
    B, T, L, D = code_embeddings_BTLD.shape
    if self.config.history == "codes":
      x_BCD = code_embeddings_BTLD.reshape(B, T * L, D)
    else:
      x_BCD = self.pool(code_embeddings_BTLD.reshape(B, T, L * D))
    segment_BC = jnp.repeat(segment_BT, x_BCD.shape[1] // T, axis=1)
    return self.encode(x_BCD, segment_BC, deterministic)

  def encode(
    self, x_BCD: jax.Array, segment_BC: jax.Array, deterministic: bool
  ) -> Encoded:
    """Reads any tokens, causally within their segments."""
    mix = grouped_attention.attend_history
    if self.config.fused_attention:
      mix = fused_attention.attend

    def attend(_, query_BCHK, own):
      return mix(query_BCHK, own, segment_BC)

    x_BCD = sharding.split_tokens(x_BCD)
    by = self._rotation(positions_within(segment_BC))
    each = None if self.config.scan_layers else (None,) * len(self.blocks)
    x_BCD, own = self._run(x_BCD, by, attend, each, deterministic, site=0)
    # Heads go first once, so that no step transposes the context again.
    layers = jax.tree.map(lambda x: jnp.swapaxes(x, -3, -2), own)
    return Encoded(self.final_norm(x_BCD), layers)

  def project_context(
    self, encoded: Encoded, queries: int | None = None
  ) -> tuple[KeyValues, ...] | KeyValues:
    """What branches read, however many; it is there already."""
    del queries
    return encoded.layers

  def step(
    self,
    x_BND: jax.Array,
    state: DecodeState,
    context: Context,
    deterministic: bool,
  ) -> tuple[jax.Array, DecodeState]:
    """Feeds x; returns states (B, N, D) and the state with one more slot."""
    return self.steps((x_BND,), state, context, deterministic)

  def steps(
    self,
    xs_BND: Sequence[jax.Array],
    state: DecodeState,
    context: Context,
    deterministic: bool,
  ) -> tuple[jax.Array, DecodeState]:
    """Feeds the vectors of S steps, all known ahead, in one pass.

    Returns:
      The states (B, S * N, D), one step behind the other, and the state with
      S more slots.
    """
    steps = len(xs_BND)
    positions = (*state.positions, *(state.step + s for s in range(steps)))
    bias_S = mask_to_bias(jnp.stack([jnp.int32(p) for p in positions]) >= 0)
    # A branch comes right behind the tokens that it sees.
    first_BN = jnp.sum(context.bias_BHNC[:, 0] >= 0, axis=-1)
    if steps > 1:  # else branches of one position share its rotation
      first_BN = jnp.broadcast_to(first_BN, xs_BND[0].shape[:2])
    by = self._rotation(
      jnp.concatenate([first_BN + p for p in positions[-steps:]], axis=1)
    )

    attend = functools.partial(_attend_steps, context.bias_BHNC, bias_S, steps)
    each: Any
    if self.config.scan_layers:
      (slots,) = state.caches
      by_layer = jax.tree.map(
        lambda x_BNYHK: jnp.moveaxis(x_BNYHK, 2, 0), slots
      )
      each = (context.layers, by_layer)
    else:
      each = tuple(zip(context.layers, state.caches))
    x_BXD = jnp.concatenate(xs_BND, axis=1)
    x_BXD, new = self._run(x_BXD, by, attend, each, deterministic, 1, steps)
    if self.config.scan_layers:
      new = (jax.tree.map(lambda x_YBXHK: jnp.moveaxis(x_YBXHK, 0, 2), new),)
    return self.final_norm(x_BXD), dataclasses.replace(
      state,
      caches=tuple(
        (*cache, *split_steps(own, steps))
        for cache, own in zip(state.caches, new)
      ),
      positions=positions,
      step=state.step + steps,
    )

  def _run(
    self,
    x_BCD: jax.Array,
    by: Rotation,
    attend: Callable[[Any, jax.Array, KeyValues], jax.Array],
    each: Any,
    deterministic: bool,
    site: int,
    steps: int = 1,
  ) -> tuple[jax.Array, Any]:
    """Sends x through all layers.

    Args:
      x_BCD: tokens or branches.
      by: rotation at their positions.
      attend: attend(own, queries, keys and values) mixes, as in `Block`.
      each: `own` of every layer; of scanned layers with Y in front.
      deterministic: no dropout.
      site: tells the dropout of histories from that of branches.
      steps: S of x (B, S * N, D).

    Returns:
      x, and each layer's keys and values, likewise.
    """
    c, key = self.config, None
    if self.dropout_key is not None and not deterministic:
      key = jax.random.fold_in(self.dropout_key, site)

    def layer(params, x_BCD, own, rngs):
      mix = functools.partial(attend, own)
      args = (x_BCD, by, mix, deterministic, steps)
      return self.block.apply({"params": params}, *args, rngs=rngs)

    if c.scan_layers:
      return scan_layers(layer, self.layers, x_BCD, each, key, c.remat)
    if c.remat != "none":
      layer = jax.checkpoint(layer, policy=POLICIES[c.remat])
    new = []
    for number, (params, own) in enumerate(zip(self.blocks, each)):
      rngs = None
      if key is not None:
        rngs = {"dropout": jax.random.fold_in(key, number)}
      x_BCD, keys_values = layer(params, x_BCD, own, rngs)
      new.append(keys_values)
    return x_BCD, tuple(new)
