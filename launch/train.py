"""Trains the systems of the config; goes on from the last checkpoint."""

import stage

from holorec_jax.experiment import stages

if __name__ == "__main__":
  stage.run(stages.train)
