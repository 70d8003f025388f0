"""GPUs that are not here, for XLA to compile for.

XLA's CUDA plugin compiles on machines without a GPU when it is told what the
device is like: what a step needs of its memory is then what it needs there, and
not what a CPU would. Nothing is tried out, so products are not those that an
autotuned program would choose; their time is not known.
"""

import dataclasses
import importlib
import os

import jax
from jax.experimental import topologies

from holorec_jax.errors import UserError

PER_HOST = 8
# Without a GPU there is nothing to time products on.
COMPILER_OPTIONS = {"xla_gpu_autotune_level": "0"}
_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")


@dataclasses.dataclass(frozen=True)
class Gpu:
  """Facts from the vendor's data sheets; memory is what the driver says.

  Attributes:
    name: as the driver says it.
    capability: (major, minor).
    cores: streaming multiprocessors.
    clock: in GHz.
    memory: bytes.
    bandwidth: bytes a second of it.
    l2: bytes of its cache.
    shared_core: bytes of shared memory of a multiprocessor.
    shared_block: of them, what a block may take.
  """

  name: str
  capability: tuple[int, int]
  cores: int
  clock: float
  memory: int
  bandwidth: int
  l2: int
  shared_core: int
  shared_block: int


_HOPPER = Gpu(
  name="NVIDIA H100 80GB HBM3",
  capability=(9, 0),
  cores=132,
  clock=1.98,
  memory=81_559 << 20,
  bandwidth=3_350 * 10**9,
  l2=50 << 20,
  shared_core=228 << 10,
  shared_block=227 << 10,
)
GPUS = {
  "a100": Gpu(
    name="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    cores=108,
    clock=1.41,
    memory=81_920 << 20,
    bandwidth=2_039 * 10**9,
    l2=40 << 20,
    shared_core=164 << 10,
    shared_block=163 << 10,
  ),
  "h100": _HOPPER,
  "h200": dataclasses.replace(
    _HOPPER,
    name="NVIDIA H200",
    memory=143_771 << 20,
    bandwidth=4_800 * 10**9,
  ),
}


def find_devices(kind: str, count: int) -> list[jax.Device]:
  """So many GPUs, eight to a host, that programs can be compiled for.

  Args:
    kind: one of GPUS.
    count: less than eight, or a multiple.

  Raises:
    UserError: JAX's CUDA plugin is not installed, or the last host would not
      be full.
  """
  hosts, rest = divmod(count, PER_HOST)
  if hosts and rest:
    raise UserError(
      f"a plan for {count} GPUs would leave a host of {PER_HOST} partly empty:"
      f" plan for fewer than {PER_HOST} devices, or for a multiple"
    )
  options = {
    "topology": f"1x{hosts}x{PER_HOST}" if hosts else f"1x1x{count}",
    "target_config": target_config(GPUS[kind]),
  }
  try:
    found = topologies.get_topology_desc(platform="cuda", **options)
  except NotImplementedError:  # JAX knows no CUDA.
    _load_plugin()
    try:
      found = topologies.get_topology_desc(platform="cuda", **options)
    except (NotImplementedError, jax.errors.JaxRuntimeError) as error:
      raise UserError(
        f"the installed CUDA plugin knows no GPUs that are not here ({error}):"
        f" install that of jax {jax.__version__}"
      ) from error
  return list(found.devices)


def _load_plugin() -> None:
  """Loads what JAX itself has not, or has dropped for want of a driver.

  In a process that only plans: a driver that is too old is not noticed.
  """
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  for name in _PLUGINS:
    try:
      plugin = importlib.import_module(name)
    except ModuleNotFoundError:
      continue
    plugin.initialize()
    return
  raise UserError(
    "plans for a GPU need JAX's CUDA plugin, with or without a GPU:"
    f" pip install 'jax[cuda13]=={jax.__version__}'"
  )


def target_config(gpu: Gpu) -> str:
  """XLA's GpuTargetConfigProto, as text."""
  major, minor = gpu.capability
  return f"""
    gpu_device_info {{
      threads_per_block_limit: 1024
      threads_per_warp: 32
      shared_memory_per_block: {48 << 10}
      shared_memory_per_core: {gpu.shared_core}
      shared_memory_per_block_optin: {gpu.shared_block}
      threads_per_core_limit: 2048
      core_count: {gpu.cores}
      fpus_per_core: {128 if major > 8 else 64}
      block_dim_limit_x: {2**31 - 1}
      block_dim_limit_y: {2**16 - 1}
      block_dim_limit_z: {2**16 - 1}
      memory_bandwidth: {gpu.bandwidth}
      l2_cache_size: {gpu.l2}
      clock_rate_ghz: {gpu.clock}
      device_memory_size: {gpu.memory}
      registers_per_core_limit: {2**16}
      registers_per_block_limit: {2**16}
      cuda_compute_capability {{ major: {major} minor: {minor} }}
    }}
    platform_name: "CUDA"
    dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
    device_description_str: "{gpu.name}"
  """
