"""The training loop: feed, step, validate, checkpoint, resume.

Metrics are fetched one step late so that the device never waits for the host.
Whatever the loop needs to go on exactly (state, data position, best metric,
patience) is in the checkpoint; a run that was killed ends with the same
parameters, bit for bit on CPU.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import grain.python as grain
import jax
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.data.pipeline import make_iterator
from holorec_jax.errors import UserError
from holorec_jax.precision import Dtype
from holorec_jax.ranges import check_ranges
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.objective import Objective
from holorec_jax.train.optimizer import OptimConfig, make_optimizer
from holorec_jax.train.step import init_state, make_train_step
from holorec_jax.train.writers import MetricWriter
from holorec_jax.types import Batch, TrainState

METRIC = "valid/ndcg@10"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length and rhythm of training.

  Attributes:
    epochs: passes over all training targets.
    evaluate_every: epochs between validations, each followed by a checkpoint.
    patience: validations without a better NDCG@10 before training stops.
    valid_users: size of the fixed sample of users that is validated on.
    log_every: steps between lines in metrics.jsonl.
    checkpoints: how many of the newest to keep, beside the best.
    dtype: compute dtype; parameters stay float32.
    seed: of parameters and dropout.
  """

  epochs: int = 40
  evaluate_every: int = 2
  patience: int = 5
  valid_users: int = 2000
  log_every: int = 20
  checkpoints: int = 2
  dtype: Dtype = "float32"
  seed: int = 0

  def __post_init__(self):
    check_ranges(
      self,
      "config.train",
      epochs="[1, inf)",
      evaluate_every="[1, inf)",
      patience="[1, inf)",
      valid_users="[1, inf)",
      log_every="[1, inf)",
      checkpoints="[1, inf)",
      seed="[0, inf)",
    )


@dataclasses.dataclass
class Progress:
  """What the loop knows beside the state; saved as JSON.

  Attributes:
    best: best validation metric.
    best_step: its step.
    stale: validations since.
    seconds: training time, validations and restarts included.
    finished: the run is over (all epochs, or out of patience).
  """

  best: float = -1.0
  best_step: int = 0
  stale: int = 0
  seconds: float = 0.0
  finished: bool = False

  def count(self, step: int, metric: float, seconds: float) -> None:
    """Takes a validation into account."""
    self.seconds = seconds
    self.stale = 0 if metric > self.best else self.stale + 1
    if metric >= self.best:
      # Of equals the later one, as checkpoints are ranked.
      self.best, self.best_step = metric, step


class Reporter:
  """Sums step metrics; writes means to metrics.jsonl and the progress bar."""

  def __init__(self, writer: MetricWriter, bar: tqdm, log_every: int):
    self._writer = writer
    self._bar = bar
    self._log_every = log_every
    self._sums: dict[str, float] = {}
    self._steps = 0
    self._since = time.perf_counter()

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes one step's metrics; waits for the step to be done.

    Raises:
      UserError: the loss is not finite, or its gradient (which spoils the
        parameters one step before the loss shows it).
    """
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    for name, what in (("loss", "loss"), ("gradient_norm", "gradient norm")):
      if not math.isfinite(values[name]):
        raise UserError(
          f"the {what} is {values[name]} at step {step}; training stopped"
          " before a checkpoint could be spoilt. Lower optim.learning_rate or"
          " optim.clip_norm and start again in another --workdir, or run again"
          " to go on from the last checkpoint."
        )
    self._bar.update()
    for key, value in values.items():
      self._sums[key] = self._sums.get(key, 0.0) + value
    self._steps += 1
    if step % self._log_every == 0:
      self.flush(step)

  def validated(self, step: int, metrics: dict[str, float]) -> None:
    """Writes validation metrics."""
    self._writer.write(step, metrics)
    self._bar.set_postfix_str(f"{METRIC} {metrics[METRIC]:.4f}")
    self._since = time.perf_counter()

  def flush(self, step: int) -> None:
    """Writes the means of the steps since the last line, if any."""
    if not self._steps:
      return
    targets = self._sums.pop("targets")
    norm = self._sums.pop("gradient_norm") / self._steps
    means = {f"train/{k}": v / targets for k, v in self._sums.items()}
    now = time.perf_counter()
    speed = targets / (now - self._since)
    self._bar.set_postfix_str(
      f"loss {means['train/loss']:.3f}, {speed:.0f} targets/s"
    )
    self._writer.write(
      step,
      means | {"train/gradient_norm": norm, "train/targets_per_second": speed},
    )
    self._since = now
    self._steps = 0
    self._sums.clear()


def _restore(
  saver: Checkpointer, state: TrainState, source: Any, name: str
) -> tuple[TrainState, int, Progress, grain.DatasetIterator]:
  """State, step, progress and data of the newest checkpoint, or of a start."""
  restored, iterator = saver.restore(state), make_iterator(source)
  if restored is None:
    return state, 0, Progress(), iterator
  iterator.set_state(restored.data)
  logging.info("%s: going on from step %d", name, restored.step)
  return restored.state, restored.step, Progress(**restored.loop), iterator


def train(
  objective: Objective,
  source: Any,
  codes: Codes,
  validate: Callable[[dict], dict[str, float]],
  mesh: Mesh,
  optim_config: OptimConfig,
  config: TrainConfig,
  folder: pathlib.Path,
  name: str = "train",
) -> Progress:
  """Trains from the newest checkpoint, or from scratch, to the end.

  Args:
    objective: the model and its loss.
    source: batches, from `data.pipeline.make_source`.
    codes: the catalogue's codes on device.
    validate: averaged parameters -> metrics, `METRIC` among them.
    mesh: where to train.
    optim_config: optimiser and schedule.
    config: length and rhythm.
    folder: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
    name: shown beside the progress bar.

  Returns:
    How training ended.

  Raises:
    UserError: on a loss that is not finite (names the step), a full disk, or
      checkpoints of another model.
  """
  total_steps = config.epochs * source.batches_per_epoch
  optimizer = make_optimizer(optim_config, total_steps)
  state = init_state(objective, optimizer, config.seed, mesh)
  with Checkpointer(folder / "checkpoints", last=config.checkpoints) as saver:
    state, start_step, progress, iterator = _restore(saver, state, source, name)
    if progress.finished:
      return progress
    train_step = make_train_step(
      objective,
      optimizer,
      mesh,
      config.seed,
      optim_config.average_decay,
      config.dtype,
    )
    with (
      MetricWriter(folder, start_step) as writer,
      tqdm(
        total=total_steps, initial=start_step, desc=name, unit="step"
      ) as bar,
    ):
      reporter = Reporter(writer, bar, config.log_every)
      began = time.perf_counter() - progress.seconds
      every = config.evaluate_every * source.batches_per_epoch
      pending = None
      for step in range(start_step + 1, total_steps + 1):
        batch = sharding.put_rows(Batch(**next(iterator)), mesh)
        state, metrics = train_step(state, batch, codes)
        # One step late: the device is busy while the host reads.
        if pending is not None:
          reporter.add(step - 1, pending)
        pending = metrics
        if step % every and step < total_steps:
          continue
        reporter.add(step, pending)
        pending = None
        reporter.flush(step)
        measured = validate(state.average)
        reporter.validated(step, measured)
        progress.count(step, measured[METRIC], time.perf_counter() - began)
        progress.finished = (
          step == total_steps or progress.stale >= config.patience
        )
        saver.save(
          step,
          state,
          data=iterator.get_state(),
          loop=dataclasses.asdict(progress),
          metric=measured[METRIC],
        )
        if progress.finished:
          break
  return progress
