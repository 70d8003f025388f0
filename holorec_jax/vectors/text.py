"""Item texts -> vectors: TF-IDF over all columns, then truncated SVD (LSA).

Needs no download and no accelerator. Words and pairs of words of every column
share one vocabulary (a brand is the same word in a title and in a brand
column); besides, every node of a category path is a token of its own, so that
"Hair Care > Conditioners" and "Baby > Conditioners" differ.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from holorec_jax.errors import UserError
from holorec_jax.vectors.cold_items import tokens

MAX_TOKENS = 100_000


class FittedText(NamedTuple):
  """What new texts are encoded with.

  Attributes:
    columns: of an item's text, sorted.
    tokens: F of them.
    idf_F: float32 weight of each.
    components_FD: float32, from tokens to vectors.
  """

  columns: tuple[str, ...]
  tokens: list[str]
  idf_F: np.ndarray
  components_FD: np.ndarray


def fit_text(
  item_text: Mapping[str, np.ndarray], dims: int, seed: int = 0
) -> tuple[np.ndarray, FittedText]:
  """Latent semantic vectors of items from all their text columns.

  Args:
    item_text: column name -> (I,) strings, "" where missing.
    dims: width wanted; fewer when the vocabulary or the catalogue is smaller.
    seed: of the randomised SVD; the same seed gives the same vectors.

  Returns:
    x_ID float32, rows of unit norm; a row of zeros is an item of which the
    text says nothing (empty, or no token that another item has too). And
    what encodes further texts.

  Raises:
    UserError: no item has a text, or no two items share a token.
  """
  # Here, since it takes seconds that most stages need not wait.
  from sklearn.decomposition import TruncatedSVD
  from sklearn.feature_extraction.text import TfidfVectorizer
  from sklearn.preprocessing import normalize

  columns = tuple(sorted(item_text))
  documents = list(zip(*(item_text[column].tolist() for column in columns)))
  if not any(any(document) for document in documents):
    raise UserError(
      "vectors: every item's text is empty, so the source 'text' has nothing "
      f"to read (text columns: {', '.join(columns) or 'none'}). Name the text "
      "columns of the item table, or use config.vectors.sources="
      "('cooccurrence',) or ('precomputed',)."
    )
  vectorizer = TfidfVectorizer(
    analyzer=lambda document: tokens(document, columns),
    min_df=2,
    max_df=0.5,
    max_features=MAX_TOKENS,
    sublinear_tf=True,
    dtype=np.float32,
  )
  try:
    tfidf_IF = vectorizer.fit_transform(
      tqdm(documents, desc="item texts", unit="item")
    )
  except ValueError as error:
    raise UserError(
      "vectors: no word is shared by two items and yet not by half of all "
      f"({len(documents)} items), so the source 'text' cannot tell what is "
      "alike. Use config.vectors.sources=('cooccurrence',) or "
      "('precomputed',)."
    ) from error
  dims = min(dims, *tfidf_IF.shape)
  svd = TruncatedSVD(dims, random_state=seed)
  x_ID = svd.fit_transform(tfidf_IF)
  found = FittedText(
    columns,
    vectorizer.get_feature_names_out().tolist(),
    vectorizer.idf_.astype(np.float32),
    np.ascontiguousarray(svd.components_.T, np.float32),
  )
  return normalize(x_ID).astype(np.float32), found
