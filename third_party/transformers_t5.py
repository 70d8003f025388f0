"""A generator's weights in transformers' T5 (package licence: Apache-2.0).

T5 is the published backbone (methods 1.2), so the same weights must yield the
same states. `export/hf` says which generators it can express, and knows T5's
names.
"""

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration, T5Model

from holorec_jax.export import hf, hf_t5
from holorec_jax.models.config import GeneratorConfig

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
    UserError: T5 cannot express the configuration.
  """
  hf.check(config)
  model = T5Model(T5Config.from_dict(hf_t5.make_config(config, bos=1)))
  # The token tables are all that T5 has beyond us: it is fed embeddings.
  _load(model, hf_t5.layer_weights(params, config), unset=TABLES)
  return model.eval()


def copy_to_seq2seq(
  params: dict, config: GeneratorConfig
) -> T5ForConditionalGeneration:
  """T5 with token embeddings and a head: the whole generator.

  The vocabulary is that of `export/hf`. No position ever predicts BOS: its
  logit is 0 and counts only in a softmax over the whole vocabulary.

  Args:
    params: the generator's parameters.
    config: its configuration.

  Returns:
    A model in evaluation mode.

  Raises:
    UserError: T5 cannot express the configuration.
  """
  hf.check(config)
  weights = hf.make_weights(params, config)
  table_YD = weights["shared.weight"]
  bos = len(table_YD) - 1
  model = T5ForConditionalGeneration(
    T5Config.from_dict(hf_t5.make_config(config, bos))
  )
  # transformers 5 shares head and table all the same.
  model.lm_head = torch.nn.Linear(config.d_model, bos + 1, bias=False)
  _load(model, weights | dict.fromkeys(TABLES, table_YD), unset=set())
  # One table for both stacks, as ours.
  model.set_input_embeddings(model.shared)
  return model.eval()


def _load(model: torch.nn.Module, weights: dict, unset: set[str]) -> None:
  state = {
    name: torch.from_numpy(np.array(array, np.float32))
    for name, array in weights.items()
  }
  missing, unexpected = model.load_state_dict(state, strict=False)
  if unexpected or set(missing) - unset:
    raise ValueError(f"T5 lacks {unexpected} or has beside them {missing}")
