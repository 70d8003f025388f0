"""What a training step takes on devices that are not here.

The step of the first system is lowered and compiled for as many devices as are
asked for, on shapes alone: no parameter is made. Bytes of the state follow
exactly from where each array is stored. What a step needs beside (activations,
gradients, gathered parameters) is what XLA plans: for GPUs that are not here
(`absent_gpus`), or for simulated CPU devices, where an accelerator's fused
kernels need less, and its bfloat16 half of what a CPU computes in float32.
FLOPs are the model's (`train/flops.py`).
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.extend import backend
from jax.sharding import Mesh, NamedSharding

from holorec_jax import sharding
from holorec_jax.data.pipeline import batch_shape
from holorec_jax.experiment import absent_gpus
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.made_up import random_catalog
from holorec_jax.experiment.systems import make_system
from holorec_jax.train.flops import make_flops
from holorec_jax.train.optimizer import make_optimizer
from holorec_jax.train.step import init_state, make_train_step
from holorec_jax.types import Batch, TrainState

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Machine:
  """The devices in question.

  Attributes:
    devices: how many.
    tflops: peak of one, in 10^12 FLOP/s of the compute dtype.
    mfu: share of the peak that training is expected to reach.
    gpu: one of `absent_gpus.GPUS`; "": simulated CPU devices.
  """

  devices: int
  tflops: float
  mfu: float
  gpu: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
  """One training step; bytes are those of the fullest device.

  Attributes:
    parameters: of the model.
    groups: of them, by the first part of their names.
    mesh: sizes of the axes.
    rows: of a batch, and slots of a row.
    parameter_bytes: of float32 parameters, and as many of each moment of the
      optimiser and of the average.
    optimizer_bytes: of the optimiser's state.
    average_bytes: of the moving average.
    catalogue_bytes: of codes of all items.
    temporary_bytes: what the step needs beside: activations, gradients, and
      parameters as they are gathered.
    validation_bytes: of the whole parameters, which validation lays on every
      device beside the state; what search takes is not in it.
    flops: of the model, on all devices.
    seconds: expected.
    collectives: kind -> (how many, bytes that they leave on a device), over all
      turns of loops.
    compile_seconds: of the step, here.
  """

  parameters: int
  groups: dict[str, int]
  mesh: dict[str, int]
  rows: tuple[int, int]
  parameter_bytes: int
  optimizer_bytes: int
  average_bytes: int
  catalogue_bytes: int
  temporary_bytes: int
  validation_bytes: int
  flops: float
  seconds: float
  collectives: dict[str, tuple[int, float]]
  compile_seconds: float

  @property
  def total_bytes(self) -> int:
    """Of a device while it trains."""
    return (
      self.parameter_bytes
      + self.optimizer_bytes
      + self.average_bytes
      + self.catalogue_bytes
      + self.temporary_bytes
    )


def simulate(devices: int) -> None:
  """Makes this process see so many CPU devices, whatever it saw before."""
  backend.clear_backends()
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", devices)


def make_plan(config: Config, machine: Machine, items: int) -> Plan:
  """Plans a step of the config's first system over a catalogue of `items`.

  The devices must be there (`simulate`), except when planning for GPUs.

  Raises:
    UserError: the mesh does not fit the devices, config.sid.nested cannot tell
      so many items apart, or XLA cannot compile for GPUs here.
  """
  devices, options = jax.devices()[: machine.devices], None
  if machine.gpu:
    devices = absent_gpus.find_devices(machine.gpu, machine.devices)
    options = absent_gpus.COMPILER_OPTIONS
  mesh = sharding.make_mesh(devices, config.mesh)
  built = random_catalog(items, config)
  system = make_system(config, built, config.systems[0])
  optimizer = make_optimizer(config.optim, total_steps=1000)
  state = _placed_state(system.objective, optimizer, mesh)
  codes = _placed(jax.eval_shape(system.codes), sharding.replicated(mesh))
  shards = sharding.row_shards(mesh) * config.optim.accumulate
  rows, slots = batch_shape(config.input, shards)
  batch = _placed(_batch(config, rows, slots), sharding.by_row(mesh))
  step = make_train_step(
    system.objective,
    optimizer,
    mesh,
    config.train.seed,
    config.optim.average_decay,
    config.train.dtype,
    config.optim.accumulate,
  )
  logging.info("compiling a step for %d devices", machine.devices)
  began = time.perf_counter()
  compiled = step.lower(state, batch, codes).compile(options)
  seconds = time.perf_counter() - began
  flops = make_flops(system.objective, state.params, codes)(batch)
  groups: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
    name = sharding.path_name(path).split("/")[0]
    groups[name] = groups.get(name, 0) + leaf.size
  memory = compiled.memory_analysis()
  return Plan(
    parameters=sum(groups.values()),
    groups=dict(sorted(groups.items(), key=lambda each: -each[1])),
    mesh=dict(mesh.shape),
    rows=(rows, slots),
    parameter_bytes=_bytes_on_one(state.params),
    optimizer_bytes=_bytes_on_one(state.opt_state),
    average_bytes=_bytes_on_one(state.average),
    catalogue_bytes=_bytes_on_one(codes),
    temporary_bytes=memory.temp_size_in_bytes if memory else 0,
    validation_bytes=_whole_bytes(state.params),
    flops=flops,
    seconds=flops / (machine.devices * machine.tflops * 1e12 * machine.mfu),
    collectives=_collectives(compiled),
    compile_seconds=seconds,
  )


def _placed_state(objective, optimizer, mesh: Mesh) -> TrainState:
  """Shapes of the state, and where each lies."""
  shapes = jax.eval_shape(lambda: init_state(objective, optimizer, 0, mesh))
  places = sharding.shardings_like(shapes, shapes.params, mesh)
  return jax.tree.map(_placed, shapes, places)


def _placed(tree: Any, place: NamedSharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
  )


def _batch(config: Config, rows: int, slots: int) -> Batch:
  """A packed row has a branch at every slot, another row has one."""
  branches = slots if config.input.rows == "packed" else 1
  item_BT = jax.ShapeDtypeStruct((rows, slots), jnp.int32)
  branch_BN = jax.ShapeDtypeStruct((rows, branches), jnp.int32)
  weight_BN = jax.ShapeDtypeStruct((rows, branches), jnp.float32)
  leaves: Any = (item_BT, item_BT, branch_BN, branch_BN, weight_BN)
  return Batch(*leaves)


def _bytes_on_one(tree: Any) -> int:
  """Of the arrays of a tree on one device."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape)
    size = leaf.dtype.itemsize
    for length in shape:
      size *= length
    total += size
  return total


def _whole_bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _collectives(compiled: jax.stages.Compiled) -> dict[str, tuple[int, float]]:
  found: dict[str, tuple[int, float]] = {}
  for each in sharding.list_collectives(compiled):
    count, size = found.get(each.kind, (0, 0))
    found[each.kind] = (count + each.times, size + each.times * each.bytes)
  return dict(sorted(found.items()))


def _size(size: float) -> str:
  unit, name = (GIB, "GiB") if size >= GIB / 10 else (2**20, "MiB")
  return f"{size / unit:9.3f} {name}"


def describe(plan: Plan, machine: Machine) -> str:
  """The plan as a page of text."""
  axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
  groups = ", ".join(f"{name} {n:,}" for name, n in plan.groups.items())
  rows, slots = plan.rows
  planned, room = "a CPU; at most that on an accelerator", ""
  if machine.gpu:
    gpu = absent_gpus.GPUS[machine.gpu]
    planned, room = f"an {gpu.name}", f" of {_size(gpu.memory).strip()}"
  lines = [
    f"mesh          {axes}",
    f"batch         {rows:,} rows of {slots} history items",
    f"parameters    {plan.parameters:,} ({groups})",
    "on every device:",
    f"  parameters  {_size(plan.parameter_bytes)}",
    f"  optimiser   {_size(plan.optimizer_bytes)}",
    f"  average     {_size(plan.average_bytes)}",
    f"  catalogue   {_size(plan.catalogue_bytes)}",
    f"  a step      {_size(plan.temporary_bytes)} of activations, gradients,"
    f" gathered parameters (as XLA plans it for {planned})",
    f"  together    {_size(plan.total_bytes)}{room}",
    f"  validation  {_size(plan.validation_bytes)} of whole parameters instead"
    " of a step, and what search takes",
    f"a step        {plan.flops / 1e12:,.4g} TFLOP of the model;"
    f" {1e3 * plan.seconds:,.4g} ms at {100 * machine.mfu:.0f} % of"
    f" {machine.devices} x {machine.tflops:g} TFLOP/s",
    f"compiled      in {plan.compile_seconds:.0f} s; a step sends between"
    " devices, as often as its loops turn:",
  ]
  for kind, (count, size) in plan.collectives.items():
    lines.append(f"  {kind:20s} {count:5,d}, {_size(size).strip()}")
  if not plan.collectives:
    lines.append("  nothing")
  return "\n".join(lines)
