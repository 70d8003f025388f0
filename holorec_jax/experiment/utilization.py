"""How much of a device's matrix products a training step turns into training.

One step of a whole run's form (mesh, dtype, accumulation, optimiser and average
included) on rows full of generated histories, beside one large matrix product
of the same dtype in turns. FLOPs are the model's (`train/flops.py`): what is
computed twice to save memory does not count, nor does what is no product.
The profile names what the time of a step goes to.
"""

import collections
import pathlib
import re
import statistics
import tempfile
from typing import Any

import jax
from absl import logging

from holorec_jax import sharding
from holorec_jax.data.pipeline import batch_shape
from holorec_jax.errors import UserError
from holorec_jax.experiment import ceiling, timing
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.made_up import full_rows
from holorec_jax.experiment.training_speed import Shape, Trainee
from holorec_jax.train.meter import memory_in_use, peak_flops

# Steps in the profile, and how many of its costs are shown.
PROFILED, SHOWN = 2, 16


def measure(config: Config, items: int, repeats: int) -> timing.Result:
  """Times steps of the config's first system, and profiles some.

  Args:
    config: of a run; the mesh, too, so its devices must be there.
    items: of the generated catalogue.
    repeats: timed steps, after one that is not timed.

  Returns:
    One row in targets per second, with costs as in `timing` (FLOPs of the
    model), parameters, step_ms, mfu (of the data sheet's peak, where that is
    known), peak_gib (of the process so far, where the platform counts memory),
    compile_seconds and profile, [[what, ms a step and device]] of the dearest
    operations.

  Raises:
    UserError: rows of one target, or several processes: neither is measured.
  """
  if config.input.rows != "packed":
    raise UserError(
      f"config.input.rows is {config.input.rows!r}, and the suite fills packed"
      " rows: set it to 'packed', or choose another --config"
    )
  if jax.process_count() > 1:
    raise UserError("the suite measures one process: start it alone")
  mesh = sharding.make_mesh(shape=config.mesh)
  trainee = Trainee(config, items, mesh, config.optim.accumulate)
  rows, slots = batch_shape(config.input, sharding.row_shards(mesh))
  shape = Shape(full_rows(items, rows, slots))
  logging.info("compiling a step of %d rows of %d items", rows, slots)
  compile_seconds = trainee.compile(shape)
  product = ceiling.Product(mesh, config.train.dtype)

  def train():
    trainee.train(shape)

  name = f"{config.systems[0]}, {config.train.dtype}"
  product_seconds, seconds = timing.take_turns(
    [product.run, train], repeats, name
  )
  targets, flops = rows * slots, trainee.model_flops(shape)
  median = statistics.median(seconds)
  row = timing.make_row("utilization", name, "targets", targets, seconds)
  row = timing.add_costs(
    row,
    "target",
    flops / targets,
    float("nan"),
    product.speed(product_seconds),
  )
  extra: dict[str, Any] = {
    "parameters": trainee.num_params,
    "step_ms": 1000 * median,
    "compile_seconds": compile_seconds,
  }
  peak = peak_flops()
  if peak:
    extra["mfu"] = flops / median / peak
  used = memory_in_use()
  if "memory/peak_gib" in used:
    extra["peak_gib"] = used["memory/peak_gib"]
  assert shape.step is not None
  program = shape.step.as_text() or ""
  costs = profile(train, program, jax.local_device_count())
  extra["profile"] = costs[:SHOWN]
  extra["note"] = _describe(extra, rows, slots)
  return timing.Result([row | extra])


def _describe(extra: dict[str, Any], rows: int, slots: int) -> str:
  words = [
    f"{extra['parameters'] / 1e6:,.0f} million parameters, {rows} rows of"
    f" {slots} items: {extra['step_ms']:,.1f} ms a step"
  ]
  if "mfu" in extra:
    words.append(f"{extra['mfu']:.1%} of the device's peak")
  if "peak_gib" in extra:
    words.append(f"at most {extra['peak_gib']:.1f} GiB in use")
  lines = [", ".join(words), "ms a step, by a profile:"]
  lines += [f"{ms:10.2f}  {what}" for what, ms in extra["profile"]]
  return ("\n" + " " * 21).join(lines)


def profile(step: Any, program: str, devices: int) -> list[tuple[str, float]]:
  """(what, ms) of a step on one device by kind of operation, dearest first.

  Args:
    step: runs it once; returns when it is done.
    program: its compiled text, which tells what an operation belongs to.
    devices: that share this process's events.
  """
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(PROFILED):
        step()
    [path] = pathlib.Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
  names = find_sources(program)
  spent: collections.Counter[str] = collections.Counter()
  for plane in data.planes:
    on_device = plane.name.startswith("/device:")
    for line in plane.lines:
      for event in line.events:
        operation = str(dict(event.stats).get("hlo_op", event.name))
        if operation in names:
          spent[kind_of(operation, names[operation])] += event.duration_ns
        elif on_device and line.name.startswith("Stream"):
          spent[kind_of_kernel(event.name)] += event.duration_ns
  scale = 1e6 * PROFILED * devices
  return [(what, ns / scale) for what, ns in spent.most_common()]


def find_sources(program: str) -> dict[str, str]:
  """Operation -> the name that JAX gave it, "" where it did not.

  Without those that only hold others.
  """
  found = {}
  for line in program.splitlines():
    match = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = .*?\s([\w-]+)\(", line)
    if match and match[2] not in ("while", "call", "conditional"):
      source = re.search(r'op_name="([^"]*)"', line)
      found[match[1]] = source[1] if source else ""
  return found


def kind_of_kernel(name: str) -> str:
  """One that the profiler cannot tell the operation of, as in CUDA graphs."""
  if re.match(r"nvjet|(void )?cutlass", name):
    return "matrix products (cuBLAS, cutlass)"
  return f"kernel {re.sub(r'[._0-9]+$', '', name)[:60]}"


def kind_of(operation: str, source: str) -> str:
  """Equal for operations that do the same in different layers or steps."""
  stem = re.sub(r"[.\d]+$", "", operation)
  if not source:
    return stem
  way = "backward" if "transpose(" in source else "forward"
  if "rematted_computation" in source:
    way = "again"
  return f"{way} {'/'.join(source.split('/')[-2:])} ({stem})"
