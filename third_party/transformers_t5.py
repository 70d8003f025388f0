"""A generator's weights in transformers' T5 (package licence: Apache-2.0).

T5 is the published backbone (methods 1.2), so the same weights must yield the
same states. `t5_form` says which generators it can express.
"""

import jax
import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration, T5Model

from holorec_jax.models.config import GeneratorConfig
from holorec_jax.nn.layers import RELATIVE_BUCKETS, RELATIVE_MAX_DISTANCE
from third_party.t5_form import (
  check_expressible,
  token_embedding,
  token_heads,
)

# Ours -> theirs; a gated feed-forward calls its halves wi_0 (gate) and wi_1.
ATTENTION = {"query": "q", "key": "k", "value": "v", "output": "o"}
MLP = {"wi": "wi", "wo": "wo"}
GATED_MLP = {"wi_gate": "wi_0", "wi": "wi_1", "wo": "wo"}
# Theirs: number of a sublayer in its block, and its name.
ENCODER = {"attention": "0.SelfAttention", "mlp": "1.DenseReluDense"}
DECODER = {
  "self_attention": "0.SelfAttention",
  "cross_attention": "1.EncDecAttention",
  "mlp": "2.DenseReluDense",
}
# The names under which T5 keeps its one token table.
TABLES = {
  "shared.weight",
  "encoder.embed_tokens.weight",
  "decoder.embed_tokens.weight",
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
  check_expressible(config)
  model = T5Model(_t5_config(config, vocabulary=2))
  # The token tables are all that T5 has beyond us: it is fed embeddings.
  _load(model, _stacks(params, config), unset=TABLES)
  return model.eval()


def copy_to_seq2seq(
  params: dict, config: GeneratorConfig
) -> T5ForConditionalGeneration:
  """T5 with token embeddings and a head: the whole generator.

  The vocabulary is that of `t5_form`, and BOS behind it, which opens the
  decoder and fills histories. No position ever predicts BOS: its logit is 0
  and counts only in a softmax over the whole vocabulary.

  Args:
    params: the generator's parameters.
    config: its configuration.

  Returns:
    A model in evaluation mode.

  Raises:
    ValueError: T5 cannot express the configuration.
  """
  check_expressible(config)
  heads_XD = token_heads(params, config)
  bos = len(heads_XD)
  table_YD = _tensor(
    np.concatenate([token_embedding(params), params["bos"][None]])
  )
  model = T5ForConditionalGeneration(
    _t5_config(
      config,
      vocabulary=bos + 1,
      decoder_start_token_id=bos,
      pad_token_id=bos,
      eos_token_id=None,
      # Theirs would scale states where ours scales tied heads.
      tie_word_embeddings=False,
    )
  )
  # transformers 5 shares head and table all the same.
  model.lm_head = torch.nn.Linear(config.d_model, bos + 1, bias=False)
  head_YD = _tensor(np.pad(heads_XD, ((0, 1), (0, 0))))
  tokens = dict.fromkeys(TABLES, table_YD) | {"lm_head.weight": head_YD}
  _load(model, _stacks(params, config) | tokens, unset=set())
  # One table for both stacks, as ours.
  model.set_input_embeddings(model.shared)
  return model.eval()


def _t5_config(config: GeneratorConfig, vocabulary: int, **more) -> T5Config:
  return T5Config(
    vocab_size=vocabulary,
    d_model=config.d_model,
    d_kv=config.head_dim,
    d_ff=config.d_ff,
    num_layers=config.encoder_layers,
    num_decoder_layers=config.decoder_layers,
    num_heads=config.num_heads,
    relative_attention_num_buckets=RELATIVE_BUCKETS,
    relative_attention_max_distance=RELATIVE_MAX_DISTANCE,
    dropout_rate=config.dropout,
    layer_norm_epsilon=1e-6,
    feed_forward_proj="gated-gelu" if config.gated_mlp else "relu",
    **more,
  )


def _load(model: torch.nn.Module, state: dict, unset: set[str]) -> None:
  missing, unexpected = model.load_state_dict(state, strict=False)
  if unexpected or set(missing) - unset:
    raise ValueError(f"T5 lacks {unexpected} or has beside them {missing}")


def _stacks(params: dict, config: GeneratorConfig) -> dict:
  """State dict of both stacks."""
  mlp = GATED_MLP if config.gated_mlp else MLP
  return _stack(params["encoder"], "encoder", ENCODER, mlp) | _stack(
    params["decoder"], "decoder", DECODER, mlp
  )


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


def _tensor(array: jax.Array | np.ndarray) -> torch.Tensor:
  return torch.from_numpy(np.array(array, np.float32))
