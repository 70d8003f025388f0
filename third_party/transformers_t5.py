"""A generator's weights in transformers' T5 (package licence: Apache-2.0).

T5 is the published backbone (methods 1.2), so the same weights must yield the
same states. It has no counterpart of pooled items, a causal history, a
cross-attention bias, a start from the last item, a repeat bias or thoughts;
generators with these are refused.
"""

import jax
import numpy as np
import torch
from transformers import T5Config, T5Model

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.nn.layers import RELATIVE_BUCKETS, RELATIVE_MAX_DISTANCE

# Ours -> theirs; a gated feed-forward calls its halves wi_0 (gate) and wi_1.
ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
MLP = {"wi": "wi", "wo": "wo"}
GATED_MLP = {"wi_gate": "wi_0", "wi": "wi_1", "wo": "wo"}
# The one value that T5 knows of each of these fields.
EXPRESSIBLE = {
  "history": "codes",
  "causal_history": False,
  "cross_bias": False,
  "start": "bos",
  "repeat_bias": False,
  "thought": "none",
}
# Theirs: number of a sublayer in its block, and its name.
ENCODER = {"attention": "0.SelfAttention", "mlp": "1.DenseReluDense"}
DECODER = {
  "self_attention": "0.SelfAttention",
  "cross_attention": "1.EncDecAttention",
  "mlp": "2.DenseReluDense",
}


def copy_to_t5(params: dict, config: GeneratorConfig) -> T5Model:
  """T5 with the weights of the generator's encoder and decoder.

  Args:
    params: the generator's parameters.
    config: its configuration.

  Returns:
    A model in evaluation mode, to be fed `inputs_embeds`.

  Raises:
    ValueError: T5 cannot express the configuration.
  """
  beyond = {
    name: getattr(config, name)
    for name, value in EXPRESSIBLE.items()
    if getattr(config, name) != value
  }
  if beyond:
    raise ValueError(f"T5 has no counterpart of {beyond}; needs {EXPRESSIBLE}")
  model = T5Model(
    T5Config(
      vocab_size=2,
      d_model=config.d_model,
      d_kv=config.head_dim,
      d_ff=config.d_ff,
      num_layers=config.encoder_layers,
      num_decoder_layers=config.decoder_layers,
      num_heads=config.num_heads,
      relative_attention_num_buckets=RELATIVE_BUCKETS,
      relative_attention_max_distance=RELATIVE_MAX_DISTANCE,
      layer_norm_epsilon=1e-6,
      feed_forward_proj="gated-gelu" if config.gated_mlp else "relu",
    )
  )
  mlp = GATED_MLP if config.gated_mlp else MLP
  state = _stack(params["encoder"], "encoder", ENCODER, mlp) | _stack(
    params["decoder"], "decoder", DECODER, mlp
  )
  missing, unexpected = model.load_state_dict(state, strict=False)
  # The token tables are all that T5 has beyond us: it is fed embeddings.
  unset = [name for name in missing if "embed_tokens" not in name]
  if unexpected or set(unset) - {"shared.weight"}:
    raise ValueError(f"T5 lacks {unexpected} or has beside them {unset}")
  return model.eval()


def _stack(params: dict, name: str, sublayers: dict, mlp: dict) -> dict:
  """State dict of one stack; `sublayers` maps ours to theirs, in order."""
  table_HQ = params["relative_bias"]["table"]
  bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
  state = {
    bias: _tensor(table_HQ.T),
    f"{name}.final_layer_norm.weight": _tensor(params["final_norm"]["scale"]),
  }
  depth = sum(key.startswith("blocks_") for key in params)
  for number in range(depth):
    block = params[f"blocks_{number}"]
    for ours, theirs in sublayers.items():
      layer = f"{name}.block.{number}.layer"
      names = mlp if ours == "mlp" else ATTENTION
      for kernel, weight in names.items():
        # Ours maps rows of inputs to columns of outputs, theirs the reverse.
        state[f"{layer}.{theirs}.{weight}.weight"] = _tensor(
          block[ours][kernel]["kernel"].T
        )
      norm = ours.removesuffix("_attention") + "_norm"
      state[f"{layer}.{theirs[0]}.layer_norm.weight"] = _tensor(
        block[norm]["scale"]
      )
  return state


def _tensor(array: jax.Array) -> torch.Tensor:
  return torch.from_numpy(np.array(array, np.float32))
