"""The work of a search, counted by hand: its matrix products, what it reads.

XLA counts the body of a scan once, however often it runs, so the counts of a
compiled search would flatter it. Only matrix products are counted: the share of
a plain product's speed is then that of the arithmetic limit of the work.
"""

import dataclasses

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.precision import Dtype

ITEM_SIZE: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Shape:
  """What a search's work depends on beside the network.

  Attributes:
    history: items T of a history.
    levels: L.
    codes: V.
    beam: M.
    users: B, who share the reading of the weights.
    dtype: of weights and context.
  """

  history: int
  levels: int
  codes: int
  beam: int
  users: int
  dtype: Dtype = "float32"


def _context_tokens(config: GeneratorConfig, shape: Shape) -> int:
  per_item = shape.levels if config.history == "codes" else 1
  return shape.history * per_item


def _layer_weights(config: GeneratorConfig, attentions: int) -> int:
  """Entries of a layer's matrices: queries, keys, values, outputs; MLP."""
  inner = config.num_heads * config.head_dim
  attention = 4 * config.d_model * inner * attentions
  return attention + (3 if config.gated_mlp else 2) * config.d_model * (
    config.d_ff
  )


def _steps(config: GeneratorConfig, shape: Shape) -> tuple[int, int]:
  """Decoder steps of a search, and beam steps of one user."""
  beams = 1 + (shape.levels - 1) * shape.beam
  if config.thought == "none":
    return shape.levels, beams
  if config.think == "upfront":
    # Thoughts come before there are beams.
    return 2 * shape.levels, beams + shape.levels
  return 2 * shape.levels, 2 * beams


def flops_per_user(config: GeneratorConfig, shape: Shape) -> float:
  """Of all matrix products; two for each multiplication and addition."""
  inner = config.num_heads * config.head_dim
  context = _context_tokens(config, shape)
  encoder = (
    context
    * config.encoder_layers
    * (_layer_weights(config, 1) + 2 * context * inner)
  )
  if config.history == "pooled":
    encoder += shape.history * shape.levels * config.d_model**2
  keys_values = context * config.decoder_layers * 2 * config.d_model * inner
  # Cross-attention's keys and values are those of the context.
  step = config.decoder_layers * (
    _layer_weights(config, 2) - 2 * config.d_model * inner + 2 * context * inner
  )
  heads = config.d_model * shape.codes
  if config.thought == "holorec":
    heads += 2 * config.d_model * shape.codes + 3 * config.d_model**2
  beams = 1 + (shape.levels - 1) * shape.beam
  _, beam_steps = _steps(config, shape)
  return 2.0 * (encoder + keys_values + beam_steps * step + beams * heads)


def bytes_per_user(config: GeneratorConfig, shape: Shape) -> float:
  """Weights (shared by the batch) and context that every step has to read."""
  inner = config.num_heads * config.head_dim
  context = _context_tokens(config, shape)
  steps, _ = _steps(config, shape)
  weights = config.encoder_layers * _layer_weights(config, 1)
  weights += steps * config.decoder_layers * _layer_weights(config, 2)
  keys_values = 2 * context * inner * config.decoder_layers
  return ITEM_SIZE[shape.dtype] * (weights / shape.users + steps * keys_values)
