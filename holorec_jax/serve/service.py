"""The bundle that answers now, and how another takes its place.

A new bundle is loaded, verified, warmed up and asked the golden request while
the old one goes on answering. Only then does it get the requests that arrive;
those that had arrived are answered by the old one. If anything fails nothing
has changed. An item delta makes such a new bundle of the present one.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from holorec_jax.errors import UserError
from holorec_jax.export import runtime
from holorec_jax.serve import logs
from holorec_jax.serve.batching import Batcher
from holorec_jax.serve.metrics import Metrics
from holorec_jax.serve.schemas import RecommendRequest, RecommendResponse
from holorec_jax.serve.searching import Searcher

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class QueueConfig:
  """How long requests wait.

  Attributes:
    batches: what may wait, in batches of the largest size.
    deadline: seconds from arrival until a request is given up.
  """

  batches: int = 4
  deadline: float = 5.0


def _is_foreseen(error: Exception) -> bool:
  return isinstance(error, runtime.BundleError | OSError)


class NotReadyError(Exception):
  """No bundle is loaded yet."""


class SwapRunningError(Exception):
  """Another bundle is being loaded at the moment."""


@dataclasses.dataclass(frozen=True)
class _Serving:
  searcher: Searcher
  batcher: Batcher
  seconds: dict[int, float]


class Service:
  """Answers requests from the bundle that was loaded last.

  Attributes:
    metrics: of everything that happens here.
  """

  def __init__(
    self, path: str, config: QueueConfig, deltas: Sequence[str] = ()
  ):
    """Loads nothing yet; `swap` does.

    Args:
      path: folder of the bundle.
      config: of the queue.
      deltas: folders of item deltas for it, in order.
    """
    self._path = path
    self._deltas = tuple(deltas)
    self._config = config
    self._serving: _Serving | None = None
    self._unavailable: frozenset[str] = frozenset()
    self._changing: asyncio.Task | None = None
    self.metrics = Metrics(self._queue_length)

  @property
  def bundle(self) -> runtime.Bundle | None:
    """That answers; None before there is one."""
    return self._serving.searcher.bundle if self._serving else None

  @property
  def version(self) -> str | None:
    """Of the bundle that answers; None before there is one."""
    return self._serving.searcher.version if self._serving else None

  async def recommend(self, request: RecommendRequest) -> RecommendResponse:
    """Raises NotReadyError, InvalidRequestError and what `Batcher.ask` does."""
    serving = self._serving
    if serving is None:
      raise NotReadyError
    question, unknown = serving.searcher.understand(request)
    found = await serving.batcher.ask(question)
    return serving.searcher.respond(question, found, unknown)

  async def swap(
    self, path: str | None = None, deltas: Sequence[str] = ()
  ) -> tuple[str, str | None]:
    """Answers from another bundle; no request is dropped.

    Args:
      path: of its folder; None: the one named at the start, read again with
        the deltas named there.
      deltas: folders of further item deltas, in order.

    Returns:
      The versions of the new bundle and the old one.

    Raises:
      SwapRunningError: at once.
      UserError: the bundle cannot be used, and why; the old one goes on.
    """
    if path is None:
      path, deltas = self._path, (*self._deltas, *deltas)
    return await self._replace(
      path, lambda: self._load(path, deltas), deltas=list(deltas)
    )

  async def apply_delta(self, path: str) -> tuple[str, str | None]:
    """Answers from the present bundle with an item delta; otherwise as `swap`.

    Raises:
      NotReadyError: no bundle is loaded yet.
    """
    if self._serving is None:
      raise NotReadyError
    return await self._replace(path, lambda: self._load_delta(path))

  async def _replace(
    self, path: str, load: Callable[[], "_Serving"], **noted: Any
  ) -> tuple[str, str | None]:
    """Serves what is loaded from a path, or goes on as before."""

    async def change() -> tuple[str, str | None]:
      old = self._serving
      try:
        new = await asyncio.to_thread(load)
      except Exception as error:
        # Whatever it is: the old bundle does answer.
        self.metrics.swaps.labels("refused").inc()
        log = logs.event if _is_foreseen(error) else logs.defect
        log("bundle_refused", path=path, kept=self.version, reason=str(error))
        raise UserError(f"{path} cannot be served: {error}") from error
      self._serving = new
      self.metrics.swaps.labels("done").inc()
      self.metrics.set_bundle(new.searcher.version)
      before = old.searcher.version if old else None
      version = new.searcher.version
      logs.event(
        "bundle_loaded", path=path, bundle=version, previous=before, **noted
      )
      if old:
        await old.batcher.drain()
      return version, before

    return await self._alone(change)

  async def _alone(self, change: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Changes what is served; goes on where the caller has gone away.

    Raises:
      SwapRunningError: at once, while another change is at work.
    """
    if self._changing is not None and not self._changing.done():
      raise SwapRunningError
    self._changing = asyncio.create_task(change())
    # Where nobody waits for it any more, nobody is told of its error.
    self._changing.add_done_callback(
      lambda task: task.cancelled() or task.exception()
    )
    return await asyncio.shield(self._changing)

  async def set_unavailable(self, ids: Sequence[str]) -> tuple[int, list[str]]:
    """Recommends these items to nobody, after any swap either.

    Returns:
      How many items of the catalogue these are, and the ids it lacks.

    Raises:
      NotReadyError, SwapRunningError: at once.
    """
    if self._serving is None:
      raise NotReadyError
    searcher = self._serving.searcher

    async def change() -> tuple[int, list[str]]:
      self._unavailable = frozenset(ids)
      unknown = await asyncio.to_thread(
        searcher.set_unavailable, self._unavailable
      )
      known = len(self._unavailable) - len(unknown)
      logs.event("availability", unavailable=known, unknown=len(unknown))
      return known, unknown

    return await self._alone(change)

  async def close(self) -> None:
    """Answers what waits, then ends."""
    if self._serving:
      await self._serving.batcher.drain()

  def _queue_length(self) -> int:
    return len(self._serving.batcher) if self._serving else 0

  def _load(self, path: str, deltas: Sequence[str]) -> _Serving:
    """Everything that can fail or takes long."""
    bundle = runtime.load(path)
    for delta in deltas:
      bundle = bundle.apply_delta(delta)
    searcher = self._search(bundle)
    return self._serve(searcher, searcher.measure())

  def _load_delta(self, path: str) -> _Serving:
    """Likewise; what is compiled already takes as long as before."""
    serving = self._serving
    assert serving is not None  # `apply_delta` looks
    bundle = serving.searcher.bundle.apply_delta(path)
    return self._serve(self._search(bundle), serving.seconds)

  def _search(self, bundle: runtime.Bundle) -> Searcher:
    searcher = Searcher(bundle, self.metrics)
    if self._unavailable:
      searcher.set_unavailable(self._unavailable)
    return searcher

  def _serve(self, searcher: Searcher, seconds: dict[int, float]) -> _Serving:
    batcher = Batcher(
      searcher.run,
      seconds,
      capacity=self._config.batches * max(seconds),
      deadline=self._config.deadline,
    )
    return _Serving(searcher, batcher, seconds)
