"""The loop of preference alignment: draw, update, validate, checkpoint, resume.

As `train.loop`, with rounds in place of epochs. The supervised model itself is
the first candidate (step 0), so the best checkpoint is never worse than it on
validation. Checkpoints are made between rounds only: then the policy that the
next round draws from is the one in the checkpoint, histories and draws follow
from the step, and a run that was killed ends as if it had not been.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.data.windows import TargetWindows
from holorec_jax.precision import Dtype
from holorec_jax.train.checkpoint import Checkpointer
from holorec_jax.train.loop import METRIC, Progress, Reporter
from holorec_jax.train.optimizer import OptimConfig, make_optimizer
from holorec_jax.train.preference import (
  Experience,
  Ground,
  PreferenceConfig,
  PreferenceObjective,
  make_collect,
)
from holorec_jax.train.step import make_train_step
from holorec_jax.train.writers import MetricWriter
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


def start_state(
  reference: dict, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """The supervised parameters, not yet aligned; replicated over the mesh."""

  def create(params):
    return TrainState(
      step=jnp.int32(0),
      params=params,
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
    )

  state = jax.jit(create, out_shardings=sharding.replicated(mesh))(reference)
  # The step takes the state's memory over; the reference keeps its own.
  return jax.tree.map(jnp.copy, state)


def align(
  objective: PreferenceObjective,
  reference: dict,
  windows: TargetWindows,
  ground: Ground,
  validate: Callable[[dict], dict[str, float]],
  mesh: Mesh,
  optim_config: OptimConfig,
  dtype: Dtype,
  folder: pathlib.Path,
  name: str = "align",
) -> Progress:
  """Aligns from the newest checkpoint, or from the start, to the end.

  Args:
    objective: the policy with its losses.
    reference: float32 parameters of the supervised model.
    windows: histories and what came next; rows divide over the mesh.
    ground: the catalogue, replicated over the mesh.
    validate: averaged parameters -> metrics, `loop.METRIC` among them.
    mesh: where to train.
    optim_config: of supervised training.
    dtype: compute dtype.
    folder: gets `checkpoints/`, `metrics.jsonl` and TensorBoard events.
    name: shown beside the progress bar.

  Returns:
    How alignment ended.

  Raises:
    UserError: on a loss that is not finite (names the step), a full disk, or
      checkpoints of another model.
  """
  config = objective.config
  optimizer = make_optimizer_like(optim_config, config)
  reference = jax.device_put(reference, sharding.replicated(mesh))
  state = start_state(reference, optimizer, mesh)
  # Of experience on its ground, where others are of a batch and its codes.
  step_objective: Any = objective
  update = make_train_step(
    step_objective,
    optimizer,
    mesh,
    config.seed,
    optim_config.average_decay,
    dtype,
  )
  rounds = _Rounds(
    config,
    _make_draw(objective, reference, windows, ground, mesh, dtype),
    lambda state, experience: update(state, experience, ground),
  )
  with Checkpointer(folder / "checkpoints", last=1) as saver:
    restored, progress, done = saver.restore(state), Progress(), 0
    if restored is not None:
      state, done = restored.state, restored.step
      progress = Progress(**restored.loop)
      logging.info("%s: going on from step %d", name, done)
    with (
      MetricWriter(folder, -1 if restored is None else done) as writer,
      tqdm(total=config.steps, initial=done, desc=name, unit="step") as bar,
    ):
      reporter = Reporter(writer, bar, config.log_every)
      began = time.perf_counter() - progress.seconds

      def measure(step: int) -> None:
        measured = validate(state.average)
        reporter.validated(step, measured)
        progress.count(step, measured[METRIC], time.perf_counter() - began)
        progress.finished = (
          step == config.steps or progress.stale >= config.patience
        )
        saver.save(
          step,
          state,
          loop=dataclasses.asdict(progress),
          metric=measured[METRIC],
        )

      if restored is None:
        measure(0)
      while not progress.finished:
        state, done = rounds.run(state, done, reporter)
        measure(done)
  return progress


@dataclasses.dataclass(frozen=True)
class _Rounds:
  """Draws and updates, from one validation to the next.

  Attributes:
    config: how many of each.
    draw: (params, step) -> the batches of the round that begins at a step.
    update: (state, batch) -> (state, metrics).
  """

  config: PreferenceConfig
  draw: Callable[[dict, int], list[Experience]]
  update: Callable[[TrainState, Experience], tuple[TrainState, Any]]

  def run(
    self, state: TrainState, done: int, reporter: Reporter
  ) -> tuple[TrainState, int]:
    """Whole rounds until it is time to validate; state and steps done."""
    config, pending = self.config, None
    while True:
      batches = self.draw(state.params, done)
      for number in range(config.updates_per_round):
        state, metrics = self.update(state, batches[number % len(batches)])
        done += 1
        # One step late: the device is busy while the host reads.
        if pending is not None:
          reporter.add(done - 1, pending)
        pending = metrics
      if done % config.updates_per_validation == 0 or done == config.steps:
        assert pending is not None  # as a round has an update
        reporter.add(done, pending)
        reporter.flush(done)
        return state, done


def _make_draw(
  objective: PreferenceObjective,
  reference: dict,
  windows: TargetWindows,
  ground: Ground,
  mesh: Mesh,
  dtype: Dtype,
) -> Callable[[dict, int], list[Experience]]:
  """draw(params, step) -> the batches of the round that begins at a step."""
  config = objective.config
  collect = make_collect(objective.policy, config, mesh, dtype)
  # Not the key of the updates, which count from the same seed.
  key = jax.random.fold_in(jax.random.key(config.seed), config.steps)

  def draw(params: dict, step: int) -> list[Experience]:
    first = step // config.updates_per_round * config.batches_per_round
    drawn = []
    for batch in range(first, first + config.batches_per_round):
      columns = sharding.put_rows(windows[batch], mesh)
      drawn.append(
        collect(
          params,
          reference,
          ground,
          columns["item_BT"],
          columns["target_BW"],
          jax.random.fold_in(key, batch),
        )
      )
    return drawn

  return draw
