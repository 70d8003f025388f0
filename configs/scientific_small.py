"""HoloRec on Amazon 2018 Scientific, the small subset: a smoke run of minutes.

  python launch/run.py --config=configs/scientific_small.py \
    --config.data.path=PATH --workdir=DIR
"""

from ml_collections import ConfigDict

from configs import holorec


def get_config() -> ConfigDict:
  config = holorec.get_config()
  config.systems = ("thinking", "non_thinking")
  config.data.source = "sequences"
  config.data.name = "scientific_small"
  return config
