"""One service of a tiny bundle, which tests leave as they found it."""

import asyncio
import pathlib

import pytest
from tiny_bundle import write_bundle

from holorec_jax.serve.service import QueueConfig, Service


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> pathlib.Path:
  """Folder of a bundle."""
  return write_bundle(tmp_path_factory.mktemp("bundles") / "one")


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> pathlib.Path:
  """Folder of one that answers otherwise."""
  return write_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=1)


@pytest.fixture(scope="session")
def service(bundle):
  """Answers from the first bundle, eight requests may wait."""
  service = Service(str(bundle), QueueConfig(batches=2, deadline=20))
  asyncio.run(service.swap())
  yield service
  asyncio.run(service.close())
