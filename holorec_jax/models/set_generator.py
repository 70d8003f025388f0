"""REG4Rec's generator: histories in, an unordered set of codes out.

Source: REG4Rec (arXiv 2508.15308); notation of the design's methods 3.2. An
item is one code of each of M codebooks, chosen in an order that the model
picks for each user. Each codebook embeds its codes by a table of its own, and
nothing is added for the codebook itself: being the same for all items, it would
drown what tells them apart (docs/results.md has what it cost). The decoder is
fed BOS and then the codes chosen so far; from its state h every codebook has
logits of its own, with heads

  linear  z_rv . h, as our other generators have them
  cosine  cos(tower_r(h), z_rv) / temperature, as the paper has them

plus, with repeat_bias, a bias on codes that lead back to the history
(`repeats`), with numbers of its own for each codebook after 0, 1, .. codes.
With softmax="tree" the probabilities of a codebook are shared among the codes
that continue the chosen ones to an item of the catalogue, else among all.

CRSS (confidence-based reasoning step selection): every unused codebook
proposes its best code, and the codebook with the most probable proposal comes
next. In training it is fed the target's code, in search any code that leads to
an item. Given the model, the order follows from the codes chosen so far, so the
probabilities of all code sets, those of items with softmax="tree", sum to one,
however the orders differ.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.errors import UserError
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.decoder import Context, DecodeState, StepDecoder
from holorec_jax.models.generator import sight
from holorec_jax.models.history import HistoryEncoder
from holorec_jax.models.repeats import RepeatBias, Repeats
from holorec_jax.nn import attention
from holorec_jax.nn.layers import RelativeBias, matmul, scaled_normal
from holorec_jax.types import Batch

# "confident": CRSS; "fixed": codebook 0, 1, .. (the ablation).
Order = Literal["confident", "fixed"]
Heads = Literal["linear", "cosine"]

# valid(codes so far, unused_BNM) -> (B, N, M, V) bool, or ones for B and N:
# the codes that continue a branch's chosen ones to an item.
ValidFn = Callable[[int, jax.Array], jax.Array]
# Logit of a code that leads to no item.
_INVALID = -1e9


class SetStep(NamedTuple):
  """What one step of a branch yields.

  Attributes:
    logits_BNMV: float32, of all codebooks; those of invalid codes are so low
      that they have no probability.
    unused_BNM: bool, codebooks without a code before the step.
    codebook_BN: int32, the one that gets its code at this step.
    valid_BNMV: bool, the codes that probability is shared among; None: all.
  """

  logits_BNMV: jax.Array
  unused_BNM: jax.Array
  codebook_BN: jax.Array
  valid_BNMV: jax.Array | None = None


def restrict(logits_BNMV: jax.Array, valid_BNMV: jax.Array) -> jax.Array:
  """Logits of which a softmax shares among the valid codes alone."""
  return jnp.where(valid_BNMV, logits_BNMV, _INVALID)


def confidence(logits_BNMV: jax.Array) -> jax.Array:
  """Log-probability of every codebook's best code, (B, N, M)."""
  log_norm_BNM = jax.nn.logsumexp(logits_BNMV, axis=-1)
  return jnp.max(logits_BNMV, axis=-1) - log_norm_BNM


def next_codebook(
  logits_BNMV: jax.Array, unused_BNM: jax.Array, order: Order
) -> jax.Array:
  """The unused codebook whose turn it is, (B, N); the lowest of equals."""
  if order == "fixed":
    return jnp.argmax(unused_BNM, axis=-1)
  urgency_BNM = confidence(logits_BNMV)
  return jnp.argmax(jnp.where(unused_BNM, urgency_BNM, -jnp.inf), axis=-1)


class SetGenerator(nn.Module):
  """Encoder, stepwise decoder and a head per codebook.

  Attributes:
    config: shape; thought="none".
    num_codebooks: M.
    num_codes: V.
    heads: how a state becomes logits.
    temperature: of the cosines.
  """

  config: GeneratorConfig
  num_codebooks: int
  num_codes: int
  heads: Heads = "cosine"
  temperature: float = 0.1

  def __post_init__(self):
    if self.config.backbone != "t5":
      raise UserError(
        f"config.model.backbone is {self.config.backbone!r}; code sets are"
        " generated on 't5' alone."
      )
    if self.config.thought != "none":
      raise UserError(
        f"config.model.thought is {self.config.thought!r}; the generator of"
        " code sets has no such thing: set it to 'none'."
      )
    super().__post_init__()

  def setup(self):
    c = self.config
    M, V, D = self.num_codebooks, self.num_codes, c.d_model
    normal = nn.initializers.normal(stddev=1.0)
    self.code_embedding_MVD = self.param("code_embedding", normal, (M, V, D))
    self.bos_D = self.param("bos", normal, (D,))
    self.encoder = HistoryEncoder(c)
    self.decoder = StepDecoder(c)
    if c.cross_bias:
      self.cross_bias = RelativeBias(
        c.num_heads, bidirectional=False, init_scale=D**-0.5
      )
    if c.repeat_bias:
      # Of how many codes were chosen before, and of which codebook's turn.
      self.repeat_bias = RepeatBias(M * M, V)
    if self.heads == "cosine":
      # The towers' first layers side by side: one product of two matrices.
      self.tower_in_DF = self.param("tower_in", scaled_normal(D), (D, M * D))
      self.tower_out_MDD = self.param("tower_out", scaled_normal(D), (M, D, D))
    if not c.tied_heads:
      self.code_MVD = self.param("code", scaled_normal(D), (M, V, D))

  @property
  def num_levels(self) -> int:
    """M, by the name that it has in a catalogue: codes of an item."""
    return self.num_codebooks

  def embed(self, codebook: jax.Array, code: jax.Array) -> jax.Array:
    """Codes (..) of codebooks (..) -> (.., D)."""
    return self.code_embedding_MVD[codebook, code]

  def open_branches(
    self,
    item_BT: jax.Array,
    codes: Codes,
    segment_BT: jax.Array,
    last_BN: jax.Array,
    deterministic: bool = True,
    unrolled: bool = False,
  ) -> Context:
    """Encodes histories once per user; arguments as `Generator`'s."""
    queries = last_BN.shape[1] * self.num_codebooks if unrolled else None
    embedded_BTMD = self.embed(
      jnp.arange(self.num_codebooks), codes.fine_IL[item_BT]
    )
    states_BCD = self.encoder(embedded_BTMD, segment_BT, deterministic)
    tokens = states_BCD.shape[1] // segment_BT.shape[1]
    visible_BNT, distance_BNT = sight(segment_BT, last_BN)
    bias_BHNT = attention.mask_to_bias(visible_BNT)[:, None]
    if self.config.cross_bias:
      bias_BHNT += jnp.moveaxis(self.cross_bias(distance_BNT), 0, 1)
    repeats = None
    if self.config.repeat_bias:
      if codes.share_IX is None:
        raise ValueError("a repeat bias on code sets needs codes with share_IX")
      # A branch without a history is in segment 0, that of the empty slots.
      repeats = self.repeat_bias.open(
        codes.fine_IL[item_BT],
        codes.share_IX[item_BT],
        visible_BNT & (segment_BT[:, None] > 0),
        distance_BNT,
      )
    start_BND = jnp.broadcast_to(
      self.bos_D, (*last_BN.shape, self.config.d_model)
    )
    if self.config.start == "last":
      final_BN1 = (last_BN * tokens + tokens - 1)[..., None]
      start_BND += jnp.take_along_axis(
        sharding.whole_tokens(states_BCD, 1), final_BN1, axis=1
      )
    return Context(
      layers=self.decoder.project_context(states_BCD, queries),
      bias_BHNC=jnp.repeat(bias_BHNT, tokens, axis=-1),
      start_BND=start_BND,
      repeats=repeats,
    )

  def start(self) -> DecodeState:
    """Nothing fed yet."""
    empty = ((),) * self.config.decoder_layers
    return DecodeState(caches=empty, positions=(), step=0)

  def step(
    self,
    state: DecodeState,
    context: Context,
    codebook_BN: jax.Array | None,
    code_BN: jax.Array | None,
    deterministic: bool = True,
  ) -> tuple[DecodeState, jax.Array]:
    """Feeds the code chosen last; None and None at first.

    Returns:
      The new state and float32 logits (B, N, M, V) of all codebooks.
    """
    size = state.step
    if codebook_BN is None or code_BN is None:
      x_BND = context.start_BND
    else:
      x_BND = self.embed(codebook_BN, code_BN)
    if context.repeats is not None:
      state = self._follow(state, context.repeats, codebook_BN, code_BN)
    h_BND, state = self.decoder.step(x_BND, state, context, deterministic)
    logits_BNMV = self._logits(h_BND)
    if context.repeats is not None:
      logits_BNMV += self._repeat_bias(context.repeats, state, size)
    return state, logits_BNMV

  def _follow(
    self, state: DecodeState, repeats: Repeats, codebook_BN, code_BN
  ) -> DecodeState:
    """The state with what the code chosen last leaves of the history."""
    match_BNT, chosen_BN = state.match_BNT, state.chosen_BN
    if match_BNT is None or chosen_BN is None:
      match_BNT = repeats.visible_BNT
      chosen_BN = jnp.zeros(match_BNT.shape[:2], jnp.int32)
    else:
      # Row by row, so that devices which share the rows gather nothing.
      codes_BLT = jnp.swapaxes(repeats.codes_LBT, 0, 1)
      codes_BNT = jnp.take_along_axis(codes_BLT, codebook_BN[..., None], axis=1)
      match_BNT &= codes_BNT == code_BN[..., None]
      chosen_BN |= 1 << codebook_BN
    return dataclasses.replace(state, match_BNT=match_BNT, chosen_BN=chosen_BN)

  def _repeat_bias(self, repeats: Repeats, state: DecodeState, size):
    """Of all codebooks' codes, (B, N, M, V), after `size` codes."""
    biases = [
      self.repeat_bias.of_codebook(
        repeats, state.match_BNT, state.chosen_BN, size, codebook
      )
      for codebook in range(self.num_codebooks)
    ]
    return jnp.stack(biases, axis=-2)

  def _logits(self, h_BND: jax.Array) -> jax.Array:
    M, V = self.num_codebooks, self.num_codes
    tied = self.config.tied_heads
    code_MVD = self.code_embedding_MVD if tied else self.code_MVD
    if self.heads == "cosine":
      return self._cosines(h_BND, code_MVD) / self.temperature
    code_XD = code_MVD.reshape(M * V, -1)
    if tied:
      code_XD *= self.config.d_model**-0.5
    logits_BNX = matmul(h_BND, code_XD.T).astype(jnp.float32)
    return logits_BNX.reshape(*h_BND.shape[:-1], M, V)

  def _cosines(self, h_BND: jax.Array, code_MVD: jax.Array) -> jax.Array:
    """Of every codebook's tower and codes, (B, N, M, V) float32."""
    D = self.config.d_model
    hidden_BNF = nn.relu(matmul(h_BND, self.tower_in_DF))
    cosines = []
    for codebook, (out_DD, code_VD) in enumerate(
      zip(self.tower_out_MDD, code_MVD)
    ):
      own_BND = hidden_BNF[..., codebook * D : (codebook + 1) * D]
      cosine_BNV = matmul(_unit(matmul(own_BND, out_DD)), _unit(code_VD).T)
      cosines.append(cosine_BNV.astype(jnp.float32))
    return jnp.stack(cosines, axis=-2)

  def __call__(
    self,
    batch: Batch,
    codes: Codes,
    deterministic: bool = True,
    order: Order = "confident",
    random_order: float = 0.0,
    valid: ValidFn | None = None,
  ) -> list[SetStep]:
    """Unrolls all steps of every branch with the target's codes fed.

    Args:
      batch: histories and branches.
      codes: of the catalogue.
      deterministic: no dropout.
      order: of the codebooks; no gradient goes through its choice.
      random_order: share of branches with an order drawn at random instead;
        more than 0 needs rngs={"order": key}.
      valid: what continues the targets' codes, with softmax="tree".

    Returns:
      One SetStep per codebook.
    """
    history = (batch.item_BT, codes, batch.segment_BT)
    context = self.open_branches(
      *history, batch.last_BN, deterministic, unrolled=True
    )
    target_BNM = codes.fine_IL[batch.target_BN]
    draw_BNM = None
    if random_order > 0:
      draw_BNM = self._draw_orders(target_BNM.shape, random_order)
    unused_BNM = jnp.ones(target_BNM.shape, bool)
    codebook_BN = code_BN = None
    state, steps = self.start(), []
    for size in range(self.num_codebooks):
      state, logits_BNMV = self.step(
        state, context, codebook_BN, code_BN, deterministic
      )
      valid_BNMV = None
      if valid is not None:
        valid_BNMV = valid(size, unused_BNM)
        logits_BNMV = restrict(logits_BNMV, valid_BNMV)
      codebook_BN = next_codebook(logits_BNMV, unused_BNM, order)
      if draw_BNM is not None:
        drawn_BN = jnp.argmax(jnp.where(unused_BNM, draw_BNM, -1.0), axis=-1)
        codebook_BN = jnp.where(draw_BNM[..., 0] < 0, codebook_BN, drawn_BN)
      steps.append(SetStep(logits_BNMV, unused_BNM, codebook_BN, valid_BNMV))
      code_BN = jnp.take_along_axis(
        target_BNM, codebook_BN[..., None], axis=-1
      )[..., 0]
      unused_BNM &= jnp.arange(self.num_codebooks) != codebook_BN[..., None]
    return steps

  def _draw_orders(self, shape, share: float) -> jax.Array:
    """(B, N, M) priorities in [0, 1) for a share of branches, others -1."""
    which, draw = jax.random.split(self.make_rng("order"))
    random_BN1 = jax.random.bernoulli(which, share, (*shape[:-1], 1))
    return jnp.where(random_BN1, jax.random.uniform(draw, shape), -1.0)


def _unit(x: jax.Array) -> jax.Array:
  """Rows of length one; the length is taken in float32."""
  square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(square + 1e-12).astype(x.dtype)
