"""Targets per second of training, of all sides of a case in turns.

The same network, parameters, loss and optimiser train on the same targets in
several forms (`speed_cases`); someone else's implementation may take turns
with them. An epoch's time is the sum over its batch shapes of median seconds
times rows in use over rows of a batch: that an epoch's last batch of a shape is
not full matters to small data sets only, and is left out.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from holorec_jax import catalog, sharding
from holorec_jax.data import pipeline, splits
from holorec_jax.errors import UserError
from holorec_jax.experiment import ceiling, timing
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.made_up import random_catalog
from holorec_jax.experiment.speed_cases import Case
from holorec_jax.experiment.systems import make_system
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.train.flops import make_flops
from holorec_jax.train.optimizer import make_optimizer
from holorec_jax.train.step import init_state, make_train_step
from holorec_jax.types import Batch

# (params, config, catalogue) -> step(item_BT, target_B), which returns when it
# is done: a training step of the same network, made by other people.
MakeRival = Callable[
  [dict, GeneratorConfig, catalog.Catalog],
  Callable[[np.ndarray, np.ndarray], Any],
]
RIVAL = "transformers"
_ONE_TARGET = "one_target"


@dataclasses.dataclass
class Shape:
  """Batches of one shape, which one compiled step serves.

  Attributes:
    batch: the one that is trained on.
    rows: rows in use, over all of an epoch's batches of this shape.
    filled: history slots with an item, likewise.
    step: the compiled step.
    seconds: of every timed step.
  """

  batch: dict[str, Any]
  rows: int = 0
  filled: int = 0
  step: jax.stages.Compiled | None = None
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def batches(self) -> float:
    """How many batches of this shape an epoch fills."""
    return self.rows / len(self.batch["item_BT"])


@dataclasses.dataclass(frozen=True)
class Side:
  """One form of an epoch.

  Attributes:
    name: as in the case.
    source: its batches.
    users: whose targets it trains.
    shapes: its batches by shape.
  """

  name: str
  source: pipeline.Source
  users: int
  shapes: list[Shape]


class Trainee:
  """A network in training: its state goes through everybody's steps."""

  def __init__(
    self,
    config: Config,
    items: int,
    mesh: jax.sharding.Mesh,
    accumulate: int = 1,
  ):
    self.catalog = random_catalog(items, config, distinct=False)
    system = make_system(config, self.catalog, config.systems[0])
    if system.generator is None:
      raise UserError(
        f"the suite trains generators, and config.systems begins with"
        f" {config.systems[0]!r}: choose another --config"
      )
    self.config = system.generator.config
    self._objective = system.objective
    optimizer = make_optimizer(config.optim, total_steps=1000)
    self._state = init_state(
      system.objective, optimizer, config.train.seed, mesh
    )
    self._codes = jax.device_put(system.codes(), sharding.replicated(mesh))
    self._mesh = mesh
    self._step: Any = make_train_step(
      system.objective,
      optimizer,
      mesh,
      config.train.seed,
      config.optim.average_decay,
      config.train.dtype,
      accumulate,
    )

  @property
  def num_params(self) -> int:
    """Of the network."""
    return sum(leaf.size for leaf in jax.tree.leaves(self._state.params))

  def model_flops(self, shape: Shape) -> float:
    """Of a step on the shape's batch, by `train.flops`."""
    count = make_flops(self._objective, self._state.params, self._codes)
    return count(Batch(**shape.batch))

  @property
  def params(self) -> dict:
    """On the host, as they are now."""
    return jax.device_get(self._state.params)

  def compile(self, shape: Shape) -> float:
    """Gives the shape its step; returns the seconds that XLA took."""
    batch = sharding.put_rows(Batch(**shape.batch), self._mesh)
    lowered = self._step.lower(self._state, batch, self._codes)
    began = time.perf_counter()
    shape.step = lowered.compile()
    return time.perf_counter() - began

  def train(self, shape: Shape) -> None:
    """One step; returns when it is done."""
    assert shape.step is not None
    batch = sharding.put_rows(Batch(**shape.batch), self._mesh)
    self._state, metrics = shape.step(self._state, batch, self._codes)
    jax.block_until_ready((self._state, metrics))


def compare(
  case: Case, repeats: int, make_rival: MakeRival | None = None
) -> timing.Result:
  """Times all sides of one case.

  Args:
    case: network, data and batches.
    repeats: timed steps of each shape, after one that is not timed.
    make_rival: trains the very rows of our sides of one target; its side of
      our `one_target_x` is `transformers_x`.

  Returns:
    Rows in targets per second with users_per_second and padding (share of
    empty history slots), ours with operations per target, too; and ratios of
    the fastest rows.
  """
  mesh = sharding.make_mesh()
  sides = _make_sides(case, mesh.size)
  trainee = Trainee(case.config, case.dataset.num_items, mesh)
  shapes = [shape for side in sides for shape in side.shapes]
  for shape in tqdm(shapes, desc=f"{case.name}: compiling", unit="shape"):
    trainee.compile(shape)
  product = ceiling.Product(mesh)
  turns: list[Callable[[], Any]] = [product.run]
  turns += [functools.partial(trainee.train, shape) for shape in shapes]
  rivals: list[Side] = []
  if make_rival:
    rivals = _make_rivals(sides)
    train = _make_rival_step(make_rival, trainee)
    shapes = shapes + [shape for side in rivals for shape in side.shapes]
    turns += [
      functools.partial(train, shape.batch)
      for side in rivals
      for shape in side.shapes
    ]
  product_seconds, *seconds = timing.take_turns(turns, repeats, case.name)
  for shape, taken in zip(shapes, seconds):
    shape.seconds = taken
  limit = product.speed(product_seconds)
  rows = [
    _add_costs(_summarise(case, side), case, side, mesh.size, limit)
    for side in sides
  ]
  rows += [_summarise(case, side) for side in rivals]
  return timing.Result(rows, _find_ratios(case.name, rows))


def _make_sides(case: Case, devices: int) -> list[Side]:
  split = splits.split_dataset(case.dataset, splits.SplitConfig())
  users = int((split.train_end >= 2).sum())
  sides = []
  for name, batches in case.sides.items():
    for config in batches:
      source = pipeline.make_source(case.dataset, split, config, devices)
      sides.append(Side(name, source, users, _find_shapes(source)))
  return sides


def _find_shapes(source: pipeline.Source) -> list[Shape]:
  """An epoch's batches by shape; the fullest of each stands for all."""
  found: dict[tuple, Shape] = {}
  for index in range(source.batches_per_epoch):
    batch = source[index]
    shape = found.setdefault(batch["item_BT"].shape, Shape(batch))
    shape.rows += int((batch["weight_BN"] > 0).any(axis=1).sum())
    shape.filled += int((batch["segment_BT"] > 0).sum())
    if batch["weight_BN"].sum() > shape.batch["weight_BN"].sum():
      shape.batch = batch
  return list(found.values())


def _make_rivals(sides: list[Side]) -> list[Side]:
  """The rows of our sides of one target, for others to train on."""
  return [
    dataclasses.replace(
      side,
      name=side.name.replace(_ONE_TARGET, RIVAL),
      shapes=[
        dataclasses.replace(shape, step=None, batch=_fill(shape.batch))
        for shape in side.shapes
      ],
    )
    for side in sides
    if side.name.startswith(_ONE_TARGET)
  ]


def _fill(batch: dict[str, Any]) -> dict[str, Any]:
  """The batch with its rows in use again where none is: others know no such."""
  used = int((batch["weight_BN"][:, 0] > 0).sum())
  return {
    name: np.resize(array[:used], array.shape) for name, array in batch.items()
  }


def _make_rival_step(
  make_rival: MakeRival, trainee: Trainee
) -> Callable[[dict[str, Any]], Any]:
  """Trains the rows of a batch."""
  # Of our network what others have, too; it costs the same.
  config = dataclasses.replace(trainee.config, causal_history=False)
  train = make_rival(trainee.params, config, trainee.catalog)

  def step(batch: dict[str, Any]) -> Any:
    return train(batch["item_BT"], batch["target_BN"][:, 0])

  return step


def _summarise(case: Case, side: Side) -> timing.Row:
  """A row: an epoch from the steps of its shapes."""
  epochs = [
    sum(shape.batches * seconds for shape, seconds in zip(side.shapes, turn))
    for turn in zip(*(shape.seconds for shape in side.shapes))
  ]
  medians = [statistics.median(shape.seconds) for shape in side.shapes]
  epoch = sum(
    shape.batches * seconds for shape, seconds in zip(side.shapes, medians)
  )
  targets, rows = side.source.targets_per_epoch, side.source.rows_per_batch
  row = timing.make_row(case.name, side.name, "targets", targets, epochs, epoch)
  slots = sum(
    shape.rows * shape.batch["item_BT"].shape[1] for shape in side.shapes
  )
  padding = 1.0 - sum(shape.filled for shape in side.shapes) / slots
  shapes = len(side.shapes)
  return row | {
    "data": case.dataset.name,
    "users_per_second": side.users / epoch,
    "targets_per_epoch": targets,
    "rows_per_batch": rows,
    "batch_shapes": shapes,
    "padding": padding,
    "note": f"batches of {rows} rows, {shapes} shapes, padding {padding:.1%}",
  }


def _add_costs(
  row: timing.Row, case: Case, side: Side, devices: int, limit: float
) -> timing.Row:
  """The row with our network's operations and what is ours alone."""
  flops = bytes_ = 0.0
  for shape in side.shapes:
    assert shape.step is not None
    one_flops, one_bytes = timing.count_costs(shape.step)
    # XLA counts what one device does.
    flops += shape.batches * devices * one_flops
    bytes_ += shape.batches * devices * one_bytes
  targets = side.source.targets_per_epoch
  return timing.add_costs(
    row, "target", flops / targets, bytes_ / targets, limit
  ) | {"history": case.config.model.history, "system": case.config.systems[0]}


def _find_ratios(case: str, rows: list[timing.Row]) -> dict[str, float]:
  """Of the fastest row of each side."""
  best: dict[str, timing.Row] = {}
  for row in sorted(rows, key=lambda row: row["median"]):
    best[row["side"]] = row
  packed, single = best["all_position"], best[_ONE_TARGET]
  ratios = {
    f"{case}/all_position_vs_one_target": packed["median"] / single["median"]
  }
  if "flops_per_target" in packed and "flops_per_target" in single:
    ratios[f"{case}/flops_saved"] = (
      single["flops_per_target"] / packed["flops_per_target"]
    )
  rivals = [side for side in best if side.startswith(RIVAL)]
  ratios |= {
    f"{side}_vs_{rival}": row["median"] / best[rival]["median"]
    for side, row in best.items()
    for rival in rivals
    if side not in rivals
  }
  return ratios
