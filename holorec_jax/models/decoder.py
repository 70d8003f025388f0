"""The stepwise decoder that training and search share (methods 4.2).

One step feeds one vector to every branch (training) or beam (search) of a
user; training without thoughts knows the vectors of all steps ahead, and feeds
them in one pass. All branches of a user read the same context; each keeps its
own short cache of S slots.

With `scan_layers` the layers are one stack (`layer_stack`): one entry holds the
context, and one the slots, of all layers. Slots have the layers' axis Y behind
branches or beams, which search reorders.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.layer_stack import (
  init_layers,
  rematerialise,
  scan_layers,
)
from holorec_jax.models.repeats import Repeats
from holorec_jax.nn import attention
from holorec_jax.nn.attention import Cache, KeyValues
from holorec_jax.nn.layers import Dropout, FeedForward, RelativeBias, RMSNorm


@struct.dataclass
class Context:
  """What all branches of a user share; computed once per user.

  Attributes:
    layers: per decoder layer, the context's keys (B, H, K, C) and values
      (B, H, C, K); of a stack with the layers' axis Y ahead. Or, for all
      layers, the states (B, C, D) that these would be projected from.
    bias_BHNC: cross-attention bias: visibility and distance; N may be 1.
    start_BND: first decoder input of every branch; N may be 1.
    repeats: what the repeat bias needs; None without it.
  """

  layers: tuple[KeyValues, ...] | KeyValues | jax.Array
  bias_BHNC: jax.Array
  start_BND: jax.Array
  repeats: Repeats | None = None


@struct.dataclass
class DecodeState:
  """What a branch or beam carries from step to step.

  Attributes:
    caches: per decoder layer, the slots; those that were written while a user
      had one branch are shared by all beams (N = 1). Of a stack one entry, of
      slots (B, N, Y, H, K).
    positions: step at which each slot was written; negative: still empty.
      Python ints when the loop is unrolled, traced inside `lax.scan`.
    step: number of the next step; likewise.
    match_BNT: the visible history items whose codes begin with the codes that
      the branch was fed; None without repeat bias.
    chosen_BN: int32, of unordered codes: the codebooks whose codes the branch
      was fed, codebook r is bit r; None where none was, and of levels.
  """

  caches: tuple[Cache, ...]
  positions: tuple[int | jax.Array, ...]
  step: int | jax.Array
  match_BNT: jax.Array | None = None
  chosen_BN: jax.Array | None = None

  def spread(self, beams: int, spare: int) -> "DecodeState":
    """From one branch a user to many beams, with `spare` empty slots each.

    What is there stays shared. Loops whose shapes must not change drop a spare
    slot (`drop_spare`) for every one that they append.
    """

    def widen(cache: Cache) -> Cache:
      B, _, *rest = cache[0].key.shape
      empty = jnp.zeros((B, beams, *rest), cache[0].key.dtype)
      return (*cache, *(KeyValues(empty, empty),) * spare)

    match_BNT = self.match_BNT
    if match_BNT is not None:
      match_BNT = jnp.repeat(match_BNT, beams, axis=1)
    return DecodeState(
      caches=tuple(widen(cache) for cache in self.caches),
      positions=(*self.positions, *(-1,) * spare),
      step=self.step,
      match_BNT=match_BNT,
    )

  def drop_spare(self, shared: int, count: int) -> "DecodeState":
    """Without the `count` slots that come after the first `shared`."""
    slots = range(len(self.positions))
    keep = [*slots[:shared], *slots[shared + count :]]
    return dataclasses.replace(
      self,
      caches=tuple(tuple(cache[s] for s in keep) for cache in self.caches),
      positions=tuple(self.positions[s] for s in keep),
    )


class DecoderBlock(nn.Module):
  """Pre-norm self-attention, cross-attention, feed-forward (T5 decoder)."""

  config: GeneratorConfig

  def setup(self):
    c = self.config
    shape = (c.d_model, c.num_heads, c.head_dim)
    self.self_norm = RMSNorm()
    self.self_attention = attention.Attention(*shape)
    self.cross_norm = RMSNorm()
    self.cross_attention = attention.Attention(*shape)
    self.mlp_norm = RMSNorm()
    self.mlp = FeedForward(c.d_model, c.d_ff, c.gated_mlp, c.dropout)
    self.self_drop = Dropout(c.dropout)
    self.cross_drop = Dropout(c.dropout)
    self.mlp_drop = Dropout(c.dropout)

  def read(self, states_BCD: jax.Array) -> KeyValues:
    """The layer's context keys and values."""
    return self.cross_attention.context_keys_values(states_BCD)

  def __call__(
    self, x_BXD, cache, own_biases, context, bias_BHXC, deterministic
  ):
    """Feeds X = S * N vectors, one step behind the other.

    Args:
      x_BXD: the vectors.
      cache: slots written before; the layer's own.
      own_biases: (H, slots seen) of each of the S steps.
      context: the layer's keys and values, or the states themselves.
      bias_BHXC: of the context.
      deterministic: no dropout.

    Returns:
      (B, X, D), and the cache with S more slots.
    """
    steps = len(own_biases)
    own, cache = self._attend_own(self.self_norm(x_BXD), cache, own_biases)
    x_BXD += self.self_drop(own, deterministic, steps)
    queries_BXHK = self.cross_attention.queries(self.cross_norm(x_BXD))
    if isinstance(context, KeyValues):
      read = attention.attend(queries_BXHK, context, bias_BHXC)
    else:
      read = self.cross_attention.attend_states(
        queries_BXHK, context, bias_BHXC
      )
    merged_BXD = self.cross_attention.merge(read)
    x_BXD += self.cross_drop(merged_BXD, deterministic, steps)
    hidden_BXD = self.mlp(self.mlp_norm(x_BXD), deterministic, steps)
    return x_BXD + self.mlp_drop(hidden_BXD, deterministic, steps), cache

  def _attend_own(self, x_BXD, cache, own_biases):
    """Every step's vectors read the slots so far, their own included."""
    queries_BXHK = self.self_attention.queries(x_BXD)
    slots = self.self_attention.own_keys_values(x_BXD)

    def split(y_BXHK):
      return jnp.split(y_BXHK, len(own_biases), axis=1)

    mixed = []
    for query_BNHK, key_BNHK, value_BNHK, bias_HS in zip(
      split(queries_BXHK), split(slots.key), split(slots.value), own_biases
    ):
      cache = (*cache, KeyValues(key_BNHK, value_BNHK))
      mixed.append(attention.attend_own(query_BNHK, cache, bias_HS))
    mixed_BXHK = jnp.concatenate(mixed, axis=1)
    return self.self_attention.merge(mixed_BXHK), cache


def _first_step(block: DecoderBlock, x_BND: jax.Array):
  """A call that reads all parameters of a block, to create them."""
  own_biases = (jnp.zeros((block.config.num_heads, 1)),)
  bias_BHNC = jnp.zeros((1, 1, 1, 1))
  return block(x_BND, (), own_biases, block.read(x_BND), bias_BHNC, True)


class StepDecoder(nn.Module):
  """Vectors of known steps in, their states out, for every branch at once."""

  config: GeneratorConfig

  def setup(self):
    c = self.config
    self.relative_bias = RelativeBias(c.num_heads, bidirectional=False)
    if c.scan_layers:
      block, x_BND = DecoderBlock(c, parent=None), jnp.zeros((1, 1, c.d_model))
      self.layers = self.param(
        "layers",
        init_layers(block, c.decoder_layers, x_BND, method=_first_step),
      )
      self.layers_key = (
        self.make_rng("dropout") if self.has_rng("dropout") else None
      )
    else:
      block_type = rematerialise(DecoderBlock, c.remat, static=6)
      self.blocks = [block_type(c) for _ in range(c.decoder_layers)]
    self.final_norm = RMSNorm()
    self.input_drop = Dropout(c.dropout)
    self.output_drop = Dropout(c.dropout)

  def project_context(
    self, states_BCD: jax.Array, queries: int | None = None
  ) -> tuple[KeyValues, ...] | KeyValues | jax.Array:
    """Every layer's context keys and values, once per user.

    Args:
      states_BCD: of the histories.
      queries: how many will read a user's context, if that is known; the
        states stay as they are where that takes fewer operations.

    Returns:
      What `Context.layers` holds.
    """
    tokens, c = states_BCD.shape[1], self.config
    if queries is not None and not attention.projecting_pays(
      queries, tokens, c.d_model, c.head_dim
    ):
      return states_BCD
    if not c.scan_layers:
      return tuple(block.read(states_BCD) for block in self.blocks)
    block = DecoderBlock(c, parent=None)

    def layer(params, states_BCD, own, rngs):
      del own, rngs
      params = {"cross_attention": params}
      read = block.apply({"params": params}, states_BCD, method="read")
      return states_BCD, read

    return scan_layers(layer, self.layers["cross_attention"], states_BCD)[1]

  def step(
    self, x_BND, state: DecodeState, context: Context, deterministic: bool
  ) -> tuple[jax.Array, DecodeState]:
    """Feeds x; returns states (B, N, D) and the state with one more slot."""
    return self.steps((x_BND,), state, context, deterministic)

  def steps(
    self, xs_BND, state: DecodeState, context: Context, deterministic: bool
  ) -> tuple[jax.Array, DecodeState]:
    """Feeds the vectors of S steps, all known ahead, in one pass.

    Returns:
      The states (B, S * N, D), one step behind the other, and the state with
      S more slots.
    """
    steps = len(xs_BND)
    positions = (*state.positions, *(state.step + s for s in range(steps)))
    own_biases = []
    for s in range(steps):
      seen = positions[: len(state.positions) + s + 1]
      position_S = jnp.stack([jnp.int32(p) for p in seen])
      own_biases.append(
        self.relative_bias(seen[-1] - position_S)
        + attention.mask_to_bias(position_S >= 0)
      )
    bias_BHXC = context.bias_BHNC
    if steps > 1:
      bias_BHXC = jnp.tile(bias_BHXC, (1, 1, steps, 1))
    x_BXD = jnp.concatenate(xs_BND, axis=1)
    x_BXD = self.input_drop(x_BXD, deterministic, steps)
    args = (tuple(own_biases), context.layers, bias_BHXC, deterministic)
    through = self._scan if self.config.scan_layers else self._unroll
    x_BXD, caches = through(x_BXD, state.caches, *args)
    x_BXD = self.output_drop(self.final_norm(x_BXD), deterministic, steps)
    return x_BXD, dataclasses.replace(
      state, caches=caches, positions=positions, step=state.step + steps
    )

  def _unroll(
    self, x_BXD, caches, own_biases, layers, bias_BHXC, deterministic
  ):
    """Through all layers: (B, X, D) and the caches with more slots."""
    longer = []
    if isinstance(layers, jax.Array):
      layers = (layers,) * len(self.blocks)
    for block, cache, own in zip(self.blocks, caches, layers):
      x_BXD, cache = block(
        x_BXD, cache, own_biases, own, bias_BHXC, deterministic
      )
      longer.append(cache)
    return x_BXD, tuple(longer)

  def _scan(self, x_BXD, caches, own_biases, layers, bias_BHXC, deterministic):
    """The same through a stack."""
    block = DecoderBlock(self.config, parent=None)
    # Before the first step there are no slots, whatever they would belong to.
    slots = caches[0]
    shared = layers if isinstance(layers, jax.Array) else None

    def layer(params, x_BXD, own, rngs):
      cache, read = own
      if shared is not None:
        read = shared
      args = (x_BXD, cache, own_biases, read, bias_BHXC, deterministic)
      applied: Any = block.apply({"params": params}, *args, rngs=rngs)
      x_BXD, longer = applied
      return x_BXD, longer[len(cache) :]

    by_layer = jax.tree.map(lambda x_BNYHK: jnp.moveaxis(x_BNYHK, 2, 0), slots)
    x_BXD, new = scan_layers(
      layer,
      self.layers,
      x_BXD,
      (by_layer, None if shared is not None else layers),
      self.layers_key,
      self.config.remat,
    )
    new = jax.tree.map(lambda x_YBNHK: jnp.moveaxis(x_YBNHK, 0, 2), new)
    return x_BXD, ((*slots, *new),)
