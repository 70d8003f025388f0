"""A decoder-only generator in transformers' Qwen3ForCausalLM.

A branch computes what a language model computes on [history, BOS, codes ..]
(`models/qwen3.py`), so the stack is Qwen3's own and the names are those that
`models/hf_qwen3.py` reads.
"""

from typing import Any

import numpy as np

from holorec_jax.models import hf_qwen3
from holorec_jax.models.config import GeneratorConfig

# Rotary positions know no end; engines reserve memory by this.
MAX_POSITIONS = 32_768


def make_config(config: GeneratorConfig, bos: int) -> dict[str, Any]:
  """config.json; BOS is the last token of the vocabulary."""
  rope = {"rope_type": "default", "rope_theta": config.rope_theta}
  return {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": bos + 1,
    "hidden_size": config.d_model,
    "intermediate_size": config.d_ff,
    "num_hidden_layers": config.decoder_layers,
    "num_attention_heads": config.num_heads,
    "num_key_value_heads": config.num_kv_heads or config.num_heads,
    "head_dim": config.head_dim,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "use_sliding_window": False,
    "max_position_embeddings": MAX_POSITIONS,
    # Two names of one thing: engines of before transformers 5 read the first.
    "rope_theta": config.rope_theta,
    "rope_parameters": rope,
    "bos_token_id": bos,
    "pad_token_id": bos,
    "eos_token_id": None,
    # The head is written on its own.
    "tie_word_embeddings": False,
    "dtype": "float32",
  }


def layer_weights(
  params: dict, config: GeneratorConfig
) -> dict[str, np.ndarray]:
  """Names -> arrays of the stack."""
  stack = params["decoder"]
  weights = {"model.norm.weight": stack["final_norm"]["scale"]}
  for number in range(config.decoder_layers):
    block = stack[f"blocks_{number}"]
    arrays = {
      # Ours maps rows of inputs to columns of outputs, theirs the reverse.
      theirs: block[part][name]["kernel"].T
      for (part, name), theirs in hf_qwen3.KERNELS.items()
    }
    for name, theirs in hf_qwen3.HEAD_NORMS.items():
      arrays[theirs] = block["attention"][name]["scale"]
    for name, theirs in hf_qwen3.NORMS.items():
      arrays[theirs] = block[name]["scale"]
    weights |= {
      f"model.layers.{number}.{theirs}.weight": array
      for theirs, array in arrays.items()
    }
  return weights
