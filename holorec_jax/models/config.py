"""The generator's configuration."""

import dataclasses
from typing import Literal

from holorec_jax.ranges import check_ranges

History = Literal["pooled", "codes"]
Start = Literal["bos", "last"]
Thought = Literal["none", "holorec", "s2gr", "pause"]
Think = Literal["stepwise", "upfront"]


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
  """Shape and mode of the generator.

  Attributes:
    d_model: width D.
    num_heads: attention heads H.
    head_dim: width K of a head.
    d_ff: feed-forward width F.
    gated_mlp: gated GELU (T5 1.1) instead of ReLU.
    encoder_layers: depth of the history encoder.
    decoder_layers: depth of the stepwise decoder.
    dropout: rate everywhere T5 has dropout, except on attention weights.
    history: "pooled" = one vector per history item, "codes" = L tokens.
    causal_history: causal encoder (needed by all-position training).
    start: what opens a branch: "bos" (T5) or "last" (BOS plus the state of
      the last visible item).
    cross_bias: relative position bias in cross-attention, in items.
    softmax: what a level's probabilities are shared among: "level", all its
      codes, or "tree", the codes that continue the prefix to an item. With
      "tree" the items' probabilities sum to one and rare items need not win
      against codes that no item has.
    tied_heads: fine heads share the code embeddings.
    repeat_bias: a learned bias on codes that lead back to items of the history
      (`models/repeats.py`).
    thought: "none", "holorec", "s2gr" or "pause" (`models/thoughts.py`).
    think: when thoughts come: "stepwise", each before its code, or "upfront",
      all of them before the first code.
    thought_temperature: tau of the thought's softmax.
    thought_gate: HoloRec's gated way back of a thought; without it the state
      at the think step is read as it is.
    thought_carry: a soft code is fed together with the state that thought it,
      which a shallow decoder would have to read back; the paper feeds the code
      alone.
  """

  d_model: int = 128
  num_heads: int = 6
  head_dim: int = 64
  d_ff: int = 1024
  gated_mlp: bool = False
  encoder_layers: int = 4
  decoder_layers: int = 4
  dropout: float = 0.1
  history: History = "codes"
  causal_history: bool = True
  start: Start = "bos"
  cross_bias: bool = False
  softmax: Literal["level", "tree"] = "level"
  tied_heads: bool = False
  repeat_bias: bool = False
  thought: Thought = "holorec"
  think: Think = "stepwise"
  thought_temperature: float = 1.0
  thought_gate: bool = True
  thought_carry: bool = False

  def __post_init__(self):
    check_ranges(
      self,
      "config.model",
      d_model="[1, inf)",
      num_heads="[1, inf)",
      head_dim="[1, inf)",
      d_ff="[1, inf)",
      encoder_layers="[0, inf)",
      decoder_layers="[1, inf)",
      dropout="[0, 0.99]",
      thought_temperature="(0, inf)",
    )
