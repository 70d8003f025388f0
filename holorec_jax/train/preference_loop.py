"""The loop of preference alignment: draw, update, validate, checkpoint, resume.

As `train.loop`, with rounds in place of epochs. The supervised model itself is
the first candidate (step 0), so the best checkpoint is never worse than it on
validation. Checkpoints are made between rounds only: then the policy that the
next round draws from is the one in the checkpoint, histories and draws follow
from the step, and a run that was stopped or killed ends as if it had not been.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.data.windows import TargetWindows
from holorec_jax.precision import Dtype
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.optimizer import OptimConfig, make_optimizer
from holorec_jax.train.preemption import Notice, Preempted
from holorec_jax.train.preference import (
  Experience,
  Ground,
  PreferenceConfig,
  PreferenceObjective,
  make_collect,
)
from holorec_jax.train.progress import Progress
from holorec_jax.train.recorder import Course, Recorder
from holorec_jax.train.step import make_train_step, state_shapes
from holorec_jax.types import TrainState


def make_optimizer_like(
  optim_config: OptimConfig, config: PreferenceConfig
) -> optax.GradientTransformation:
  """Training's optimiser with alignment's learning rate."""
  own = dataclasses.replace(
    optim_config,
    learning_rate=config.learning_rate,
    warmup_share=config.warmup_share,
  )
  return make_optimizer(own, config.steps)


@dataclasses.dataclass(frozen=True)
class AlignTask:
  """What is aligned, on what and where.

  Attributes:
    objective: the policy with its losses, and how long.
    reference: float32 parameters of the supervised model, stored as training
      stores them.
    windows: histories and what came next; rows divide over the mesh. Of
      several processes each has its own share of them.
    ground: the catalogue, replicated over the mesh.
    validate: averaged parameters -> metrics, `METRIC` among them. Every process
      calls it; what process 0 finds counts.
    mesh: where to train; rows are single histories, so `sequence` is 1.
    optim_config: of supervised training.
    dtype: compute dtype.
    folder: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
    name: shown beside the progress bar.
  """

  objective: PreferenceObjective
  reference: dict
  windows: TargetWindows
  ground: Ground
  validate: Callable[[dict], dict[str, float]]
  mesh: Mesh
  optim_config: OptimConfig
  dtype: Dtype
  folder: pathlib.Path
  name: str = "align"

  @property
  def config(self) -> PreferenceConfig:
    return self.objective.config

  @property
  def course(self) -> Course:
    return Course(
      self.name,
      self.folder,
      self.config.steps,
      self.config.patience,
      self.config.log_every,
      self.validate,
      "config.preference.learning_rate",
    )

  def make_optimizer(self) -> optax.GradientTransformation:
    return make_optimizer_like(self.optim_config, self.config)

  def start(self) -> TrainState:
    """The supervised parameters, not yet aligned."""
    optimizer = self.make_optimizer()

    def create(params):
      # Copies: the step takes the state's memory, the reference keeps its own.
      return TrainState(
        step=jnp.int32(0),
        params=jax.tree.map(jnp.copy, params),
        average=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
      )

    places = jax.tree.map(lambda x: x.sharding, self.shapes())
    return jax.jit(create, out_shardings=places)(self.reference)

  def shapes(self) -> TrainState:
    """Shapes of the state and where it lies."""
    return state_shapes(
      self.objective.supervised, self.make_optimizer(), self.mesh
    )

  def make_update(self) -> Callable:
    """update(state, experience) -> (state, metrics); takes state's memory."""
    # Of experience on its ground, where others are of a batch and its codes.
    objective: Any = self.objective
    step = make_train_step(
      objective,
      self.make_optimizer(),
      self.mesh,
      self.config.seed,
      self.optim_config.average_decay,
      self.dtype,
    )
    return lambda state, experience: step(state, experience, self.ground)

  def make_draw(self) -> Callable[[dict, int], list[Experience]]:
    """draw(params, step) -> the batches of the round that begins at a step."""
    config = self.config
    collect = make_collect(self.objective, self.mesh, self.dtype)
    # Not the key of the updates, which count from the same seed.
    key = jax.random.fold_in(jax.random.key(config.seed), config.steps)

    def draw(params: dict, step: int) -> list[Experience]:
      first = step // config.updates_per_round * config.batches_per_round
      drawn = []
      for batch in range(first, first + config.batches_per_round):
        columns = sharding.put_rows(self.windows[batch], self.mesh)
        drawn.append(
          collect(
            params,
            self.reference,
            self.ground,
            columns["item_BT"],
            columns["target_BW"],
            jax.random.fold_in(key, batch),
          )
        )
      return drawn

    return draw


def align(task: AlignTask) -> Progress:
  """Aligns from the newest checkpoint, or from the start, to the end.

  Several processes call it alike.

  Returns:
    How alignment ended.

  Raises:
    UserError: on a loss that is not finite (names the step), a full disk, or
      checkpoints of another model.
    Preempted: it was asked to stop, and has saved after the round at hand or,
      of several processes, the one after it.
  """
  with Checkpointer(task.folder / "checkpoints") as saver:
    restored = saver.restore(task.shapes())
    if restored is None:
      # The start is a candidate, to be judged as any other.
      state, step, progress = task.start(), 0, Progress(unjudged=True)
    else:
      state, step = restored.state, restored.step
      progress = Progress(**restored.loop)
      logging.info("%s: going on from step %d", task.name, step)
    if not progress.finished:
      with contextlib.ExitStack() as stack:
        _Run(task, saver, state, step, progress, stack).align()
    return progress


class _Run:
  """One process's part in alignment, from a checkpoint to the next stop."""

  def __init__(
    self,
    task: AlignTask,
    saver: Checkpointer,
    state: TrainState,
    step: int,
    progress: Progress,
    stack: contextlib.ExitStack,
  ):
    self._task, self._saver, self._state = task, saver, state
    self._step, self._progress = step, progress
    self._notice = stack.enter_context(Notice())
    self._recorder = Recorder(task.course, saver, progress, step, stack)

  def align(self) -> None:
    """Whole rounds until all is done; Preempted where it is asked to stop."""
    draw, update = self._task.make_draw(), self._task.make_update()
    config = self._task.config
    if self._progress.unjudged:
      # Of a start alone; a checkpoint is there already.
      self._recorder.save(self._step, self._state, validates=True)
      self._stop_if(self._notice.came)
      self._judge()
    stops = False
    while not self._progress.finished:
      batches = draw(self._state.params, self._step)
      for number in range(config.updates_per_round):
        batch = batches[number % len(batches)]
        self._state, metrics = update(self._state, batch)
        self._step += 1
        self._recorder.add(self._step, metrics)
        stops |= self._notice.reached()
      validates = self._step % config.updates_per_validation == 0
      validates |= self._step == config.steps
      if stops or validates:
        self._recorder.save(self._step, self._state, validates)
        self._stop_if(stops)
      if validates:
        self._judge()

  def _judge(self) -> None:
    self._recorder.judge(self._step, self._state)
    self._stop_if(self._notice.came and not self._progress.finished)

  def _stop_if(self, asked: bool) -> None:
    """After a save."""
    if asked:
      self._saver.wait()
      raise Preempted
