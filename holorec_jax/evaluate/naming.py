"""Reading thoughts: every code gets the name that its items have in common.

A code is named by what sets its items apart: the category that says most of
them, then one or two title words or brands that say most beyond that category.
"Says most" is the token's part of the Kullback-Leibler divergence between the
code's items and a background (a weighted pointwise mutual information),

  score = p(token | code) log(p(token | code) / p(token | background)),

where p(. | code) counts `PRIOR` more items drawn from the background, so that a
code of three items is not named by an accident. A category's background is the
catalogue; a word's is the catalogue or the chosen category, whichever has more
of it: "polish" tells nothing about a code of nail polishes.
"""

import collections
import itertools
import re
from collections.abc import Callable, Mapping

import numpy as np
import scipy.sparse
from sklearn.feature_extraction import text as sklearn_text

from holorec_jax.data.schema import PATH_SEPARATOR
from holorec_jax.vectors import text

PRIOR = 2.0
# A token speaks for a code when it is true of this share of its items ...
CATEGORY_SHARE, WORD_SHARE = 0.25, 0.05
MIN_ITEMS = 3  # ... and of so many (of all, where a code has fewer).
MIN_RATIO = 1.5  # ... and so much more often than of the background.
PHRASE_BONUS = 1.4  # "China Glaze" rather than "China" and "Glaze".
MAX_WORDS = 2
MAX_TOKENS = 30_000

# "New York" is one word; "new" is none.
_WORD = re.compile(r"(?:[Nn]ew )?[^\W\d_][^\W_]*(?:['’&][^\W_]+)*")
_PAUSE = re.compile(r"[^\w\s'’&-]| - ")
# Amounts and packaging tell sizes, not kinds.
_AMOUNTS = (
  "oz ounce ounces fl fluid ml lb lbs inch inches cm mm pack packs pcs pc "
  "piece pieces count ct set size each new amp quot"
)
_STOP_WORDS = sklearn_text.ENGLISH_STOP_WORDS | set(_AMOUNTS.split())

Tokens = tuple[scipy.sparse.csr_array, list[str]]


def name_codes(
  codes_IL: np.ndarray, item_text: Mapping[str, np.ndarray], num_codes: int
) -> list[list[str]]:
  """Names every code of every level of one granularity row.

  Args:
    codes_IL: codes of the items, in 0..num_codes-1.
    item_text: column -> (I,) strings; "categories", "title" and "brand" are
      read, whichever there are.
    num_codes: V.

  Returns:
    names[level][code], like "Nail Polish: Glitter, OPI"; "" for a code without
    items, "mixed" where nothing sets its items apart.
  """
  absent_I = np.full(len(codes_IL), "", object)
  nodes_IF, nodes = _count(
    item_text.get("categories", absent_I), text.path_nodes
  )
  brand_I = item_text.get("brand", absent_I)
  words_IF, words = _count(
    zip(item_text.get("title", absent_I), brand_I), _phrases
  )
  titles = _short_paths(nodes)
  names = []
  for codes_I in np.asarray(codes_IL).T:
    code_VI = _one_hot(codes_I, num_codes)
    best_V, score_V = _categories(code_VI, nodes_IF, nodes)
    said = _words(code_VI, best_V, nodes_IF, words_IF, words)
    names.append(
      [
        _join(titles[best_V[v]] if score_V[v] > 0 else "", said[v])
        if items
        else ""
        for v, items in enumerate(code_VI.sum(axis=1))
      ]
    )
  return names


def _count(texts, analyse: Callable[..., list[str]]) -> Tokens:
  """(I, F) which item has which token, and how the tokens are written.

  Case does not count; a token is written as it is most often.
  """
  counter = sklearn_text.CountVectorizer(
    analyzer=analyse, binary=True, max_features=MAX_TOKENS, dtype=np.float32
  )
  texts = list(texts)
  try:
    has_IW = counter.fit_transform(texts)
  except ValueError:  # No item has a token.
    return scipy.sparse.csr_array((len(texts), 0), dtype=np.float32), []
  written_W = counter.get_feature_names_out()
  often_W = np.asarray(has_IW.sum(axis=0)).ravel()
  token_W = np.char.lower(written_W.astype(str))
  order_W = np.lexsort((-often_W, token_W))
  _, first_F, token_of_W = np.unique(
    token_W[order_W], return_index=True, return_inverse=True
  )
  merge_WF = _one_hot(token_of_W, len(first_F)).T
  has_IF = scipy.sparse.csr_array(has_IW)[:, order_W] @ merge_WF
  return has_IF.minimum(1).tocsr(), written_W[order_W][first_F].tolist()


def _phrases(title_and_brand: tuple[str, str]) -> list[str]:
  """Telling words of a title, pairs of them side by side, and the brand."""
  title, brand = title_and_brand
  phrases = [brand] if brand else []
  for part in _PAUSE.split(title):
    found = _WORD.findall(part)
    telling = [len(w) > 2 and w.lower() not in _STOP_WORDS for w in found]
    phrases += itertools.compress(found, telling)
    for pair, tells in zip(
      itertools.pairwise(found), itertools.pairwise(telling)
    ):
      if all(tells):
        phrases.append(" ".join(pair))
  return phrases


def _one_hot(codes_I: np.ndarray, num_codes: int) -> scipy.sparse.csr_array:
  """(V, I)"""
  items = np.arange(len(codes_I))
  return scipy.sparse.csr_array(
    (np.ones(len(items), np.float32), (codes_I, items)),
    shape=(num_codes, len(items)),
  )


def _scores(
  code_VI: scipy.sparse.csr_array,
  tokens_IF: scipy.sparse.csr_array,
  background_VF: np.ndarray,
  min_share: float,
) -> np.ndarray:
  """The module's score, 0 where a token does not speak for the code."""
  has_VF = (code_VI @ tokens_IF).toarray()
  count_V1 = code_VI.sum(axis=1)[:, None]
  p_VF = (has_VF + PRIOR * background_VF) / (count_V1 + PRIOR)
  ratio_VF = p_VF / np.maximum(background_VF, 1e-9)
  score_VF = p_VF * np.log(np.maximum(ratio_VF, 1e-9))
  enough_V1 = np.maximum(np.minimum(MIN_ITEMS, count_V1), min_share * count_V1)
  speaks_VF = (has_VF >= enough_V1) & (ratio_VF >= MIN_RATIO)
  return np.where(speaks_VF, score_VF, 0)


def _categories(
  code_VI: scipy.sparse.csr_array,
  nodes_IF: scipy.sparse.csr_array,
  nodes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
  """Each code's telling category and its score (0: none)."""
  num_codes, num_items = code_VI.shape
  if not nodes:
    return np.zeros(num_codes, np.int64), np.zeros(num_codes)
  share_1F = nodes_IF.sum(axis=0)[None] / num_items
  score_VF = _scores(code_VI, nodes_IF, share_1F, CATEGORY_SHARE)
  # Where a category and its only child say the same, the child is meant.
  depth_F = np.array([node.count(PATH_SEPARATOR) for node in nodes])
  score_VF *= 1 + 1e-3 * depth_F
  return score_VF.argmax(axis=1), score_VF.max(axis=1)


def _words(
  code_VI: scipy.sparse.csr_array,
  best_V: np.ndarray,
  nodes_IF: scipy.sparse.csr_array,
  words_IF: scipy.sparse.csr_array,
  words: list[str],
) -> list[list[str]]:
  """Of each code, its telling words beyond the category, best first."""
  num_codes, num_items = code_VI.shape
  if not words:
    return [[]] * num_codes
  background_VF = words_IF.sum(axis=0)[None] / num_items
  if nodes_IF.shape[1]:
    member_VI = nodes_IF[:, best_V].T.tocsr()
    size_V1 = np.maximum(member_VI.sum(axis=1), 1)[:, None]
    inside_VF = (member_VI @ words_IF).toarray() / size_V1
    background_VF = np.maximum(background_VF, inside_VF)
  score_VF = _scores(code_VI, words_IF, background_VF, WORD_SHARE)
  score_VF *= np.where([" " in word for word in words], PHRASE_BONUS, 1)
  order_VK = np.argsort(-score_VF, axis=1, kind="stable")[:, :32]
  return [
    [words[k] for k in order_K if score_F[k] > 0]
    for order_K, score_F in zip(order_VK, score_VF)
  ]


def _short_paths(nodes: list[str]) -> list[str]:
  """Last names of category paths, with the parent's where it is needed.

  "Men's" alone is said of fragrances and of razors.
  """
  ends = [node.split(PATH_SEPARATOR)[-2:] for node in nodes]
  uses = collections.Counter(end[-1] for end in ends)
  return [" / ".join(end) if uses[end[-1]] > 1 else end[-1] for end in ends]


def _join(category: str, words: list[str]) -> str:
  said: list[str] = []
  for word in words:
    if not any(_overlap(word, other) for other in [category, *said]):
      said.append(word)
  parts = [category, ", ".join(said[:MAX_WORDS])]
  return ": ".join(filter(None, parts)) or "mixed"


def _overlap(one: str, other: str) -> bool:
  """Whether they share a word, singular or plural."""
  a, b = (
    {w.lower().rstrip("s") for w in _WORD.findall(side)}
    for side in (one, other)
  )
  return bool(a & b)
