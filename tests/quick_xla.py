"""Flags of XLA for tests: of tiny programs only compiling takes long."""

import importlib.metadata


def xla_flags(devices: int) -> str:
  """For so many simulated devices, compiled without much optimising."""
  flags = (
    f"--xla_force_host_platform_device_count={devices}"
    " --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
  )
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Halves compilation. Later versions do not know it, and end the process.
    flags += " --xla_cpu_use_fusion_emitters=false"
  return flags
