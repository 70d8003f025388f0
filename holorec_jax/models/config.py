"""The generator's configuration."""

import dataclasses
from typing import Any, Literal

from holorec_jax.errors import UserError
from holorec_jax.ranges import check_ranges

History = Literal["pooled", "codes"]
Start = Literal["bos", "last"]
Thought = Literal["none", "holorec", "s2gr", "pause"]
Think = Literal["stepwise", "upfront"]
Backbone = Literal["t5", "qwen3"]
Remat = Literal["none", "products", "layers"]

# Leaves that a backbone leaves no choice of, and the value that they have.
_FIXED: dict[Backbone, dict[str, Any]] = {
  "t5": {"num_kv_heads": 0, "rope_theta": 1e6, "fused_attention": False},
  "qwen3": {
    "encoder_layers": 0,
    "gated_mlp": True,
    "causal_history": True,
    "cross_bias": False,
  },
}


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
  """Shape and mode of the generator.

  Attributes:
    d_model: width D.
    num_heads: attention heads H.
    head_dim: width K of a head.
    d_ff: feed-forward width F.
    gated_mlp: gated GELU (T5 1.1) instead of ReLU; qwen3 has gated SiLU.
    encoder_layers: depth of the history encoder; 0 with qwen3.
    decoder_layers: depth of the stepwise decoder, or of qwen3's one stack.
    dropout: rate everywhere T5 has dropout, except on attention weights; with
      qwen3 on what attention and MLP add and on the MLP's hidden units.
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
    scan_layers: the layers are one scanned layer with stacked parameters:
      compile time does not grow with depth.
    remat: what the backward pass computes again: "none" of a layer, all but
      the "products" of tokens with its matrices, or everything but the
      "layers"' inputs.
      Each takes less memory than the one before and more time.
    backbone: "t5" (encoder and decoder) or "qwen3" (one causal stack for
      histories and branches, `models/qwen3.py`).
    num_kv_heads: heads of keys and values in qwen3; 0: num_heads.
    rope_theta: base of qwen3's rotary frequencies.
    fused_attention: in training qwen3 reads histories with a kernel of the GPU
      or TPU that writes no scores to memory (`nn/fused_attention.py`). Branches
      have none, nor has search.
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
  scan_layers: bool = False
  remat: Remat = "none"
  backbone: Backbone = "t5"
  num_kv_heads: int = 0
  rope_theta: float = 1e6
  fused_attention: bool = False

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
      num_kv_heads="[0, inf)",
      rope_theta="(0, inf)",
    )
    for leaf, value in _FIXED[self.backbone].items():
      if getattr(self, leaf) != value:
        raise UserError(
          f"config.model.{leaf} is {getattr(self, leaf)!r}, where"
          f" config.model.backbone={self.backbone!r} leaves no choice:"
          f" set it to {value!r}."
        )
    if self.num_kv_heads and self.num_heads % self.num_kv_heads:
      raise UserError(
        f"config.model.num_kv_heads is {self.num_kv_heads}, which does not"
        f" divide config.model.num_heads = {self.num_heads}: choose a divisor,"
        " or 0 for as many."
      )
    if self.fused_attention and self.head_dim > 128:
      raise UserError(
        f"config.model.head_dim is {self.head_dim}; the kernels of"
        " config.model.fused_attention have memory for 128: set it to False, or"
        " take narrower heads."
      )
    if self.backbone == "qwen3" and self.head_dim % 2:
      raise UserError(
        f"config.model.head_dim is {self.head_dim}; rotary embeddings turn"
        " pairs: choose an even number."
      )
