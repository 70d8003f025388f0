"""Questions that arrive one by one, answered in batches of a few sizes.

A worker thread forms a batch whenever the device is free, from what waits at
that moment, so that the device never idles while something waits and nothing
waits for a batch to fill up. Of the compiled sizes it takes the one that
answers most questions a second: three questions go into a batch of eight where
that costs little more than three of one, as it does on an accelerator.
"""

import asyncio
import collections
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class QueueFullError(Exception):
  """No room to wait in; `retry_after` seconds from now there may be."""

  def __init__(self, retry_after: float):
    super().__init__("too many requests are waiting")
    self.retry_after = retry_after


class DeadlineError(Exception):
  """The answer did not come in time; the question no longer waits."""


class Batcher(Generic[Question, Answer]):
  """A bounded queue and the thread that empties it."""

  def __init__(
    self,
    run: Callable[[Sequence[Question], int], Sequence[Answer]],
    seconds: Mapping[int, float],
    capacity: int,
    deadline: float,
  ):
    """Starts the thread.

    Args:
      run: answers some questions, in order, in a batch of a given size that is
        at least their number; only ever called by the worker thread.
      seconds: of one run, by batch size.
      capacity: questions that may wait.
      deadline: seconds until a question is given up.
    """
    self._run = run
    self._seconds = dict(sorted(seconds.items()))
    self._capacity = capacity
    self._deadline = deadline
    self._waiting: collections.OrderedDict[asyncio.Future, Question] = (
      collections.OrderedDict()
    )
    self._closed = False
    self._changed = threading.Condition()
    self._thread = threading.Thread(
      target=self._work, name="search", daemon=True
    )
    self._thread.start()

  def __len__(self) -> int:
    """Questions that wait; those being answered do not."""
    return len(self._waiting)

  async def ask(self, question: Question) -> Answer:
    """The answer. Who is cancelled while waiting leaves the queue.

    Raises:
      QueueFullError: at once.
      DeadlineError: after the deadline.
      Exception: whatever `run` raised.
    """
    if len(self._waiting) >= self._capacity:
      raise QueueFullError(self._seconds_to_answer(len(self._waiting)))
    future = asyncio.get_running_loop().create_future()
    with self._changed:
      self._waiting[future] = question
      self._changed.notify()
    try:
      async with asyncio.timeout(self._deadline):
        return await future
    except TimeoutError:
      raise DeadlineError from None
    finally:
      with self._changed:
        self._waiting.pop(future, None)

  async def drain(self) -> None:
    """Answers what waits, then ends the thread; nothing may be asked after."""
    with self._changed:
      self._closed = True
      self._changed.notify()
    await asyncio.to_thread(self._thread.join)

  def _seconds_to_answer(self, questions: int) -> float:
    return questions * min(s / size for size, s in self._seconds.items())

  def _best_size(self, questions: int) -> int:
    """Of sizes that are equally good the smallest."""
    return max(
      self._seconds, key=lambda size: min(size, questions) / self._seconds[size]
    )

  def _work(self) -> None:
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._waiting or self._closed)
        if not self._waiting:
          return
        size = self._best_size(len(self._waiting))
        count = min(size, len(self._waiting))
        batch = [self._waiting.popitem(last=False) for _ in range(count)]
      futures, questions = zip(*batch)
      answers: Sequence[Answer | Exception]
      try:
        answers = self._run(questions, size)
      except Exception as error:
        # One failed batch is no reason to stop answering the next.
        answers = [error] * count
      futures[0].get_loop().call_soon_threadsafe(_deliver, futures, answers)


def _deliver(futures: Sequence[asyncio.Future], answers: Sequence) -> None:
  for future, answer in zip(futures, answers):
    if future.done():  # cancelled, or too late
      continue
    if isinstance(answer, Exception):
      future.set_exception(answer)
    else:
      future.set_result(answer)
