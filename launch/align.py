"""Aligns the headline system with preferences, from its best checkpoint."""

import pathlib

import stage

from holorec_jax.experiment import alignment
from holorec_jax.experiment.config import Config


def align(config: Config, workdir: pathlib.Path) -> None:
  """The stage, with its section of the config."""
  alignment.align(config, config.preference, workdir)
  alignment.summarise(workdir)


if __name__ == "__main__":
  stage.run(align)
