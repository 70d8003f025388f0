"""One finished run that several files of tests look at, and copy to spoil."""

import fcntl
import os
import shutil

import pytest
from tiny_run import TINY, run_all

from holorec_jax.experiment.config import as_config_dict, load_config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  """The run's config and its folder."""
  # Tests' processes share it: whoever comes first makes it.
  folder = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    folder = folder.parent
  original = folder / "finished"
  with open(folder / "finished.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (original / "results.json").exists():
      run_all(TINY, original)
  workdir = tmp_path_factory.mktemp("run") / "copy"
  shutil.copytree(original, workdir)
  return load_config(as_config_dict(TINY), workdir), workdir
