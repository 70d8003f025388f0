"""Reads and filters the raw data into WORKDIR/dataset."""

import stage

from holorec_jax.experiment import stages

if __name__ == "__main__":
  stage.run(stages.prepare_data)
