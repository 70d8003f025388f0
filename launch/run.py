r"""All stages of a run; those that are finished are not run again.

  python launch/run.py --config=configs/beauty.py \
    --config.data.path=PATH --workdir=DIR
"""

import stage

from holorec_jax.experiment import evaluation, preparation, training

if __name__ == "__main__":
  stage.run(
    preparation.prepare_data,
    preparation.fit_sids,
    training.train,
    evaluation.evaluate,
    evaluation.summarise,
  )
