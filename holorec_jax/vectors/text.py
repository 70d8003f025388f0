"""Item texts -> vectors: TF-IDF over all columns, then truncated SVD (LSA).

Needs no download and no accelerator. Words and pairs of words of every column
share one vocabulary (a brand is the same word in a title and in a brand
column); besides, every node of a category path is a token of its own, so that
"Hair Care > Conditioners" and "Baby > Conditioners" differ.
"""

import itertools
import re
from collections.abc import Mapping

import numpy as np
import sklearn.decomposition
import sklearn.feature_extraction.text
import sklearn.preprocessing
from tqdm import tqdm

from holorec_jax.data.schema import PATH_SEPARATOR
from holorec_jax.errors import UserError

MAX_TOKENS = 100_000
# Scripts that are written without spaces give one token a character.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
  """Lower-case words and numbers of a text, in order."""
  return _WORD.findall(text.lower())


def path_nodes(path: str) -> list[str]:
  """Every prefix of a category path, general to specific, as one string."""
  names = path.split(PATH_SEPARATOR) if path else []
  return [PATH_SEPARATOR.join(names[: n + 1]) for n in range(len(names))]


def _tokens(document: tuple[str, ...], columns: tuple[str, ...]) -> list[str]:
  tokens: list[str] = []
  for column, text in zip(columns, document):
    found = words(text)
    tokens += found
    tokens += [f"{a} {b}" for a, b in itertools.pairwise(found)]
    if column == "categories":
      tokens += [f"/{node}" for node in path_nodes(text.lower())]
  return tokens


def text_vectors(
  item_text: Mapping[str, np.ndarray], dims: int, seed: int = 0
) -> np.ndarray:
  """Latent semantic vectors of items from all their text columns.

  Args:
    item_text: column name -> (I,) strings, "" where missing.
    dims: width wanted; fewer when the vocabulary or the catalogue is smaller.
    seed: of the randomised SVD; the same seed gives the same vectors.

  Returns:
    x_ID float32, rows of unit norm; a row of zeros is an item of which the
    text says nothing (empty, or no token that another item has too).

  Raises:
    UserError: no item has a text, or no two items share a token.
  """
  columns = tuple(sorted(item_text))
  documents = list(zip(*(item_text[column].tolist() for column in columns)))
  if not any(any(document) for document in documents):
    raise UserError(
      "vectors: every item's text is empty, so the source 'text' has nothing "
      f"to read (text columns: {', '.join(columns) or 'none'}). Name the text "
      "columns of the item table, or use config.vectors.sources="
      "('cooccurrence',) or ('precomputed',)."
    )
  vectorizer = sklearn.feature_extraction.text.TfidfVectorizer(
    analyzer=lambda document: _tokens(document, columns),
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
  svd = sklearn.decomposition.TruncatedSVD(dims, random_state=seed)
  x_ID = svd.fit_transform(tfidf_IF)
  return sklearn.preprocessing.normalize(x_ID).astype(np.float32)
