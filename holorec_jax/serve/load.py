"""What a server does under load, beside the bundle that it serves.

  in_process  users/s of `Bundle.search`, by batch size
  capacity    users/s over HTTP when more requests wait than a batch takes
  steady      Poisson arrivals at a share of that capacity
  overload    Poisson arrivals at twice that capacity

Every answer is compared with what the bundle itself recommends.
"""

import collections
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from holorec_jax.export.runtime import Bundle
from holorec_jax.serve.load_client import (
  Client,
  Request,
  Sample,
  closed_loop,
  open_loop,
  write_request,
)
from holorec_jax.serve.searching import Question, rows

DISTINCT = 512
# Items of most lists; far longer ones are searched singly.
_LISTED = 50
# Batches of other sizes round otherwise.
_TOLERANCE = 1e-5
_FEWEST_TURNS = 3
_TURNS = 3
_MEMORY_EVERY = 5.0  # seconds
Row = dict[str, Any]


def draw_questions(bundle: Bundle, seed: int = 0) -> list[Question]:
  """Random histories: a quarter of them may get any item, a quarter what they
  have not seen, a quarter has other items denied, a quarter only some allowed.
  """
  rng = np.random.default_rng(seed)
  num_items = len(bundle.item_ids)
  listed = min(_LISTED, bundle.list_width)

  def draw(most: int) -> list[int]:
    return rng.integers(0, num_items, rng.integers(1, most + 1)).tolist()

  def ask(number: int) -> Question:
    history = draw(bundle.max_history)
    deny: list[int] = []
    allow = None
    if number % 4 == 1:
      deny = history[:listed]
    elif number % 4 == 2:
      deny = draw(listed)
    elif number % 4 == 3:
      allow = draw(listed)
    return Question(history, deny, allow, bundle.k)

  return [ask(number) for number in range(DISTINCT)]


def make_requests(
  bundle: Bundle, questions: Sequence[Question], token: str = ""
) -> list[Request]:
  """The questions over HTTP, with the bundle's own answers to them."""
  items_UK, scores_UK = bundle.recommend(
    [q.history for q in questions],
    deny=[q.deny for q in questions],
    allow=[q.allow for q in questions],
  )
  return [
    _make_request(bundle, question, items_K, scores_K, token)
    for question, items_K, scores_K in zip(questions, items_UK, scores_UK)
  ]


def _make_request(
  bundle: Bundle,
  question: Question,
  items_K: np.ndarray,
  scores_K: np.ndarray,
  token: str,
) -> Request:
  def name(items: Sequence[int]) -> list[str]:
    return [bundle.item_ids[item] for item in items]

  wanted = name(items_K[items_K >= 0].tolist())
  scores = scores_K[: len(wanted)].tolist()

  def is_right(answer: bytes) -> bool:
    found = json.loads(answer)["items"]
    # Of items of almost one score, any may come first.
    return sorted(item["id"] for item in found) == sorted(wanted) and all(
      abs(item["score"] - score) <= _TOLERANCE
      for item, score in zip(found, scores)
    )

  content = json.dumps(
    {
      "history": name(question.history),
      "deny": name(question.deny),
      "allow": None if question.allow is None else name(question.allow),
    }
  ).encode()
  return Request(write_request(content, token), is_right)


def time_searches(
  bundle: Bundle,
  questions: Sequence[Question],
  sizes: Sequence[int],
  seconds: float,
) -> list[Row]:
  """Speed of `Bundle.search` alone, for so many seconds at each batch size."""
  found = []
  for size in sizes:
    asked = itertools.islice(itertools.cycle(questions), size)
    arguments = rows(bundle, list(asked), size)
    turns: list[float] = []
    cpu = time.process_time()
    while len(turns) < _FEWEST_TURNS or sum(turns) < seconds:
      began = time.perf_counter()
      bundle.search(*arguments)
      turns.append(time.perf_counter() - began)
    users = size * len(turns)
    found.append(
      {
        "batch": size,
        "seconds": statistics.median(turns),
        "users_per_second": users / sum(turns),
        "cpu_ms_per_user": 1000 * (time.process_time() - cpu) / users,
      }
    )
  return found


class LoadTest:
  """The phases, of one server and the bundle that it serves."""

  def __init__(self, client: Client, bundle: Bundle, seed: int = 0):
    """Compiles the bundle, in this process too."""
    bundle.warm_up()
    self._client, self.bundle = client, bundle
    self._questions = draw_questions(bundle, seed)
    self._requests = make_requests(bundle, self._questions)

  def in_process(self, seconds: float) -> list[Row]:
    """A row for each batch size."""
    return time_searches(
      self.bundle, self._questions, self.bundle.buckets, seconds
    )

  async def capacity(self, batch: int, seconds: float) -> Row:
    """In turns with searches of this batch size in this process."""
    waiting = 2 * max(self.bundle.buckets)
    await closed_loop(self._client, self._requests, waiting, min(1.0, seconds))
    samples, alone, cpu = [], [], 0.0
    for _ in range(_TURNS):
      alone += time_searches(
        self.bundle, self._questions, (batch,), seconds / _TURNS
      )
      cpu -= await self._metric("process_cpu_seconds_total")
      samples += await closed_loop(
        self._client, self._requests, waiting, seconds / _TURNS
      )
      cpu += await self._metric("process_cpu_seconds_total")
    row = _summary(samples, seconds)
    speed = statistics.mean(turn["users_per_second"] for turn in alone)
    return row | {
      "in_process_per_second": speed,
      "share_of_in_process": row["answered_per_second"] / speed,
      "cpu_ms_per_request": 1000 * cpu / len(samples),
      "in_process_cpu_ms_per_user": statistics.mean(
        turn["cpu_ms_per_user"] for turn in alone
      ),
    }

  async def steady(self, rate: float, seconds: float) -> Row:
    """So many arrivals a second."""
    samples = await open_loop(self._client, self._requests, rate, seconds)
    return {"offered_per_second": rate} | _summary(samples, seconds)

  async def overload(self, rate: float, seconds: float) -> Row:
    """As `steady`, and the server's memory on the way."""
    parts, samples = max(1, round(seconds / _MEMORY_EVERY)), []
    memory = [await self._metric("process_resident_memory_bytes")]
    for part in range(parts):
      samples += await open_loop(
        self._client, self._requests, rate, seconds / parts, seed=part
      )
      memory.append(await self._metric("process_resident_memory_bytes"))
    row = {"offered_per_second": rate} | _summary(samples, seconds)
    return row | {"memory_mb": [round(bytes_ / 1e6, 1) for bytes_ in memory]}

  async def _metric(self, name: str) -> float:
    connection = await self._client.open()
    _, text = await connection.ask(
      b"GET /metrics HTTP/1.1\r\nhost: load\r\n\r\n"
    )
    connection.close()
    value = text.decode().partition(f"\n{name} ")[2].split("\n")[0]
    return float(value or "nan")  # some systems do not tell


def _summary(samples: Sequence[Sample], seconds: float) -> Row:
  answered = [s.seconds for s in samples if s.status == 200]
  p50, p99 = np.percentile(answered or [np.nan], [50, 99]).tolist()
  statuses = collections.Counter(str(s.status) for s in samples)
  return {
    "requests": len(samples),
    "statuses": dict(sorted(statuses.items())),
    "answered_per_second": len(answered) / seconds,
    "p50_seconds": p50,
    "p99_seconds": p99,
    "wrong": sum(not s.right for s in samples),
  }
