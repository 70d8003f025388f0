"""Aligns the headline system with preferences, from its best checkpoint.

The same command in one process or in several, as launch/train.py. SIGTERM, or
Ctrl-C once, saves after the round at hand and ends with status 75: the same
command goes on. launch/supervise.sh does that by itself.
"""

import pathlib

import stage

from holorec_jax import processes
from holorec_jax.experiment import alignment
from holorec_jax.experiment.config import Config


def align(config: Config, workdir: pathlib.Path) -> None:
  """The stage, and its summary."""
  alignment.align(config, workdir)
  if processes.is_first():
    alignment.summarise(workdir)


if __name__ == "__main__":
  stage.run(align, together=True)
