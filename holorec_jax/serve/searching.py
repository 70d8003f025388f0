"""From requests to batches of a bundle's search and back."""

import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from holorec_jax.export.runtime import Bundle
from holorec_jax.serve.metrics import Metrics
from holorec_jax.serve.schemas import RecommendRequest, RecommendResponse

# Seconds and turns of measuring at the start.
_MEASURED = 2.0
_FEWEST_TURNS, _MOST_TURNS = 3, 20


Problem = tuple[tuple[str | int, ...], str]


class InvalidRequestError(Exception):
  """A request that this bundle cannot answer.

  Attributes:
    problems: path of the field in the body, and what is wrong with it.
  """

  def __init__(self, problems: Sequence[Problem]):
    super().__init__("; ".join(what for _, what in problems))
    self.problems = problems


@dataclasses.dataclass(frozen=True)
class Question:
  """A request in the bundle's item numbers.

  Attributes:
    history: the latest items that the model reads, oldest first.
    deny: never these.
    allow: only these; None: any.
    k: items wanted.
    explain: say of each item why.
  """

  history: list[int]
  deny: list[int]
  allow: list[int] | None
  k: int
  explain: bool = False


class Found(NamedTuple):
  """What a question finds.

  Attributes:
    items_K, scores_K: the best first, -1 where there is none.
    why: what `Bundle.explain` says of the first items; of none unless asked.
  """

  items_K: np.ndarray
  scores_K: np.ndarray
  why: Sequence[dict[str, Any]] = ()


_ANYONE = Question([0], [], None, 1)


class Searcher:
  """A bundle that speaks in requests.

  Attributes:
    bundle: that is searched.
    version: names it.
  """

  def __init__(self, bundle: Bundle, metrics: Metrics):
    """Compiles the bundle's programs."""
    bundle.warm_up()
    self.bundle = bundle
    self._metrics = metrics
    self.version: str = bundle.manifest["content"]

  def measure(self) -> dict[int, float]:
    """Seconds of a search, by batch size: the best of some turns.

    The sizes take turns, so that whatever else the machine does hits all.
    """
    seconds = dict.fromkeys(self.bundle.buckets, math.inf)
    end = time.perf_counter() + _MEASURED
    for turn in range(_MOST_TURNS):
      if turn >= _FEWEST_TURNS and time.perf_counter() > end:
        break
      for size, best in seconds.items():
        began = time.perf_counter()
        self._search([_ANYONE] * size, size)
        seconds[size] = min(best, time.perf_counter() - began)
    return seconds

  def set_unavailable(self, ids: Collection[str]) -> list[str]:
    """Finds these items no more; returns those that the catalogue lacks."""
    row_of = self.bundle.row_of
    available_I = np.ones(len(row_of), bool)
    available_I[[row_of[id_] for id_ in ids if id_ in row_of]] = False
    self.bundle.set_available(available_I)
    return sorted(id_ for id_ in ids if id_ not in row_of)

  def understand(self, request: RecommendRequest) -> tuple[Question, list[str]]:
    """The question, and the unknown ids that were left out.

    Raises:
      InvalidRequestError: unknown ids, k or a list too large.
    """
    bundle = self.bundle
    problems: list[Problem] = []
    unknown: dict[str, None] = {}

    def find(field: str, ids: Sequence[str]) -> list[int]:
      try:
        return [bundle.row_of[id_] for id_ in ids]
      except KeyError:
        found = [bundle.row_of.get(id_) for id_ in ids]
      for position, (id_, row) in enumerate(zip(ids, found)):
        if row is None and request.unknown == "ignore":
          unknown[id_] = None
        elif row is None:
          what = f"the catalogue has no item {id_!r}"
          problems.append(((field, position), what))
      return [row for row in found if row is not None]

    def check_width(field: str, items: Sequence[int], what: str) -> None:
      if len(items) > bundle.list_width:
        what = f"{len(items)} {what}; this bundle takes {bundle.list_width}"
        problems.append(((field,), what))

    history = find("history", request.history)
    seen = history if request.exclude_seen else []
    deny = list(dict.fromkeys(seen + find("deny", request.deny)))
    check_width("deny", deny, "items to leave out, seen ones included")
    allow = None
    if request.allow is not None:
      allow = list(dict.fromkeys(find("allow", request.allow)))
      check_width("allow", allow, "items to choose from")
    k = bundle.k if request.k is None else request.k
    if k > bundle.k:
      problems.append((("k",), f"k is {k}; this bundle has k = {bundle.k}"))
    if request.explain and not bundle.explains:
      what = "this bundle explains nothing: export it again, or another system"
      problems.append((("explain",), what))
    if problems:
      raise InvalidRequestError(problems)
    recent = history[-bundle.max_history :]
    question = Question(recent, deny, allow, k, request.explain)
    return question, list(unknown)

  def run(self, questions: Sequence[Question], size: int) -> list[Found]:
    """What each finds, from one batch of `size`."""
    began = time.perf_counter()
    searched = [q for q in questions if q.history]
    found = iter(self._search(searched, size) if searched else ())
    answers = [
      self._explain(q, next(found)) if q.history else self._most_popular(q)
      for q in questions
    ]
    self._metrics.batches.labels(size).inc()
    self._metrics.batched.inc(len(questions))
    self._metrics.search_seconds.observe(time.perf_counter() - began)
    return answers

  def respond(
    self, question: Question, found: Found, unknown: list[str]
  ) -> RecommendResponse:
    """In the words of the request."""
    bundle = self.bundle
    items = [
      {"id": bundle.item_ids[i], "title": bundle.titles[i], "score": score}
      for i, score in zip(found.items_K.tolist(), found.scores_K.tolist())
      if i >= 0
    ][: question.k]
    for item, why in zip(items, found.why):
      item["explanation"] = why
    # Item by item this takes longer than all the rest of a request.
    return RecommendResponse.model_validate(
      {
        "items": items,
        "from_prior": not question.history,
        "unknown_items": unknown,
        "bundle": self.version,
      }
    )

  def _search(self, questions: Sequence[Question], size: int) -> list[Found]:
    found = self.bundle.search(*rows(self.bundle, questions, size))
    return [Found(*pair) for pair in zip(*found)]

  def _explain(self, question: Question, found: Found) -> Found:
    """What was found, and why if that was asked."""
    if not question.explain:
      return found
    items = found.items_K[found.items_K >= 0][: question.k].tolist()
    return found._replace(why=self.bundle.explain(question.history, items))

  def _most_popular(self, question: Question) -> Found:
    item_UK, score_UK = self.bundle.recommend(
      [[]], deny=[question.deny], allow=[question.allow]
    )
    return Found(item_UK[0], score_UK[0])


def rows(
  bundle: Bundle, questions: Sequence[Question], size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Arguments of the bundle's `search`; rows behind the last are empty."""
  allow = [q.allow for q in questions]
  restricted_B = np.zeros(size, bool)
  restricted_B[: len(questions)] = [a is not None for a in allow]
  return (
    _pad([q.history for q in questions], size, bundle.max_history),
    _pad([q.deny for q in questions], size, bundle.list_width),
    _pad([a or [] for a in allow], size, bundle.list_width),
    restricted_B,
  )


def _pad(lists: Sequence[Sequence[int]], size: int, width: int) -> np.ndarray:
  """(size, width) int32, -1 where empty."""
  padded = np.full((size, width), -1, np.int32)
  for row, items in enumerate(lists):
    padded[row, : len(items)] = items
  return padded
