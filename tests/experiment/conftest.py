"""One finished run that several files of tests look at, and copy to spoil."""

import pytest
from tiny_run import TINY, run_all


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  return run_all(TINY, workdir), workdir
