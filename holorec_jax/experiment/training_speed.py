"""All-position against one-target-per-row training, side by side.

The same network, parameters, loss and optimiser train on the same targets in
two forms (`data.pipeline.SOURCES`): packed, where every position of a history
opens a branch, and one target per row in length buckets. Steps of all batch
shapes of both forms take turns, so that whatever else the machine does hits
both alike. An epoch's time is the sum over its shapes of median seconds times
rows in use over rows of a batch: that an epoch's last batch of a shape is not
full matters to small data sets only, and is left out.
"""

import dataclasses
import math
import statistics
import time
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from holorec_jax import catalog, sharding
from holorec_jax.codes import device_codes
from holorec_jax.data import pipeline, schema, splits
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.training import make_generator
from holorec_jax.train.optimizer import make_optimizer
from holorec_jax.train.step import init_state, make_train_step
from holorec_jax.types import Batch

FORMS: tuple[Literal["packed"], Literal["one_target"]] = (
  "packed",
  "one_target",
)


@dataclasses.dataclass(frozen=True)
class Case:
  """One comparison.

  Attributes:
    name: as printed.
    dataset: whose training targets are trained.
    history: the generator's form of history, "codes" or "pooled".
    input: both forms' batches; `rows` is set here.
    wanted: least ratio of targets per second.
  """

  name: str
  dataset: schema.Dataset
  history: Literal["codes", "pooled"]
  input: pipeline.PipelineConfig
  wanted: float


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

  batch: dict[str, np.ndarray]
  rows: int = 0
  filled: int = 0
  step: jax.stages.Compiled | None = None
  seconds: list[float] = dataclasses.field(default_factory=list)


def make_long_histories(users: int, items: int, length: int) -> schema.Dataset:
  """Random data whose training histories all have `length` items."""
  rng = np.random.default_rng(0)
  events = length + 3  # Beside the targets of validation and test.
  names = np.array([str(i) for i in range(max(users, items))], object)
  return schema.Dataset(
    name=f"random histories of {length} items",
    item_ids=names[:items],
    item_text={},
    user_ids=names[:users],
    offsets=np.arange(users + 1) * events,
    items=rng.integers(0, items, users * events).astype(np.int32),
  )


def compare(case: Case, config: Config, repeats: int) -> dict:
  """Times both forms of one case.

  Args:
    case: data and batches.
    config: network, loss, optimiser; its first system is trained.
    repeats: timed steps of each shape, after one that is not timed.

  Returns:
    Per form: targets per second, FLOPs per target (of the compiled steps),
    share of empty history slots; and the ratios of the two forms.
  """
  mesh = sharding.make_mesh()
  split = splits.split_dataset(case.dataset, splits.SplitConfig())
  sources = {
    rows: pipeline.make_source(
      case.dataset,
      split,
      dataclasses.replace(case.input, rows=rows),
      mesh.size,
    )
    for rows in FORMS
  }
  shapes: dict[str, list[Shape]] = {
    rows: _shapes_of(source) for rows, source in sources.items()
  }
  _time_steps(case, config, shapes, repeats, mesh)
  result: dict = {
    rows: _summarise(shapes[rows], source.targets_per_epoch, mesh.size)
    for rows, source in sources.items()
  }
  packed, single = result["packed"], result["one_target"]
  return result | {
    "case": case.name,
    "data": case.dataset.name,
    "history": case.history,
    "system": config.systems[0],
    "speedup": packed["targets_per_second"] / single["targets_per_second"],
    "flops_saved": single["flops_per_target"] / packed["flops_per_target"],
    "wanted": case.wanted,
  }


def _shapes_of(source) -> list[Shape]:
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


def _time_steps(
  case: Case,
  config: Config,
  shapes: dict[str, list[Shape]],
  repeats: int,
  mesh: jax.sharding.Mesh,
) -> None:
  """Compiles a step per shape, then fills in everyone's seconds in turns."""
  built = random_catalog(case.dataset.num_items, config)
  model_config = dataclasses.replace(config.model, history=case.history)
  model = make_generator(
    dataclasses.replace(config, model=model_config), built, config.systems[0]
  )
  optimizer = make_optimizer(config.optim, total_steps=1000)
  state = init_state(model, optimizer, config.train.seed, mesh)
  codes = jax.device_put(
    device_codes(built, config.model.softmax), sharding.replicated(mesh)
  )
  step: Any = make_train_step(
    model,
    optimizer,
    config.loss,
    mesh,
    config.train.seed,
    config.optim.average_decay,
    config.train.dtype,
  )
  everyone = [shape for rows in shapes.values() for shape in rows]
  for shape in tqdm(everyone, desc=f"{case.name}: compiling", unit="shape"):
    batch = sharding.put_rows(Batch(**shape.batch), mesh)
    shape.step = step.lower(state, batch, codes).compile()
  turns = [shape for _ in range(repeats + 1) for shape in everyone]
  for shape in tqdm(turns, desc=f"{case.name}: training", unit="step"):
    assert shape.step is not None
    began = time.perf_counter()
    batch = sharding.put_rows(Batch(**shape.batch), mesh)
    state, metrics = shape.step(state, batch, codes)
    jax.block_until_ready((state, metrics))
    shape.seconds.append(time.perf_counter() - began)


def random_catalog(items: int, config: Config) -> catalog.Catalog:
  """Speed does not depend on which codes items have."""
  rng = np.random.default_rng(0)
  sids_IRL = rng.integers(
    0, config.sid.codes, (items, len(config.sid.dims), config.sid.levels)
  )
  return catalog.build_catalog(
    sids_IRL, sids_IRL[:, -1], np.ones(items), config.sid.codes
  )


def _summarise(
  shapes: list[Shape], targets: int, devices: int
) -> dict[str, float]:
  seconds = flops = slots = filled = 0.0
  for shape in shapes:
    assert shape.step is not None
    rows, width = shape.batch["item_BT"].shape
    batches = shape.rows / rows
    seconds += batches * statistics.median(shape.seconds[1:])
    cost = shape.step.cost_analysis() or {}
    # XLA counts what one device does.
    flops += batches * cost.get("flops", math.nan) * devices
    slots += shape.rows * width
    filled += shape.filled
  return {
    "targets_per_second": targets / seconds,
    "flops_per_target": flops / targets,
    "padding": 1.0 - filled / slots,
    "targets_per_epoch": targets,
    "batch_shapes": len(shapes),
  }
