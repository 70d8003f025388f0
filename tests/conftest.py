"""Eight simulated CPU devices, parsed flags and the optional real data."""

import gc
import os
import pathlib

# Tests read XLA's warnings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

import prelude  # noqa: F401
from quick_xla import xla_flags

# Before jax is imported anywhere: tests see a mesh of eight devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}"

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Tracing makes objects by the million, few of them in cycles.
gc.set_threshold(100_000, 20, 100)
# Grain's worker processes read absl flags.
flags.FLAGS.mark_as_parsed()

# Their files take longest.
SLOW = ("launch", "experiment")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Slow files come first, so that none is left to one process at the end."""
  items.sort(key=lambda item: item.path.parent.name not in SLOW)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
  """The folder of real data sets beside the checkout; skips without it."""
  folder = ROOT.parent / "shared" / "data"
  if not folder.is_dir():
    pytest.skip("the real data sets are not beside this checkout")
  return folder
