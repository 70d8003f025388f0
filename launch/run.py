r"""All stages of a run; those that are finished are not run again.

  python launch/run.py --config=configs/beauty.py \
    --config.data.path=PATH --workdir=DIR
"""

import pathlib

import stage
import align
from absl import flags

from holorec_jax.experiment import alignment, evaluation, preparation, training
from holorec_jax.experiment.config import Config

ALIGN = flags.DEFINE_bool(
  "align",
  False,
  "Align the headline system with preferences at the end, as launch/align.py"
  " does.",
)


def check(config: Config, workdir: pathlib.Path) -> None:
  """Refuses ahead what the last stage would refuse."""
  del workdir
  if ALIGN.value:
    alignment.check_generates(config.systems[0])


def align_if_asked(config: Config, workdir: pathlib.Path) -> None:
  """The last stage."""
  if ALIGN.value:
    align.align(config, workdir)


if __name__ == "__main__":
  stage.run(
    check,
    preparation.prepare_data,
    preparation.fit_sids,
    training.train,
    evaluation.evaluate,
    evaluation.summarise,
    align_if_asked,
  )
