"""Trains the systems of the config; goes on from the last checkpoint."""

import stage

from holorec_jax.experiment import training

if __name__ == "__main__":
  stage.run(training.train)
