"""Builds item vectors and fits semantic ids into WORKDIR/sids."""

import stage

from holorec_jax.experiment import preparation

if __name__ == "__main__":
  stage.run(preparation.fit_sids)
