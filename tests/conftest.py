"""Eight simulated CPU devices, parsed flags and the optional real data."""

import importlib.metadata
import os
import pathlib
import sys

# Before jax is imported anywhere: tests see a mesh of eight devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny programs: most of a test's time would go into optimising them.
XLA_FLAGS = (
  "--xla_force_host_platform_device_count=8"
  " --xla_backend_optimization_level=0"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
  # Halves compilation. Later versions do not know it, and end the process.
  XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}"

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Grain's worker processes read absl flags.
flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder of real data sets beside the checkout; skips without it."""
  folder = ROOT.parent / "shared" / "data"
  if not folder.is_dir():
    pytest.skip("the real data sets are not beside this checkout")
  return folder
