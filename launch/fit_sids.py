"""Builds item vectors and fits semantic ids into WORKDIR/sids."""

import stage

from holorec_jax.experiment import stages

if __name__ == "__main__":
  stage.run(stages.fit_sids)
