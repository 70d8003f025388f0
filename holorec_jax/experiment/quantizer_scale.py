"""Seconds and memory that fitting the nested quantizer takes by catalogue size.

Each size has a fresh process, whose peak of memory of its own is that of the
fit and the codes alone, since the vectors are mapped from a file; on a CPU the
device's memory is in it. The fit is that of `quantize.fit` with one pass over
its items (`fit_items` at most) in each of its stages: the plain autoencoder,
k-means, and a round of training with the two looks around it; and then the
codes of all items. The vectors are random: neither speed nor memory depends on
what they are, but for k-means' repair, which has most to do there.

What both programs take of each device is read from their compiled form, for
which no catalogue has to be there.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.experiment import timing
from holorec_jax.quantize import fit, fitted, stream
from holorec_jax.quantize.nested import NestedConfig, NestedQuantizer

# Items that times and memory are extrapolated to.
FAR = 100_000_000
# Vectors drawn at a time.
DRAWN = 65_536
# Seconds between two looks at the memory in use.
LOOK = 0.01


class Taken(NamedTuple):
  """What one size took.

  Attributes:
    fit_seconds: of the fit, the codes of all items included.
    code_seconds: of these codes alone, by those of `fit_items` of them.
    peak_bytes: memory beside the vectors.
  """

  fit_seconds: float
  code_seconds: float
  peak_bytes: int


def measure(
  config: NestedConfig, width: int, sizes: Sequence[int]
) -> timing.Result:
  """Fits and codes so many items, once each.

  Args:
    config: the quantizer; its numbers of steps do not count.
    width: of the item vectors.
    sizes: items, ascending.

  Returns:
    Two rows per size, `fit` and `codes`, in items per second, with items,
    seconds, peak_bytes, and device_bytes of the program at FAR items on the
    devices that are here. Of two sizes and more the ratios say what the last
    two make of FAR items, by the line through them (coding: in proportion):
    hours, and bytes per item.
  """
  mesh = stream.local_mesh()
  programs = compile_programs(config, width, FAR, mesh)
  device_bytes = [count_bytes(program) for program in programs]
  taken = [
    _in_fresh_process(_fit_and_code, _one_pass(config), width, size)
    for size in tqdm(sizes, desc="quantizer", unit="size")
  ]
  rows = []
  for size, found in zip(sizes, taken):
    for stage, seconds, each in zip(("fit", "codes"), found, device_bytes):
      name = f"quantizer at scale, {width} dimensions"
      row = timing.make_row(
        name, f"{stage}, {size:,}", "items", size, [seconds]
      )
      note = (
        f"{seconds:.1f} s, peak memory {found.peak_bytes / 2**30:.2f} GiB;"
        f" of {FAR:,} items {each / 2**20:.0f} MiB a device ({mesh.size} here)"
      )
      more = {"items": size, "width": width, "seconds": seconds}
      more |= {"peak_bytes": found.peak_bytes, "device_bytes": each}
      rows.append(row | more | {"note": note})
  return timing.Result(rows, _extrapolate(sizes, taken))


def _one_pass(config: NestedConfig) -> NestedConfig:
  """An epoch in place of as many as steps ask for; tiny catalogues get more."""
  return dataclasses.replace(config, warmup_steps=1, steps=1)


def compile_programs(
  config: NestedConfig, width: int, items: int, mesh: Mesh
) -> tuple[jax.stages.Compiled, jax.stages.Compiled]:
  """An epoch of the fit's training, and the coding of a block, from shapes."""

  def shaped(tree: Any, place: NamedSharding) -> Any:
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
    )

  def vectors(rows: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, width), np.float32)

  key = jax.eval_shape(jax.random.key, 0)
  model: Any = NestedQuantizer(config)
  params = jax.eval_shape(model.init, key, vectors(1))["params"]
  state = jax.eval_shape(
    functools.partial(fit.start_state, config=config), params
  )
  sampled = min(items, config.fit_items)
  sharers = stream.training_mesh(fit.batch_size(sampled, config), mesh)
  weight_RLV = jax.ShapeDtypeStruct(
    (len(config.dims), config.levels, config.codes), np.float32
  )
  training = fit.train_epochs.lower(
    *shaped(
      (state, vectors(sampled), weight_RLV, key), sharding.replicated(sharers)
    ),
    losses=fit.quantizer_losses,
    config=config,
    epochs=1,
    mesh=sharers,
  )
  coding = fitted.encode_block.lower(
    shaped(params, sharding.replicated(mesh)),
    shaped(vectors(stream.CHUNK * mesh.size), sharding.by_row(mesh)),
    config=config,
  )
  return training.compile(), coding.compile()


def count_bytes(program: jax.stages.Compiled) -> int:
  """What a program takes of each device, arguments and results included."""
  memory = program.memory_analysis()
  if memory is None:
    return 0
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes
  )


def _extrapolate(
  sizes: Sequence[int], taken: Sequence[Taken]
) -> dict[str, float]:
  if len(sizes) < 2:
    return {}
  (few, many), (less, more) = sizes[-2:], taken[-2:]

  def line(low: float, high: float) -> float:
    return high + (high - low) / (many - few) * (FAR - many)

  # Coding has no fixed part: its program was compiled by the fit.
  code_seconds = more.code_seconds / many * FAR
  memory = more.peak_bytes - less.peak_bytes
  return {
    "quantizer/fit_hours_of_1e8_items": line(less.fit_seconds, more.fit_seconds)
    / 3600,
    "quantizer/code_hours_of_1e8_items": code_seconds / 3600,
    "quantizer/peak_bytes_per_item": memory / (many - few),
    "quantizer/peak_gib_of_1e8_items": line(less.peak_bytes, more.peak_bytes)
    / 2**30,
  }


def _in_fresh_process(function: Callable, *args):
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, spawn) as fresh:
    return fresh.submit(function, *args).result()


class Peak(threading.Thread):
  """The most memory of its own that this process has; Linux counts it.

  Pages of a mapped file are no part of it: the system takes them back at will.

  Attributes:
    bytes: so far, 0 where /proc does not tell.
  """

  def __init__(self):
    super().__init__(daemon=True)
    self.bytes = 0
    self._end = threading.Event()

  def run(self) -> None:
    status = pathlib.Path("/proc/self/status")
    while status.exists() and not self._end.is_set():
      [line] = [row for row in status.open() if row.startswith("RssAnon")]
      self.bytes = max(self.bytes, int(line.split()[1]) * 1024)
      self._end.wait(LOOK)

  def stop(self) -> int:
    """Ends looking and returns the most that was seen."""
    self._end.set()
    self.join()
    return self.bytes


def _fit_and_code(config: NestedConfig, width: int, items: int) -> Taken:
  with tempfile.TemporaryDirectory() as folder:
    vectors_IW = _draw(pathlib.Path(folder) / "vectors.npy", items, width)
    peak = Peak()
    peak.start()
    began = time.perf_counter()
    quantizer = fit.fit(vectors_IW, config, progress=False)
    done = time.perf_counter()
    few_NW = vectors_IW[: config.fit_items]
    quantizer.encode(few_NW)
    code_seconds = (time.perf_counter() - done) / len(few_NW) * items
    return Taken(done - began, code_seconds, peak.stop())


def _draw(path: pathlib.Path, items: int, width: int) -> np.ndarray:
  """Random vectors, mapped from a file."""
  rng = np.random.default_rng(0)
  vectors_IW = np.lib.format.open_memmap(path, "w+", np.float32, (items, width))
  for first in range(0, items, DRAWN):
    part_BW = vectors_IW[first : first + DRAWN]
    part_BW[:] = rng.standard_normal(part_BW.shape, np.float32)
  del vectors_IW, part_BW
  return np.load(path, mmap_mode="r")
