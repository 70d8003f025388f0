"""HoloRec's generator: histories in, the codes of the next item out.

Source: HoloRec (arXiv 2606.15331); notation of the design's methods 1.2.

  non-thinking   BOS f_1 .. f_{L-1}            -> f_1 .. f_L        L steps
  thinking       BOS c~_1 f_1 c~_2 .. c~_L     -> c_1 f_1 .. f_L    2L steps
  upfront        BOS c~_1 .. c~_L f_1 ..       -> c_1 .. c_L f_1 .. f_L, as many

Codes are teacher-forced, thoughts always feed the model's own prediction, so
training unrolls the very steps that search scans (`level`). Without thoughts it
takes the same steps in one pass (`StepDecoder.steps`).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.models.backbones import BACKBONES
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.decoder import Context, DecodeState
from holorec_jax.models.repeats import RepeatBias
from holorec_jax.models.thoughts import THOUGHTS
from holorec_jax.nn import attention
from holorec_jax.nn.layers import RelativeBias, matmul, scaled_normal
from holorec_jax.types import Batch


class LevelOutput(NamedTuple):
  """What one level of the decoder yields.

  Attributes:
    fine_BNV: float32 logits of the level's fine code.
    coarse_BNV: float32 logits of the thought's coarse code, or None.
    align_RBNV: float32 logits of the alignment heads, coarse rows first;
      None unless asked for (training only).
    thought_BND: the thought that was fed, or None.
    ahead: coarse_BNV and thought_BND of the levels to come, where all thoughts
      come before the first code; they are the later levels' in the end.
  """

  fine_BNV: jax.Array
  coarse_BNV: jax.Array | None = None
  align_RBNV: jax.Array | None = None
  thought_BND: jax.Array | None = None
  ahead: tuple[tuple[jax.Array | None, jax.Array], ...] = ()


def sight(segment_BT, last_BN) -> tuple[jax.Array, jax.Array]:
  """Which slots a branch sees, its own segment up to `last`; and how far back.

  Returns:
    visible_BNT bool, distance_BNT int32 (negative behind `last`).
  """
  own_BN = jnp.take_along_axis(segment_BT, last_BN, axis=1)
  distance_BNT = last_BN[..., None] - jnp.arange(segment_BT.shape[1])
  own_BNT = segment_BT[:, None] == own_BN[..., None]
  return own_BNT & (distance_BNT >= 0), distance_BNT


class Generator(nn.Module):
  """Backbone, thought and heads.

  Attributes:
    config: shape and mode.
    num_levels: L of the fine row (a collision level counts as one).
    num_codes: V.
    num_aligned: coarse rows with a training-only alignment head.
  """

  config: GeneratorConfig
  num_levels: int
  num_codes: int
  num_aligned: int = 0

  def setup(self):
    c = self.config
    table = (self.num_levels, self.num_codes, c.d_model)
    self.code_embedding_LVD = self.param(
      "code_embedding", nn.initializers.normal(stddev=1.0), table
    )
    self.bos_D = self.param(
      "bos", nn.initializers.normal(stddev=1.0), (c.d_model,)
    )
    self.decoder, self.encoder = BACKBONES[c.backbone].build(c)
    if c.cross_bias:
      self.cross_bias = RelativeBias(
        c.num_heads, bidirectional=False, init_scale=c.d_model**-0.5
      )
    if c.repeat_bias:
      self.repeat_bias = RepeatBias(self.num_levels, self.num_codes)
    if not c.tied_heads:
      self.fine_head_LDV = self.param(
        "fine_head",
        scaled_normal(c.d_model),
        (self.num_levels, c.d_model, self.num_codes),
      )
    if self.num_aligned:
      self.align_head_RLDV = self.param(
        "align_head",
        scaled_normal(c.d_model),
        (self.num_aligned, self.num_levels, c.d_model, self.num_codes),
      )
    thought = THOUGHTS[c.thought]
    self.thought = (
      thought(c, self.num_levels, self.num_codes) if thought else None
    )

  @property
  def first_steps(self) -> int:
    """Decoder steps, hence cache slots, that level 0 takes."""
    return 1 + len(self._thoughts_at(0, first=True))

  @property
  def steps_per_level(self) -> int:
    """Decoder steps, hence cache slots, that every later level takes."""
    return 1 + len(self._thoughts_at(1, first=False))

  def _thoughts_at(self, level, first: bool) -> tuple:
    """The levels whose thoughts come before the code of `level`."""
    if THOUGHTS[self.config.thought] is None:
      return ()
    if self.config.think == "stepwise":
      return (level,)
    return tuple(range(self.num_levels)) if first else ()

  def open_branches(
    self,
    item_BT: jax.Array,
    codes: Codes,
    segment_BT: jax.Array,
    last_BN: jax.Array,
    deterministic: bool = True,
    unrolled: bool = False,
  ) -> Context:
    """Encodes the histories and projects the context once per user.

    Args:
      item_BT: history items (any where empty).
      codes: of the catalogue.
      segment_BT: packed histories, as in `Batch`.
      last_BN: last visible slot of each branch; N = 1 for search.
      deterministic: no dropout.
      unrolled: the branches will be unrolled, and nothing else reads the
        context's layers: they are kept in the form that is cheapest then.
    """
    encoded = self.encode(item_BT, codes, segment_BT, deterministic)
    return self.attach(encoded, item_BT, codes, segment_BT, last_BN, unrolled)

  def encode(
    self,
    item_BT: jax.Array,
    codes: Codes,
    segment_BT: jax.Array,
    deterministic: bool = True,
  ) -> Any:
    """The histories, as the backbone keeps them (`states` has their states).

    Arguments are those of open_branches.
    """
    codes_BTL = codes.fine_IL[item_BT]
    level_L = jnp.arange(self.num_levels)
    embedded_BTLD = self.code_embedding_LVD[level_L, codes_BTL]
    return self.encoder(embedded_BTLD, segment_BT, deterministic)

  def states(self, encoded: Any) -> jax.Array:
    """The states (B, C, D) of encoded histories."""
    return BACKBONES[self.config.backbone].states(encoded)

  def attach(
    self,
    encoded: Any,
    item_BT: jax.Array,
    codes: Codes,
    segment_BT: jax.Array,
    last_BN: jax.Array,
    unrolled: bool = False,
  ) -> Context:
    """Opens branches on encoded histories; arguments of open_branches."""
    queries = None
    if unrolled:
      later = (self.num_levels - 1) * self.steps_per_level
      queries = last_BN.shape[1] * (self.first_steps + later)
    states_BCD = self.states(encoded)
    tokens = states_BCD.shape[1] // segment_BT.shape[1]
    visible_BNT, distance_BNT = sight(segment_BT, last_BN)
    bias_BHNT = attention.mask_to_bias(visible_BNT)[:, None]
    if self.config.cross_bias:
      bias_BHNT += jnp.moveaxis(self.cross_bias(distance_BNT), 0, 1)
    repeats = None
    if self.config.repeat_bias:
      # A branch without a history is in segment 0, that of the empty slots.
      repeats = self.repeat_bias.open(
        codes.fine_IL[item_BT],
        codes.share_IL[item_BT],
        visible_BNT & (segment_BT[:, None] > 0),
        distance_BNT,
      )
    return Context(
      layers=self.decoder.project_context(encoded, queries),
      bias_BHNC=jnp.repeat(bias_BHNT, tokens, axis=-1),
      start_BND=self._first_input(states_BCD, last_BN * tokens + tokens - 1),
      repeats=repeats,
    )

  def _first_input(self, states_BCD, final_token_BN) -> jax.Array:
    """What opens a branch: BOS, with start="last" on the last item's state."""
    bos_BND = jnp.broadcast_to(
      self.bos_D, (*final_token_BN.shape, self.config.d_model)
    )
    if self.config.start == "bos":
      return bos_BND
    return bos_BND + jnp.take_along_axis(
      sharding.whole_tokens(states_BCD, 1), final_token_BN[..., None], axis=1
    )

  def start(self, context: Context) -> DecodeState:
    """Nothing fed yet."""
    c = self.config
    return DecodeState(
      caches=((),) * (1 if c.scan_layers else c.decoder_layers),
      positions=(),
      step=0,
      match_BNT=None
      if context.repeats is None
      else context.repeats.visible_BNT,
    )

  def level(
    self,
    state: DecodeState,
    context: Context,
    level,
    code_BN: jax.Array | None,
    deterministic: bool = True,
    align: bool = False,
  ) -> tuple[DecodeState, LevelOutput]:
    """Decodes one level: feeds the previous code, thinks, predicts.

    Args:
      state: caches of all branches.
      context: the users' shared context.
      level: 0 .. L-1; a Python int or a traced scalar.
      code_BN: code chosen at the level before; None at level 0.
      deterministic: no dropout.
      align: also compute the alignment heads.

    Returns:
      The new state and the level's logits.
    """
    if code_BN is None:
      x_BND = context.start_BND
    else:
      x_BND = self.code_embedding_LVD[level - 1][code_BN]
      if context.repeats is not None:
        match_BNT = context.repeats.follow(state.match_BNT, level - 1, code_BN)
        state = dataclasses.replace(state, match_BNT=match_BNT)
    state_BND, state = self.decoder.step(x_BND, state, context, deterministic)
    thoughts: list[tuple] = []
    for own in self._thoughts_at(level, first=code_BN is None):
      assert self.thought is not None  # as there are thoughts
      thought_BND, coarse_BNV = self.thought.think(
        state_BND, own, self.code_embedding_LVD[own]
      )
      fed_BND = self.thought.feed(state_BND, thought_BND)
      state_BND, state = self.decoder.step(
        fed_BND, state, context, deterministic
      )
      state_BND = self.thought.inject(state_BND, thought_BND)
      thoughts.append((coarse_BNV, thought_BND))
    (coarse_BNV, thought_BND), *ahead = thoughts or [(None, None)]
    output = self._predict(state_BND, state.match_BNT, context, level, align)
    return state, output._replace(
      coarse_BNV=coarse_BNV, thought_BND=thought_BND, ahead=tuple(ahead)
    )

  def _predict(self, state_BND, match_BNT, context, level, align):
    """The logits of a level from the state that its last step left."""
    align_RBNV = None
    if align and self.num_aligned:
      align_RBNV = self._align_logits(state_BND, level)
    fine_BNV = self._fine_logits(state_BND, level)
    if context.repeats is not None:
      fine_BNV += self.repeat_bias(context.repeats, match_BNT, level)
    return LevelOutput(fine_BNV, align_RBNV=align_RBNV)

  def _align_logits(self, state_BND, level) -> jax.Array:
    logits = [
      matmul(state_BND, head_LDV[level]) for head_LDV in self.align_head_RLDV
    ]
    return jnp.stack(logits).astype(jnp.float32)

  def _fine_logits(self, state_BND, level) -> jax.Array:
    if self.config.tied_heads:
      head_DV = self.code_embedding_LVD[level].T * self.config.d_model**-0.5
    else:
      head_DV = self.fine_head_LDV[level]
    return matmul(state_BND, head_DV).astype(jnp.float32)

  def __call__(
    self, batch: Batch, codes: Codes, deterministic: bool = True
  ) -> list[LevelOutput]:
    """Unrolls all levels of every branch with the target's codes fed.

    Args:
      batch: histories and branches.
      codes: of the catalogue.
      deterministic: no dropout.

    Returns:
      One LevelOutput per level.
    """
    history = (batch.item_BT, codes, batch.segment_BT)
    context = self.open_branches(
      *history, batch.last_BN, deterministic, unrolled=True
    )
    return self.unroll(context, codes.fine_IL[batch.target_BN], deterministic)

  def unroll(
    self, context: Context, target_BNL: jax.Array, deterministic: bool = True
  ) -> list[LevelOutput]:
    """`__call__` on branches that are open, with the codes to feed."""
    # One pass lays steps one behind the other, across the devices of a row.
    if self.thought is None and not sharding.tokens_are_split():
      return self._unroll_at_once(context, target_BNL, deterministic)
    state = self.start(context)
    outputs = []
    for level in range(self.num_levels):
      previous = None if level == 0 else target_BNL[..., level - 1]
      state, output = self.level(
        state, context, level, previous, deterministic, align=True
      )
      outputs.append(output)
    for level, (coarse_BNV, thought_BND) in enumerate(outputs[0].ahead, 1):
      outputs[level] = outputs[level]._replace(
        coarse_BNV=coarse_BNV, thought_BND=thought_BND
      )
    return outputs

  def _unroll_at_once(self, context, target_BNL, deterministic):
    """Without thoughts all that is fed is known: one pass for all levels."""
    levels, start = range(self.num_levels), self.start(context)
    xs_BND = [context.start_BND] + [
      self.code_embedding_LVD[level][target_BNL[..., level]]
      for level in levels[:-1]
    ]
    states_BXD, _ = self.decoder.steps(xs_BND, start, context, deterministic)
    outputs, match_BNT = [], start.match_BNT
    for level, state_BND in zip(
      levels, jnp.split(states_BXD, self.num_levels, axis=1)
    ):
      if level and context.repeats is not None:
        fed_BN = target_BNL[..., level - 1]
        match_BNT = context.repeats.follow(match_BNT, level - 1, fed_BN)
      outputs.append(self._predict(state_BND, match_BNT, context, level, True))
    return outputs
