"""Item texts -> vectors by a pretrained sentence encoder (an extra)."""

from collections.abc import Mapping

import numpy as np

from holorec_jax.errors import UserError


def sentences(item_text: Mapping[str, np.ndarray]) -> list[str]:
  """One line an item: title, categories, then the other columns by name."""
  first = [name for name in ("title", "categories") if name in item_text]
  rest = sorted(set(item_text) - set(first))
  columns = [item_text[name].tolist() for name in first + rest]
  return [". ".join(filter(None, row)) for row in zip(*columns)]


def encode(item_text: Mapping[str, np.ndarray], model: str) -> np.ndarray:
  """Encodes items with a sentence-transformers model.

  Args:
    item_text: column name -> (I,) strings, "" where missing.
    model: a local folder or a name on the hub (downloaded on first use).

  Returns:
    x_ID float32; a row of zeros is an item without text.

  Raises:
    UserError: the extra is not installed, or the model cannot be loaded.
  """
  try:
    import sentence_transformers
  except ImportError as error:
    raise UserError(
      "vectors: the source 'sentence_transformers' needs an extra: "
      "pip install 'holorec_jax[sentence_transformers]'"
    ) from error
  try:
    encoder = sentence_transformers.SentenceTransformer(model)
  except (OSError, ValueError) as error:
    raise UserError(
      f"config.vectors.sentence_model: cannot load '{model}' ({error}); give "
      "a local folder or a name of the Hugging Face hub."
    ) from error
  texts = sentences(item_text)
  x_ID = encoder.encode(texts, show_progress_bar=True, convert_to_numpy=True)
  x_ID[[not line for line in texts]] = 0
  return x_ID.astype(np.float32)
