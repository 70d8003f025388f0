"""Item vectors from what a fit has learnt: of items that it has never seen.

A new item gets what the fit gives to an item without a training event:

  text                   TF-IDF over the fit's tokens, its SVD, unit norm
  cooccurrence           the mean: nobody has been seen with the item
  precomputed            rows that are given with the items
  sentence_transformers  likewise (`vectors.encode_items` makes them itself)

each standardised and weighted as in the fit. Smoothing leaves such an item as
it is, since its graph has no edges. A source that says nothing of an item (no
known token, a row of zeros) counts as the mean, too.

This file stands alone, here and in every bundle: it imports the standard
library and numpy. N items, F tokens, D dimensions of a source, W of a vector.
"""

import collections
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

VERSION = 1
# Of a category path, general to specific.
PATH_SEPARATOR = " > "
# Scripts that are written without spaces give one token a character.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")

Item = Mapping[str, str]


class ItemError(ValueError):
  """Items from which no vectors can be made."""


def words(text: str) -> list[str]:
  """Lower-case words and numbers of a text, in order."""
  return _WORD.findall(text.lower())


def path_nodes(path: str) -> list[str]:
  """Every prefix of a category path, general to specific, as one string."""
  names = path.split(PATH_SEPARATOR) if path else []
  return [PATH_SEPARATOR.join(names[: n + 1]) for n in range(len(names))]


def tokens(texts: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
  """Words, pairs of words and nodes of category paths of an item's texts."""
  for column, text in zip(columns, texts):
    found = words(text)
    yield from found
    yield from (f"{a} {b}" for a, b in itertools.pairwise(found))
    if column == "categories":
      yield from (f"/{node}" for node in path_nodes(text.lower()))


class ColdItems:
  """What a fit has learnt of its sources.

  Attributes:
    about: JSON. `version`; `scale` of all vectors; `columns` and `tokens` of
      the text, and the `sentence_model`, where there are any; `sources`, in
      order, with their `name`, the `width` of their rows, how many dimensions
      are `kept` of it and the `factor` they are weighed with.
    arrays: by name. mean_W; of each source but co-occurrence NAME/kept_D,
      which of its dimensions count, NAME/mean_D and NAME/std_D of those; of
      the text, text/idf_F and text/components_FD.
    width: W.
  """

  def __init__(self, about: dict[str, Any], arrays: Mapping[str, np.ndarray]):
    """Raises ItemError for what another release has written."""
    if about["version"] != VERSION:
      raise ItemError(
        f"the text encoder has version {about['version']}; this release reads"
        f" {VERSION}: use the release that made it"
      )
    self.about, self.arrays = about, arrays
    self.width = len(arrays["mean_W"])
    self._token = {t: row for row, t in enumerate(about.get("tokens", ()))}

  @property
  def given(self) -> dict[str, int]:
    """Width of each source whose rows must come with the items."""
    return {
      source["name"]: source["width"]
      for source in self.about["sources"]
      if source["name"] not in ("text", "cooccurrence")
    }

  def encode(
    self,
    items: Sequence[Item],
    given: Mapping[str, np.ndarray] | None = None,
  ) -> np.ndarray:
    """Vectors of new items.

    Args:
      items: of each, column -> text; what is not there is empty.
      given: rows (N, width) of the sources in `given`.

    Returns:
      x_NW float32.

    Raises:
      ItemError: a column that the fit has not read, rows that are missing or of
        another shape, or nothing but co-occurrence to tell items by.
    """
    given = dict(given or {})
    self._check(items, given)
    parts = []
    for source in self.about["sources"]:
      name = source["name"]
      if name == "cooccurrence":
        parts.append(np.zeros((len(items), source["kept"])))
        continue
      rows_ND = self._texts(items) if name == "text" else given[name]
      parts.append(source["factor"] * self._standardise(name, rows_ND))
    x_NW = np.concatenate(parts, axis=1).astype(np.float32)
    x_NW = (x_NW - self.arrays["mean_W"]) / self.about["scale"]
    return x_NW.astype(np.float32)

  def _standardise(self, name: str, rows_ND: np.ndarray) -> np.ndarray:
    rows_ND = np.asarray(rows_ND, np.float32)
    known_N1 = rows_ND.any(axis=1, keepdims=True)
    part_ND = rows_ND[:, self.arrays[f"{name}/kept_D"]]
    part_ND = part_ND - self.arrays[f"{name}/mean_D"]
    part_ND = part_ND / self.arrays[f"{name}/std_D"]
    return np.where(known_N1, part_ND, 0).astype(np.float32)

  def _texts(self, items: Sequence[Item]) -> np.ndarray:
    """Latent semantic vectors (N, D) of unit norm, zeros without a token."""
    idf_F = self.arrays["text/idf_F"]
    components_FD = self.arrays["text/components_FD"]
    columns = self.about["columns"]
    x_ND = np.zeros((len(items), components_FD.shape[1]), np.float32)
    for row, item in enumerate(items):
      texts = [item.get(column) or "" for column in columns]
      found = (self._token.get(t) for t in tokens(texts, columns))
      count = collections.Counter(token for token in found if token is not None)
      if not count:
        continue
      rows = np.fromiter(count, np.int64)
      weight = 1 + np.log(np.fromiter(count.values(), np.float32))
      weight = weight * idf_F[rows]
      weight /= np.linalg.norm(weight)
      x_D = weight @ components_FD[rows].astype(np.float32)
      x_ND[row] = x_D / max(np.linalg.norm(x_D), 1e-30)
    return x_ND

  def _check(
    self, items: Sequence[Item], given: Mapping[str, np.ndarray]
  ) -> None:
    columns = self.about.get("columns", [])
    names = {source["name"] for source in self.about["sources"]}
    if names == {"cooccurrence"}:
      raise ItemError(
        "the vectors were made of 'cooccurrence' alone, which says nothing of"
        " an item that nobody has been seen with: make them of 'text', too"
        " (config.vectors.sources), for new items to get codes"
      )
    for row, item in enumerate(items):
      unknown = sorted(set(item) - set(columns))
      if unknown:
        raise ItemError(
          f"item {row} (counted from 0) has the columns {', '.join(unknown)},"
          " which the fit has not read; it reads"
          f" {', '.join(columns) or 'none'}: leave out the others"
        )
    unread = sorted(given.keys() - self.given.keys())
    if unread:
      raise ItemError(
        f"rows of {', '.join(unread)} are given, but the sources that need some"
        f" are {', '.join(self.given) or 'none'}: leave those out"
      )
    for name, width in self.given.items():
      _check_rows(name, given.get(name), (len(items), width))


def _check_rows(
  name: str, rows_ND: np.ndarray | None, shape: tuple[int, int]
) -> None:
  """ItemError unless these are a source's rows for all items."""
  how = (
    f"the source {name!r} needs {shape[1]} numbers for each new item, made as"
    f" those of the run were: give {{{name!r}: array}} of shape {shape}"
  )
  if rows_ND is None:
    raise ItemError(f"no rows of {name!r} are given; {how}")
  rows_ND = np.asarray(rows_ND)
  if rows_ND.shape != shape or rows_ND.dtype.kind not in "fiu":
    raise ItemError(f"{rows_ND.dtype} of shape {rows_ND.shape} is given; {how}")
  bad_N = ~np.isfinite(rows_ND.astype(np.float32)).all(axis=1)
  if bad_N.any():
    raise ItemError(
      f"the rows of {name!r} hold NaN or Inf, the first in row"
      f" {int(np.argmax(bad_N))} (counted from 0): compute them again, or give"
      " zeros for an item of which nothing is known"
    )
