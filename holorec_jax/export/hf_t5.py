"""A generator as a Hugging Face folder of T5, written without torch.

T5 is the published backbone (methods 1.2). It has no counterpart of pooled
items, a causal history, a cross-attention bias, a start from the last item, a
repeat bias or thoughts; generators with these are refused. The levels' codes
become tokens of one vocabulary, token = level * V + code, and BOS comes behind
them: it opens the decoder and fills histories.

  config.json, model.safetensors   T5ForConditionalGeneration.from_pretrained
  generation_config.json           the run's search
  items.jsonl                      {"id", "title", "tokens"} of each item

A history is its items' tokens, oldest first. `generate` finds this run's items
when it is held to the tokens that continue a prefix to an item
(`prefix_allowed_tokens_fn`); with softmax="tree" its scores are this run's,
too. Items of equal tokens share a score, which is divided by popularity here.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from holorec_jax import artifacts
from holorec_jax.catalog import Catalog
from holorec_jax.errors import UserError
from holorec_jax.export import tensors
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.layer_stack import unstack_layers
from holorec_jax.nn.layers import RELATIVE_BUCKETS, RELATIVE_MAX_DISTANCE

# The one value that T5 knows of each of these fields.
EXPRESSIBLE: dict[str, Any] = {
  "backbone": "t5",
  "history": "codes",
  "causal_history": False,
  "cross_bias": False,
  "start": "bos",
  "repeat_bias": False,
  "thought": "none",
}
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


def write(
  folder: pathlib.Path,
  params: dict,
  config: GeneratorConfig,
  catalog: Catalog,
  item_ids: Sequence[str],
  titles: Sequence[str],
  beam: int,
) -> None:
  """Writes the files into an existing folder.

  Args:
    folder: gets them.
    params: the generator's parameters.
    config: its configuration.
    catalog: of its items.
    item_ids: external ids by item number.
    titles: by item number.
    beam: that items are searched with.

  Raises:
    UserError: T5 cannot express the generator; says which fields.
  """
  check(config)
  levels, codes = catalog.codes_IL.shape[1], catalog.num_codes
  bos = levels * codes
  weights = _weights(jax.device_get(unstack_layers(params)), config)
  metadata = {"format": "pt"}
  tensors.save(folder / "model.safetensors", weights, metadata)
  artifacts.write_json(folder / "config.json", _config(config, bos))
  artifacts.write_json(
    folder / "generation_config.json",
    {
      "decoder_start_token_id": bos,
      "pad_token_id": bos,
      "eos_token_id": None,
      "max_new_tokens": levels,
      "num_beams": beam,
      "length_penalty": 0.0,
      "do_sample": False,
      "renormalize_logits": config.softmax == "tree",
    },
  )
  tokens_IL = catalog.codes_IL + codes * np.arange(levels)
  lines = [
    json.dumps(
      {"id": str(id_), "title": str(title), "tokens": tokens},
      ensure_ascii=False,
    )
    for id_, title, tokens in zip(item_ids, titles, tokens_IL.tolist())
  ]
  artifacts.write_text(folder / "items.jsonl", "\n".join([*lines, ""]))


def check(config: GeneratorConfig) -> None:
  """Raises UserError for a generator that T5 cannot express."""
  fields = dataclasses.asdict(config)
  beyond = [
    f"{name} = {fields[name]!r} (expected {value!r})"
    for name, value in EXPRESSIBLE.items()
    if fields[name] != value
  ]
  if beyond:
    raise UserError(
      "--formats=hf: T5 has no counterpart of this generator's"
      f" config.model: {', '.join(beyond)}; leave hf out, or train a generator"
      " without these"
    )


def _config(config: GeneratorConfig, bos: int) -> dict[str, Any]:
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


def _weights(params: dict, config: GeneratorConfig) -> dict[str, np.ndarray]:
  """Their names -> float32 arrays."""
  D = config.d_model
  table_XD = np.asarray(params["code_embedding"], np.float32).reshape(-1, D)
  if config.tied_heads:
    head_XD = table_XD * np.float32(D**-0.5)
  else:
    head_LDV = np.asarray(params["fine_head"], np.float32)
    head_XD = np.swapaxes(head_LDV, 1, 2).reshape(-1, D)
  bos_1D = np.asarray(params["bos"], np.float32)[None]
  # No position ever predicts BOS.
  weights = {
    "shared.weight": np.concatenate([table_XD, bos_1D]),
    "lm_head.weight": np.pad(head_XD, ((0, 1), (0, 0))),
  }
  for stack in SUBLAYERS:
    weights |= _stack(params[stack], stack, config.gated_mlp)
  return {k: np.asarray(v, np.float32) for k, v in weights.items()}


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
