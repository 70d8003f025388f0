r"""Fits every quantizer on one data set and prints a table of their health.

  python launch/compare_quantizers.py --config=configs/beauty.py \
    --config.data.path=PATH --workdir=DIR

A row is the codes of a system's variant in configs/systems.py:
  nested         HoloRec's: nested residual codes of several granularities
  rqvae          TIGER's: one granularity, no load balance
  collaborative  S2GR's: smoothed vectors, uniformity, load balance
  rq_kmeans      balanced k-means on residuals
  parallel       REG4Rec's experts, unordered codes
Rows and numbers are in DIR/quantizers.json, too; what is there is not fitted
again. What the columns mean is told in
holorec_jax/experiment/quantizer_table.py.
"""

import copy
import pathlib

import stage

from configs import systems
from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.experiment import preparation, quantizer_table
from holorec_jax.experiment.config import Config

VARIANTS = {
  "nested": "thinking",
  "rqvae": "tiger",
  "collaborative": "s2gr",
  "rq_kmeans": "sasrec",
  "parallel": "reg4rec",
}


def check(config: Config, _: pathlib.Path) -> None:
  """Raises UserError for another system, whose leaves would be in all rows."""
  if not {"thinking", "non_thinking"}.issuperset(config.systems):
    raise UserError(
      f"--config is of {', '.join(config.systems)}: give HoloRec's, such as"
      " configs/beauty.py, since a row changes its leaves alone"
    )


def compare(config: Config, workdir: pathlib.Path) -> None:
  """The table of VARIANTS of --config."""
  configs = {}
  for name, variant in VARIANTS.items():
    chosen = systems.choose(copy.deepcopy(stage.CONFIG.value), variant)
    configs[name] = config_fields.to_dataclass(Config, chosen)
  quantizer_table.compare(configs, config, workdir)


if __name__ == "__main__":
  stage.run(check, preparation.prepare_data, compare)
