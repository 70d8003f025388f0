"""The queue: sizes of batches, bounds, deadlines, who leaves early."""

import asyncio
import threading

import pytest

from holorec_jax.serve.batching import Batcher, DeadlineError, QueueFullError

# Four at once take as long as two one by one.
SECONDS = {1: 1.0, 4: 2.0, 16: 10.0}


class Gate:
  """Squares, once it is opened, and notes its batches."""

  def __init__(self):
    self.opened = threading.Event()
    self.entered = threading.Event()
    self.batches = []

  def __call__(self, questions, size):
    self.entered.set()
    assert self.opened.wait(10)
    self.batches.append((list(questions), size))
    return [question**2 for question in questions]


def run(ask, capacity=100, deadline=10.0):
  """Runs `await ask(batcher, gate)` and then drains."""

  async def main():
    gate = Gate()
    batcher = Batcher(gate, SECONDS, capacity, deadline)
    try:
      return await ask(batcher, gate)
    finally:
      gate.opened.set()
      await batcher.drain()

  return asyncio.run(main())


async def start(batcher, gate, questions):
  """Tasks; the first one is being answered, the others wait."""
  first = asyncio.create_task(batcher.ask(questions[0]))
  await asyncio.to_thread(gate.entered.wait, 10)
  others = [asyncio.create_task(batcher.ask(q)) for q in questions[1:]]
  await asyncio.sleep(0)
  return [first, *others]


def test_what_waits_is_answered_in_the_batches_that_answer_most():
  async def ask(batcher, gate):
    tasks = await start(batcher, gate, range(8))
    gate.opened.set()
    return await asyncio.gather(*tasks), gate.batches

  answers, batches = run(ask)
  assert answers == [0, 1, 4, 9, 16, 25, 36, 49]
  # Three in four take less than one by one; sixteen would be mostly empty.
  assert batches == [([0], 1), ([1, 2, 3, 4], 4), ([5, 6, 7], 4)]


def test_a_single_question_takes_the_smallest_batch():
  async def ask(batcher, gate):
    gate.opened.set()
    return await batcher.ask(3), gate.batches

  assert run(ask) == (9, [([3], 1)])


def test_a_full_queue_refuses_and_says_when_to_come_back():
  async def ask(batcher, gate):
    tasks = await start(batcher, gate, range(4))
    with pytest.raises(QueueFullError) as error:
      await batcher.ask(99)
    gate.opened.set()
    return await asyncio.gather(*tasks), error.value.retry_after

  answers, retry_after = run(ask, capacity=3)
  assert answers == [0, 1, 4, 9]
  assert retry_after == pytest.approx(3 * 2.0 / 4)


def test_the_late_and_the_cancelled_leave_the_queue():
  async def ask(batcher, gate):
    tasks = await start(batcher, gate, range(3))
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
      await tasks[1]
    assert len(batcher) == 1
    for task in (tasks[0], tasks[2]):
      with pytest.raises(DeadlineError):
        await task
    assert len(batcher) == 0
    gate.opened.set()
    return await batcher.ask(5), gate.batches

  answer, batches = run(ask, deadline=0.2)
  assert answer == 25
  assert [questions for questions, _ in batches] == [[0], [5]]


def test_a_failed_batch_is_told_and_the_next_one_answered():
  async def main():
    batcher = Batcher(lambda qs, _: [1 / q for q in qs], {1: 1.0}, 9, 10.0)
    with pytest.raises(ZeroDivisionError):
      await batcher.ask(0)
    answer = await batcher.ask(4)
    await batcher.drain()
    return answer

  assert asyncio.run(main()) == 0.25


def test_draining_answers_what_waits():
  async def ask(batcher, gate):
    tasks = await start(batcher, gate, range(6))
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    gate.opened.set()
    await draining
    return await asyncio.gather(*tasks)

  assert run(ask) == [0, 1, 4, 9, 16, 25]
