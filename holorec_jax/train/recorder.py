"""What both training loops keep of a run: metrics, validations, checkpoints."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
from tqdm import tqdm

from holorec_jax import processes
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.meter import Meter
from holorec_jax.train.progress import METRIC, Progress
from holorec_jax.train.reporter import Reporter
from holorec_jax.train.writers import MetricWriter
from holorec_jax.types import TrainState


@dataclasses.dataclass(frozen=True)
class Course:
  """How long a run is and how it is judged.

  Attributes:
    name: shown beside the progress bar.
    folder: gets `metrics.jsonl` and TensorBoard events.
    total_steps: at which it ends.
    patience: validations without a better METRIC before it ends.
    log_every: steps between lines.
    validate: averaged parameters -> metrics, METRIC among them. Every process
      calls it; what process 0 finds counts.
    rate: the config's leaf of the learning rate.
  """

  name: str
  folder: pathlib.Path
  total_steps: int
  patience: int
  log_every: int
  validate: Callable[[dict], dict[str, float]]
  rate: str


class Recorder:
  """Records one process's part in a run, from a checkpoint to the next stop.

  Args:
    course: of the run.
    saver: of its checkpoints.
    progress: as the last checkpoint has it; is kept up to date.
    step: of that checkpoint.
    stack: closes what is opened here.
    meter: of the machine.
  """

  def __init__(
    self,
    course: Course,
    saver: Checkpointer,
    progress: Progress,
    step: int,
    stack: contextlib.ExitStack,
    meter: Meter | None = None,
  ):
    self._course, self._saver, self._progress = course, saver, progress
    writer = None
    if processes.is_first():
      # The lines of a step that is not judged yet come behind its checkpoint.
      last = step - progress.unjudged
      writer = stack.enter_context(MetricWriter(course.folder, last))
    self._bar = stack.enter_context(
      tqdm(
        total=course.total_steps,
        initial=step,
        desc=course.name,
        unit="step",
        disable=not processes.is_first(),
      )
    )
    mend = f"lower {course.rate} and start without {course.folder}/checkpoints"
    self._reporter = Reporter(writer, self._bar, course.log_every, mend, meter)
    self._reporter.resume(progress.unwritten)
    self._pending: tuple[int, dict[str, jax.Array]] | None = None
    self._before, self._clock = progress.seconds, time.perf_counter()

  @property
  def own_seconds(self) -> float:
    """This process's part of the progress's seconds."""
    return self._total_seconds() - self._before

  @property
  def targets(self) -> float:
    """Trained on in the meantime."""
    return self._reporter.targets

  def end_line(self) -> None:
    """Ends the bar's line, for what is printed behind it."""
    self._bar.close()

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes a step's metrics, and reads those of the step before.

    One step late: the device is busy while the host reads.

    Raises:
      NotFinite: as `Reporter.add`.
    """
    self._catch_up()
    self._pending = step, metrics

  def _catch_up(self, writes: bool = True) -> None:
    if self._pending is not None:
      self._reporter.add(*self._pending, writes)
    self._pending = None

  def save(
    self, step: int, state: TrainState, validates: bool, data: Any = None
  ) -> None:
    """A checkpoint after a step.

    Args:
      step: which was the last.
      state: after it.
      validates: whether `judge` is to follow, now or after a restart.
      data: JSON of the data iterator.
    """
    self._catch_up(writes=not validates)
    self._progress.unjudged = validates
    self._saver.save(step, state, data=data, loop=self._describe_loop())

  def judge(self, step: int, state: TrainState) -> None:
    """Validates the average of a state that was saved to be judged.

    What was found is added to the checkpoint, and whether the run is finished
    to the progress. The checkpoint is written in the meantime, and a run that
    is killed in here has lost no step.
    """
    self._reporter.flush(step)
    found = self._course.validate(state.average)
    measured = processes.from_first(lambda: found)
    self._reporter.validated(step, measured)
    progress = self._progress
    progress.count(step, measured[METRIC])
    progress.finished = (
      step == self._course.total_steps
      or progress.stale >= self._course.patience
    )
    progress.unjudged = False
    self._saver.judge(step, measured[METRIC], self._describe_loop())

  def _describe_loop(self) -> dict[str, Any]:
    self._progress.seconds = self._total_seconds()
    self._progress.unwritten = self._reporter.unwritten
    return dataclasses.asdict(self._progress)

  def _total_seconds(self) -> float:
    return self._before + time.perf_counter() - self._clock
