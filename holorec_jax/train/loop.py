"""The training loop: feed, step, validate, checkpoint, resume.

Metrics are fetched one step late so that the device never waits for the host.
Whatever the loop needs to go on exactly (state, data position, best metric,
patience, sums not yet written) is in the checkpoint: a run that was killed or
stopped, after whatever step, ends with the same parameters, bit for bit on CPU.
"""

import contextlib
from typing import NoReturn

import grain.python as grain
import jax
from absl import logging

from holorec_jax import sharding
from holorec_jax.train import diagnosis
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.flops import make_flops
from holorec_jax.train.meter import Meter, peak_flops
from holorec_jax.train.preemption import Notice, Preempted
from holorec_jax.train.profile import Profile
from holorec_jax.train.progress import METRIC, Progress
from holorec_jax.train.recorder import Recorder
from holorec_jax.train.reporter import NotFinite
from holorec_jax.train.task import Task, TrainConfig
from holorec_jax.types import Batch, TrainState

__all__ = ["METRIC", "Progress", "Task", "TrainConfig", "train"]


def train(task: Task) -> Progress:
  """Trains from the newest checkpoint, or from scratch, to the end.

  Several processes call it alike.

  Returns:
    How training ended.

  Raises:
    UserError: on a loss that is not finite (names the step and the first bad
      tensor), a full disk, or checkpoints of another model.
    Preempted: it was asked to stop, and has saved.
  """
  with Checkpointer(
    task.folder / "checkpoints",
    last=task.config.checkpoints,
    every=task.config.keep_every,
  ) as saver:
    start = task.restore(saver)
    progress = start[2]
    if progress.finished:
      return progress
    try:
      with contextlib.ExitStack() as stack:
        _Run(task, saver, *start, stack).train()
    except NotFinite as error:
      # Its frames and the start hold states, which the search has no room for.
      spoilt = error.with_traceback(None)
      del start
    else:
      return progress
    raise spoilt.because(_find_cause(task, saver, spoilt.step))


class _Run:
  """One process's part in training, from a checkpoint to the next stop."""

  def __init__(
    self,
    task: Task,
    saver: Checkpointer,
    state: TrainState,
    step: int,
    progress: Progress,
    iterator: grain.DatasetIterator,
    stack: contextlib.ExitStack,
  ):
    self._task, self._saver, self._state = task, saver, state
    self._first, self._progress, self._iterator = step + 1, progress, iterator
    peak, flops = peak_flops(task.config.peak_tflops), None
    if peak:
      flops = make_flops(task.objective, state.params, task.codes)
    self._meter = stack.enter_context(Meter(peak, flops))
    self._notice = stack.enter_context(Notice())
    self._profile = stack.enter_context(
      Profile(task.folder / "profile", task.profile)
    )
    self._recorder = Recorder(
      task.course, saver, progress, step, stack, self._meter
    )

  def train(self) -> None:
    """Goes on until all is done; Preempted where it is asked to stop."""
    task, config = self._task, self._task.config
    train_step = task.make_step(task.make_optimizer())
    epochs = config.evaluate_every * task.source.batches_per_epoch
    if self._progress.unjudged:
      if self._notice.came:
        self._stop(self._first - 1)
      if self._judge(self._first - 1):
        return
    for step in range(self._first, task.total_steps + 1):
      self._profile.before(step)
      batch = self._feed()
      self._state, metrics = train_step(self._state, batch, task.codes)
      self._recorder.add(step, metrics)
      self._profile.after(step, metrics)
      stops = self._notice.reached()
      validates = _is_due(step, epochs) or step == task.total_steps
      if not (stops or validates or _is_due(step, config.checkpoint_every)):
        continue
      data = self._iterator.get_state()
      self._recorder.save(step, self._state, validates, data)
      if stops:
        self._stop(step)
      if validates and self._judge(step):
        return

  def _judge(self, step: int) -> bool:
    """Validates; whether training is over."""
    self._recorder.judge(step, self._state)
    if self._progress.finished:
      self._summarise(step, "trained")
    elif self._notice.came:
      self._stop(step)
    return self._progress.finished

  def _stop(self, step: int) -> NoReturn:
    self._saver.wait()
    self._summarise(step, "asked to stop")
    raise Preempted

  def _feed(self) -> Batch:
    with self._meter.waiting():
      rows = next(self._iterator)
      batch = sharding.put_rows(Batch(**rows), self._task.mesh)
    self._meter.read_in(rows, batch)
    return batch

  def _summarise(self, step: int, how: str) -> None:
    task, progress = self._task, self._progress
    self._recorder.end_line()
    best = "not validated yet"
    if progress.best_step:
      best = f"best {METRIC} {progress.best:.4f} at step {progress.best_step}"
    logging.info(
      "%s: %s, step %d of %d, %.0f s; since the start %.0f targets/s with"
      " compilation and validations; %s, newest checkpoint %s",
      task.name,
      how,
      step,
      task.total_steps,
      progress.seconds,
      self._recorder.targets / self._recorder.own_seconds,
      best,
      task.folder / "checkpoints" / str(step),
    )


def _is_due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _find_cause(task: Task, saver: Checkpointer, step: int) -> str:
  """The first tensor of a step that is not finite, in words."""
  state, done, _, iterator = task.restore(saver)
  logging.info(
    "%s: repeating steps %d to %d to find the first bad tensor",
    task.name,
    done + 1,
    step,
  )
  optimizer = task.make_optimizer()
  train_step = task.make_step(optimizer)
  for _ in range(done + 1, step):
    batch = sharding.put_rows(Batch(**next(iterator)), task.mesh)
    state, _ = train_step(state, batch, task.codes)
  batch = sharding.put_rows(Batch(**next(iterator)), task.mesh)
  try:
    found = diagnosis.find_first(
      state, batch, task.codes, task.make_step, optimizer, task.mesh
    )
  except jax.errors.JaxRuntimeError as failure:  # It needs memory of its own.
    return f"the search for the first bad tensor failed ({failure})"
  if found is None:
    return "all tensors of that step are finite, but their norm is not"
  return f"the first bad tensor is the {found}"
