"""The machine: what it is, what runs on it, and what its products reach.

No program of ours does more float32 operations a second than one large plain
matrix product, so the share of that speed says how much is left to be had.
Products run in the precision that the device has by default, as our models do.
"""

import functools
import importlib.metadata
import os
import pathlib
import platform
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax import sharding
from holorec_jax.experiment import timing
from holorec_jax.precision import Dtype

# Rows and columns of the factors: 0.1 s on two CPU cores. On an accelerator one
# product takes a millisecond or two, and starting a program a tenth of that: a
# run there is a chain of so many.
CPU_SIZE, ACCELERATOR_SIZE = 2048, 8192
ACCELERATOR_CHAIN = 16
PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "grain",
  "numpy",
  "torch",
  "transformers",
)


class Product:
  """Matrix products that keep all of a mesh busy.

  Attributes:
    flops: of one run.
  """

  def __init__(self, mesh: jax.sharding.Mesh, dtype: Dtype = "float32"):
    cpu = mesh.devices.flat[0].platform == "cpu"
    size = CPU_SIZE if cpu else ACCELERATOR_SIZE
    chain = 1 if cpu else ACCELERATOR_CHAIN
    # Several CPU devices share the cores.
    rows = -(-size // mesh.size) * mesh.size if cpu else size * mesh.size
    self.flops = 2.0 * rows * size * size * chain
    # Not of ones: some chips multiply those faster than other numbers.
    draw = np.random.default_rng(0).standard_normal
    left = draw((rows, size), np.float32)
    right = draw((size, size), np.float32) * np.float32(size**-0.5)
    self._left = sharding.put_rows(left, mesh).astype(dtype)
    self._right = jax.device_put(right, sharding.replicated(mesh)).astype(dtype)
    self._multiply = jax.jit(
      lambda left, right: functools.reduce(jnp.matmul, [right] * chain, left)
    )

  def run(self) -> None:
    """Multiplies, on an accelerator several times over, until it is done."""
    self._multiply(self._left, self._right).block_until_ready()

  def speed(self, seconds: list[float]) -> float:
    """GFLOP/s of the median run."""
    return self.flops / statistics.median(seconds) / 1e9


def describe_machine(repeats: int) -> dict[str, Any]:
  """Device, cores, load, versions and matmul ceiling, for a report."""
  # Before our own work adds to it.
  load = os.getloadavg()[0]
  product = Product(sharding.make_mesh())
  [seconds] = timing.take_turns([product.run], repeats, "matrix products")
  return {
    "device": jax.devices()[0].device_kind,
    "devices": jax.local_device_count(),
    "cpu": _cpu_model(),
    "cpus": _usable_cpus(),
    "load": load,
    "matmul_gflops_per_second": product.speed(seconds),
    "python": platform.python_version(),
    "versions": _versions(),
  }


def _versions() -> dict[str, str]:
  found = {}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _usable_cpus() -> int:
  """Those that this process may run on, where the system tells."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _cpu_model() -> str:
  info = pathlib.Path("/proc/cpuinfo")
  if info.is_file():
    for line in info.read_text().splitlines():
      name, _, value = line.partition(":")
      if name.strip() == "model name":
        return value.strip()
  return platform.processor() or platform.machine()
