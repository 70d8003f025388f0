"""A generator as a Hugging Face folder, written without torch.

  config.json, model.safetensors   `from_pretrained` of the form's class
  generation_config.json           the run's search
  items.jsonl                      {"id", "title", "tokens"} of each item

The backbone decides on the form: T5 (`hf_t5`) or Qwen3 (`hf_qwen3`). Neither
has a counterpart of pooled items, a start from the last item, a repeat bias or
thoughts, and T5 none of a causal history or a cross-attention bias; generators
with these are refused. The levels' codes become tokens of one vocabulary, token
= level * V + code, and BOS, which opens the answer, comes behind them.

A history is its items' tokens, oldest first; a Qwen3 has BOS behind them in its
prompt. `generate` finds this run's items when it is held to the tokens that
continue a prefix to an item (`prefix_allowed_tokens_fn`); with softmax="tree"
its scores are this run's, too. Items of equal tokens share a score, which is
divided by popularity here.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from holorec_jax import artifacts
from holorec_jax.catalog import Catalog
from holorec_jax.errors import UserError
from holorec_jax.export import hf_qwen3, hf_t5, tensors
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.layer_stack import unstack_layers

# The one value that every form knows of each of these fields.
EXPRESSIBLE: dict[str, Any] = {
  "history": "codes",
  "start": "bos",
  "repeat_bias": False,
  "thought": "none",
}


class Form(NamedTuple):
  """How one of transformers' classes holds a generator.

  Attributes:
    name: of the network, for people.
    expressible: the one value that it knows of further fields.
    config: (config, BOS) -> config.json; BOS is the last token.
    weights: (params, config) -> arrays of the layers, by their names.
    table: their name of the tokens' embeddings.
    generation: further leaves of generation_config.json, from BOS.
  """

  name: str
  expressible: Mapping[str, Any]
  config: Callable[[GeneratorConfig, int], dict[str, Any]]
  weights: Callable[[dict, GeneratorConfig], dict[str, np.ndarray]]
  table: str
  generation: Callable[[int], dict[str, Any]]


FORMS = {
  "t5": Form(
    "T5",
    {"causal_history": False, "cross_bias": False},
    hf_t5.make_config,
    hf_t5.layer_weights,
    "shared.weight",
    lambda bos: {"decoder_start_token_id": bos},
  ),
  "qwen3": Form(
    "Qwen3",
    {},
    hf_qwen3.make_config,
    hf_qwen3.layer_weights,
    "model.embed_tokens.weight",
    lambda bos: {"bos_token_id": bos},
  ),
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
    UserError: its form cannot express the generator; says which fields.
  """
  check(config)
  form = FORMS[config.backbone]
  levels, codes = catalog.codes_IL.shape[1], catalog.num_codes
  bos = levels * codes
  weights = make_weights(jax.device_get(params), config)
  tensors.save(folder / "model.safetensors", weights, {"format": "pt"})
  artifacts.write_json(folder / "config.json", form.config(config, bos))
  artifacts.write_json(
    folder / "generation_config.json",
    {
      "pad_token_id": bos,
      "eos_token_id": None,
      "max_new_tokens": levels,
      "num_beams": beam,
      "length_penalty": 0.0,
      "do_sample": False,
      "renormalize_logits": config.softmax == "tree",
    }
    | form.generation(bos),
  )
  tokens_IL = code_tokens(catalog.codes_IL, codes)
  lines = [
    json.dumps(
      {"id": str(id_), "title": str(title), "tokens": tokens},
      ensure_ascii=False,
    )
    for id_, title, tokens in zip(item_ids, titles, tokens_IL.tolist())
  ]
  artifacts.write_text(folder / "items.jsonl", "\n".join([*lines, ""]))


def check(config: GeneratorConfig) -> None:
  """Raises UserError for a generator that its form cannot express."""
  form, fields = FORMS[config.backbone], dataclasses.asdict(config)
  beyond = [
    f"{name} = {fields[name]!r} (expected {value!r})"
    for name, value in (EXPRESSIBLE | dict(form.expressible)).items()
    if fields[name] != value
  ]
  if beyond:
    raise UserError(
      f"{form.name} has no counterpart of this generator's config.model:"
      f" {', '.join(beyond)}; leave the format hf out, or train a generator"
      " without these"
    )


def make_weights(
  params: dict, config: GeneratorConfig
) -> dict[str, np.ndarray]:
  """All weights of the whole generator: their names -> float32 arrays."""
  form = FORMS[config.backbone]
  bos_1D = np.asarray(params["bos"], np.float32)[None]
  table_YD = np.concatenate([token_embedding(params), bos_1D])
  # No position ever predicts BOS.
  head_YD = np.pad(token_heads(params, config), ((0, 1), (0, 0)))
  weights = form.weights(unstack_layers(params), config) | {
    form.table: table_YD,
    "lm_head.weight": head_YD,
  }
  return {name: np.asarray(x, np.float32) for name, x in weights.items()}


def code_tokens(codes_IL: np.ndarray, num_codes: int) -> np.ndarray:
  """(I, L) int64 tokens of the items' codes."""
  return codes_IL + num_codes * np.arange(codes_IL.shape[1], dtype=np.int64)


def token_embedding(params: dict) -> np.ndarray:
  """(L * V, D) float32 embeddings of the tokens."""
  table_LVD = np.asarray(params["code_embedding"], np.float32)
  return table_LVD.reshape(-1, table_LVD.shape[-1])


def token_heads(params: dict, config: GeneratorConfig) -> np.ndarray:
  """(L * V, D) float32 heads, which map a state to tokens' logits."""
  if config.tied_heads:
    return token_embedding(params) * np.float32(config.d_model**-0.5)
  head_LDV = np.asarray(params["fine_head"], np.float32)
  return np.swapaxes(head_LDV, 1, 2).reshape(-1, config.d_model)
