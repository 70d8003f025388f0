"""The networks that a generator can stand on, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.decoder import StepDecoder
from holorec_jax.models.history import HistoryEncoder
from holorec_jax.models.qwen3 import Encoded, Qwen3


class Backbone(NamedTuple):
  """How histories are read and branches decoded.

  Attributes:
    build: config -> (decoder, encoder); they may be one and the same module.
      encoder(code_embeddings_BTLD, segment_BT, deterministic) encodes
      histories, decoder.project_context makes of that what all branches share,
      decoder.step feeds one vector to every branch, and decoder.steps several
      that are known ahead (see `StepDecoder`).
    states: what the encoder returns -> the tokens' states (B, C, D).
  """

  build: Callable[[GeneratorConfig], tuple[Any, Any]]
  states: Callable[[Any], jax.Array]


def _build_t5(config: GeneratorConfig) -> tuple[StepDecoder, HistoryEncoder]:
  return StepDecoder(config), HistoryEncoder(config)


def _build_qwen3(config: GeneratorConfig) -> tuple[Qwen3, Qwen3]:
  stack = Qwen3(config)
  return stack, stack


def _states_of_qwen3(encoded: Encoded) -> jax.Array:
  return encoded.states_BCD


BACKBONES = {
  "t5": Backbone(_build_t5, lambda states_BCD: states_BCD),
  "qwen3": Backbone(_build_qwen3, _states_of_qwen3),
}
