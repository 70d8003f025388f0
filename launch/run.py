r"""All stages of a run; those that are finished are not run again.

  python launch/run.py --config=configs/beauty.py \
    --config.data.path=PATH --workdir=DIR
"""

import stage

from holorec_jax.experiment import evaluation, stages

if __name__ == "__main__":
  stage.run(
    stages.prepare_data,
    stages.fit_sids,
    stages.train,
    evaluation.evaluate,
    evaluation.summarise,
  )
