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
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import scipy.sparse

from holorec_jax.data.schema import PATH_SEPARATOR
from holorec_jax.vectors import cold_items

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


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Which item has which token.

  Attributes:
    has_IF: 1 where an item has a token.
    names: the F tokens as people read them.
    share_F: share of all items that have a token.
  """

  has_IF: scipy.sparse.csr_array
  names: list[str]

  @functools.cached_property
  def share_F(self) -> np.ndarray:
    return self.has_IF.mean(axis=0)


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
  titles_I = item_text.get("title", absent_I)
  brands_I = item_text.get("brand", absent_I)
  nodes = _count(item_text.get("categories", absent_I), cold_items.path_nodes)
  words = _count(zip(titles_I, brands_I), _phrases)
  short = _short_paths(nodes.names)

  @functools.cache
  def background_F(node: int | None) -> np.ndarray:
    if node is None:
      return words.share_F
    members = nodes.has_IF[:, [node]].nonzero()[0]
    return np.maximum(words.share_F, words.has_IF[members].mean(axis=0))

  def name(items_C: np.ndarray) -> str:
    if not items_C.size:
      return ""
    node = _category(items_C, nodes)
    said = _words(items_C, words, background_F(node))
    return _join("" if node is None else short[node], said)

  levels = []
  for codes_I in np.asarray(codes_IL).T:
    ends_V = np.cumsum(np.bincount(codes_I, minlength=num_codes))
    by_code = np.split(np.argsort(codes_I, kind="stable"), ends_V[:-1])
    levels.append([name(items_C) for items_C in by_code])
  return levels


def _count(texts: Iterable, analyse: Callable[..., list[str]]) -> Tokens:
  """Tokens regardless of case, each written as it is most often."""
  # Here, since it takes seconds that most stages need not wait.
  from sklearn.feature_extraction.text import CountVectorizer

  counter = CountVectorizer(
    analyzer=analyse, binary=True, max_features=MAX_TOKENS, dtype=np.float32
  )
  texts = list(texts)
  try:
    has_IW = counter.fit_transform(texts)
  except ValueError:  # No item has a token.
    return Tokens(scipy.sparse.csr_array((len(texts), 0)), [])
  written_W = counter.get_feature_names_out()
  often_W = np.asarray(has_IW.sum(axis=0)).ravel()
  token_W = np.char.lower(written_W.astype(str))
  order_W = np.lexsort((-often_W, token_W))
  _, first_F, token_of_W = np.unique(
    token_W[order_W], return_index=True, return_inverse=True
  )
  merge_WF = scipy.sparse.csr_array(
    (np.ones(len(order_W)), (np.arange(len(order_W)), token_of_W))
  )
  has_IF = scipy.sparse.csr_array(has_IW)[:, order_W] @ merge_WF
  names = written_W[order_W][first_F].tolist()
  return Tokens(has_IF.minimum(1).tocsr(), names)


@functools.cache
def _stop_words() -> frozenset[str]:
  from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

  return ENGLISH_STOP_WORDS | set(_AMOUNTS.split())


def _phrases(title_and_brand: tuple[str, str]) -> list[str]:
  """Telling words of a title, pairs of them side by side, and the brand."""
  title, brand = title_and_brand
  phrases, stop_words = [brand] if brand else [], _stop_words()
  for part in _PAUSE.split(title):
    found = _WORD.findall(part)
    telling = [len(w) > 2 and w.lower() not in stop_words for w in found]
    phrases += itertools.compress(found, telling)
    for pair, tells in zip(
      itertools.pairwise(found), itertools.pairwise(telling)
    ):
      if all(tells):
        phrases.append(" ".join(pair))
  return phrases


def _scores(
  items_C: np.ndarray,
  tokens: Tokens,
  background_F: np.ndarray,
  min_share: float,
) -> tuple[np.ndarray, np.ndarray]:
  """The tokens that speak for a code of these items, and their scores."""
  size = len(items_C)
  found_F = np.bincount(
    tokens.has_IF[items_C].indices, minlength=len(tokens.names)
  )
  enough = max(min(MIN_ITEMS, size), min_share * size)
  speaks_K = np.flatnonzero(found_F >= enough)
  background_K = background_F[speaks_K]
  p_K = (found_F[speaks_K] + PRIOR * background_K) / (size + PRIOR)
  ratio_K = p_K / background_K
  apart_K = ratio_K >= MIN_RATIO
  return speaks_K[apart_K], (p_K * np.log(ratio_K))[apart_K]


def _category(items_C: np.ndarray, nodes: Tokens) -> int | None:
  """The category that says most of a code's items."""
  found_K, score_K = _scores(items_C, nodes, nodes.share_F, CATEGORY_SHARE)
  if not found_K.size:
    return None
  # Where a category and its only child say the same, the child is meant.
  depth_K = [nodes.names[node].count(PATH_SEPARATOR) for node in found_K]
  return int(found_K[np.argmax(score_K * (1 + 1e-3 * np.array(depth_K)))])


def _words(
  items_C: np.ndarray, words: Tokens, background_F: np.ndarray
) -> list[str]:
  """A code's telling words, best first."""
  found_K, score_K = _scores(items_C, words, background_F, WORD_SHARE)
  said = [words.names[word] for word in found_K]
  score_K = score_K * [PHRASE_BONUS if " " in word else 1 for word in said]
  return [said[k] for k in np.argsort(-score_K, kind="stable")]


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
    if len(said) == MAX_WORDS:
      break
    if not any(_overlap(word, other) for other in [category, *said]):
      said.append(word)
  return ": ".join(filter(None, [category, ", ".join(said)])) or "mixed"


def _overlap(one: str, other: str) -> bool:
  """Whether they share a word, singular or plural."""
  a, b = (
    {w.lower().rstrip("s") for w in _WORD.findall(side)}
    for side in (one, other)
  )
  return bool(a & b)
