"""Seconds and memory that fitting the nested quantizer takes by catalogue size.

Each size has a fresh process, whose peak of resident memory is that of the
vectors, the fit and the codes alone; on a CPU the device's memory is in it.
The fit is that of `quantize.fit` with one pass over all items in each of its
stages: the plain autoencoder, k-means, and a round of training with the two
looks at all items around it. The vectors are random: neither speed nor memory
depends on what they are, but for k-means' repair, which has most to do there.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from holorec_jax.experiment import timing
from holorec_jax.quantize import fit
from holorec_jax.quantize.nested import NestedConfig

# Items that times and memory are extrapolated to.
FAR = 100_000_000
# Vectors drawn at a time: the generator's doubles are no part of the peak.
DRAWN = 65_536


class Taken(NamedTuple):
  """What one size took."""

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
    seconds and peak_bytes. Of two sizes and more the ratios say what the last
    two make of FAR items, by the line through them (coding: in proportion):
    hours, and bytes per item.
  """
  taken = [
    _in_fresh_process(_fit_and_code, _one_pass(config), width, size)
    for size in tqdm(sizes, desc="quantizer", unit="size")
  ]
  rows = []
  for size, found in zip(sizes, taken):
    for stage, seconds in zip(("fit", "codes"), found):
      name = f"quantizer at scale, {width} dimensions"
      row = timing.make_row(
        name, f"{stage}, {size:,}", "items", size, [seconds]
      )
      note = f"{seconds:.1f} s, peak memory {found.peak_bytes / 2**30:.2f} GiB"
      more = {"items": size, "width": width, "seconds": seconds}
      rows.append(row | more | {"peak_bytes": found.peak_bytes, "note": note})
  return timing.Result(rows, _extrapolate(sizes, taken))


def _one_pass(config: NestedConfig) -> NestedConfig:
  """An epoch in place of as many as steps ask for; tiny catalogues get more."""
  return dataclasses.replace(config, warmup_steps=1, steps=1)


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


def _fit_and_code(config: NestedConfig, width: int, items: int) -> Taken:
  rng = np.random.default_rng(0)
  vectors_IW = np.empty((items, width), np.float32)
  for first in range(0, items, DRAWN):
    part_BW = vectors_IW[first : first + DRAWN]
    part_BW[:] = rng.standard_normal(part_BW.shape, np.float32)
  began = time.perf_counter()
  quantizer = fit.fit(vectors_IW, config, progress=False)
  fitted = time.perf_counter()
  quantizer.encode(vectors_IW)
  coded = time.perf_counter()
  # Linux counts kilobytes.
  peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  return Taken(fitted - began, coded - fitted, peak_bytes)
