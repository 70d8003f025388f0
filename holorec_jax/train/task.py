"""What is trained, on what, where and how long."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import grain.python as grain
import jax
import optax
from absl import logging
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.data.pipeline import make_iterator
from holorec_jax.errors import UserError
from holorec_jax.precision import Dtype
from holorec_jax.ranges import check_ranges
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.objective import Objective
from holorec_jax.train.optimizer import (
  OptimConfig,
  make_optimizer,
  make_schedule,
)
from holorec_jax.train.progress import Progress
from holorec_jax.train.recorder import Course
from holorec_jax.train.step import (
  init_state,
  make_train_step,
  state_shapes,
)
from holorec_jax.types import TrainState


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Length and rhythm of training.

  Attributes:
    epochs: passes over all training targets.
    evaluate_every: epochs between validations, each of a checkpoint.
    patience: validations without a better NDCG@10 before training stops.
    valid_users: size of the fixed sample of users that is validated on.
    log_every: steps between lines in metrics.jsonl.
    checkpoints: how many of the newest to keep, beside the best.
    checkpoint_every: steps between checkpoints; 0: at validations alone.
    keep_every: checkpoints of steps that this divides are kept, too; 0: none.
    dtype: compute dtype; parameters stay float32.
    peak_tflops: of one device's dense products in that dtype, which
      `speed/mfu` is a share of; 0: the data sheet's, if the device is known.
    seed: of parameters and dropout.
    init_from: a Hugging Face folder of a Qwen3 whose layers generators start
      from; "": all parameters are drawn at random.
  """

  epochs: int = 40
  evaluate_every: int = 2
  patience: int = 5
  valid_users: int = 2000
  log_every: int = 20
  checkpoints: int = 2
  checkpoint_every: int = 0
  keep_every: int = 0
  dtype: Dtype = "float32"
  peak_tflops: float = 0.0
  seed: int = 0
  init_from: str = ""

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
      checkpoint_every="[0, inf)",
      keep_every="[0, inf)",
      peak_tflops="[0, inf)",
      seed="[0, inf)",
    )


@dataclasses.dataclass(frozen=True)
class Task:
  """What is trained, on what, where and how long.

  Attributes:
    objective: the model and its loss.
    source: batches, from `data.pipeline.make_source`; of several processes
      each has its own share of the rows.
    codes: the catalogue's codes on device.
    validate: averaged parameters -> metrics, `METRIC` among them. Every process
      calls it; what process 0 finds counts.
    mesh: where to train.
    optim_config: optimiser and schedule.
    config: length and rhythm.
    folder: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
    name: shown beside the progress bar.
    profile: first and last step of a trace in `profile/`; None: no trace.
    read_initial: reads the parameters that a start takes from elsewhere: of
      the first names of the tree, the parts by name; None: all are random.
  """

  objective: Objective
  source: Any
  codes: Codes
  validate: Callable[[dict], dict[str, float]]
  mesh: Mesh
  optim_config: OptimConfig
  config: TrainConfig
  folder: pathlib.Path
  name: str = "train"
  profile: tuple[int, int] | None = None
  read_initial: Callable[[], dict[str, dict]] | None = None

  @property
  def total_steps(self) -> int:
    return self.config.epochs * self.source.batches_per_epoch

  @property
  def course(self) -> Course:
    return Course(
      self.name,
      self.folder,
      self.total_steps,
      self.config.patience,
      self.config.log_every,
      self.validate,
      "config.optim.learning_rate",
    )

  def make_optimizer(self) -> optax.GradientTransformation:
    return make_optimizer(self.optim_config, self.total_steps)

  def start(self) -> TrainState:
    """The state of step 0."""
    state = init_state(
      self.objective, self.make_optimizer(), self.config.seed, self.mesh
    )
    if self.read_initial is None:
      return state
    initial = self.read_initial()
    return dataclasses.replace(
      state,
      params=_begin_with(state.params, initial),
      average=_begin_with(state.average, initial),
    )

  def shapes(self) -> TrainState:
    """Shapes of the state and where it lies: a restart has no room for two."""
    return state_shapes(self.objective, self.make_optimizer(), self.mesh)

  def make_step(self, optimizer: optax.GradientTransformation) -> Callable:
    """step(state, batch, codes) -> (state, metrics); takes state's memory."""
    return make_train_step(
      self.objective,
      optimizer,
      self.mesh,
      self.config.seed,
      self.optim_config.average_decay,
      self.config.dtype,
      self.optim_config.accumulate,
      make_schedule(self.optim_config, self.total_steps),
    )

  def restore(
    self, saver: Checkpointer
  ) -> tuple[TrainState, int, Progress, grain.DatasetIterator]:
    """State, step, progress, data of the newest checkpoint, or of a start.

    Raises:
      UserError: no checkpoint is whole, or they are of another model or of
        batches of another size.
    """
    iterator = make_iterator(self.source)
    rows = self.source.rows_per_batch
    restored = saver.restore(self.shapes())
    if restored is None:
      return self.start(), 0, Progress(rows_per_batch=rows), iterator
    progress = Progress(**restored.loop)
    if progress.rows_per_batch not in (0, rows):
      raise UserError(
        f"{self.folder / 'checkpoints'} counts steps of"
        f" {progress.rows_per_batch} rows, but here a batch has {rows}, as rows"
        " are a multiple of 8 and of the devices that share them times"
        " config.optim.accumulate: go on with numbers of these (config.mesh)"
        f" whose product divides {progress.rows_per_batch}"
      )
    iterator.set_state(restored.data)
    logging.info("%s: going on from step %d", self.name, restored.step)
    return restored.state, restored.step, progress, iterator


def _begin_with(params: dict, initial: dict[str, dict]) -> dict:
  """Parameters with parts of them replaced, which lie where those did."""
  replaced = {}
  for name, parts in initial.items():
    known = {part: params[name][part] for part in parts}
    placed = jax.tree.map(
      lambda new, old: sharding.put(new, old.sharding), parts, known
    )
    replaced[name] = params[name] | placed
  return params | replaced
