"""What T5 can express of a generator, and its codes as one vocabulary.

T5 is the published backbone (methods 1.2). It has no counterpart of pooled
items, a causal history, a cross-attention bias, a start from the last item, a
repeat bias or thoughts; generators with these are refused. The levels' codes
become tokens of one vocabulary: token = level * V + code.
"""

import numpy as np

from holorec_jax.models.config import GeneratorConfig

# The one value that T5 knows of each of these fields.
EXPRESSIBLE = {
  "history": "codes",
  "causal_history": False,
  "cross_bias": False,
  "start": "bos",
  "repeat_bias": False,
  "thought": "none",
}


def check_expressible(config: GeneratorConfig) -> None:
  """Refuses what T5 cannot express.

  Raises:
    ValueError: naming the fields in question.
  """
  beyond = {
    name: getattr(config, name)
    for name, value in EXPRESSIBLE.items()
    if getattr(config, name) != value
  }
  if beyond:
    raise ValueError(f"T5 has no counterpart of {beyond}; needs {EXPRESSIBLE}")


def check_histories(item_BT: np.ndarray) -> None:
  """Refuses empty histories, which attention treats differently everywhere.

  Raises:
    ValueError: a row does not begin with an item.
  """
  if not (item_BT[:, 0] >= 0).all():
    raise ValueError(
      "every history needs an item, the first one in its first slot"
    )


def code_tokens(codes_IL: np.ndarray, num_codes: int) -> np.ndarray:
  """(I, L) int64 tokens of the items' codes."""
  return codes_IL + num_codes * np.arange(codes_IL.shape[1], dtype=np.int64)


def token_embedding(params: dict) -> np.ndarray:
  """(L * V, D) float32 embeddings of the tokens."""
  table_LVD = np.asarray(params["code_embedding"], np.float32)
  return table_LVD.reshape(-1, table_LVD.shape[-1])


def token_heads(params: dict, config: GeneratorConfig) -> np.ndarray:
  """(L * V, D) float32 heads, which map a decoder state to tokens' logits."""
  if config.tied_heads:
    return token_embedding(params) * np.float32(config.d_model**-0.5)
  head_LDV = np.asarray(params["fine_head"], np.float32)
  return np.swapaxes(head_LDV, 1, 2).reshape(-1, config.d_model)
