"""A generator in transformers' T5ForConditionalGeneration.

T5 is the published backbone (methods 1.2).
"""

from typing import Any

import numpy as np

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.nn.layers import RELATIVE_BUCKETS, RELATIVE_MAX_DISTANCE

# Ours -> theirs; a gated feed-forward calls its halves wi_0 (gate) and wi_1.
ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
MLP = {"wi": "wi", "wo": "wo"}
GATED_MLP = {"wi_gate": "wi_0", "wi": "wi_1", "wo": "wo"}
# Theirs: number of a sublayer in its block, and its name.
SUBLAYERS = {
  "encoder": {"attention": "0.SelfAttention", "mlp": "1.DenseReluDense"},
  "decoder": {
    "self_attention": "0.SelfAttention",
    "cross_attention": "1.EncDecAttention",
    "mlp": "2.DenseReluDense",
  },
}


def make_config(config: GeneratorConfig, bos: int) -> dict[str, Any]:
  """config.json; BOS is the last token, opens the decoder, fills histories."""
  gated = config.gated_mlp
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": bos + 1,
    "d_model": config.d_model,
    "d_kv": config.head_dim,
    "d_ff": config.d_ff,
    "num_layers": config.encoder_layers,
    "num_decoder_layers": config.decoder_layers,
    "num_heads": config.num_heads,
    "relative_attention_num_buckets": RELATIVE_BUCKETS,
    "relative_attention_max_distance": RELATIVE_MAX_DISTANCE,
    "dropout_rate": config.dropout,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu" if gated else "relu",
    "decoder_start_token_id": bos,
    "pad_token_id": bos,
    "eos_token_id": None,
    # Theirs would scale states where ours scales tied heads; the head is
    # written on its own.
    "tie_word_embeddings": False,
  }


def layer_weights(
  params: dict, config: GeneratorConfig
) -> dict[str, np.ndarray]:
  """Names -> arrays of both stacks."""
  weights: dict[str, np.ndarray] = {}
  for stack in SUBLAYERS:
    weights |= _stack(params[stack], stack, config.gated_mlp)
  return weights


def _stack(params: dict, stack: str, gated: bool) -> dict[str, np.ndarray]:
  first = f"{stack}.block.0.layer.0.SelfAttention"
  table_HQ = params["relative_bias"]["table"]
  weights = {
    f"{first}.relative_attention_bias.weight": table_HQ.T,
    f"{stack}.final_layer_norm.weight": params["final_norm"]["scale"],
  }
  depth = sum(name.startswith("blocks_") for name in params)
  for number in range(depth):
    block = params[f"blocks_{number}"]
    layer = f"{stack}.block.{number}.layer"
    for ours, theirs in SUBLAYERS[stack].items():
      names = (GATED_MLP if gated else MLP) if ours == "mlp" else ATTENTION
      for kernel, weight in names.items():
        # Ours maps rows of inputs to columns of outputs, theirs the reverse.
        array = block[ours][kernel]["kernel"].T
        weights[f"{layer}.{theirs}.{weight}.weight"] = array
      norm = block[ours.removesuffix("_attention") + "_norm"]["scale"]
      weights[f"{layer}.{theirs[0]}.layer_norm.weight"] = norm
  return weights
