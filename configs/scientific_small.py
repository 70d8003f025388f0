r"""HoloRec on Amazon 2018 Scientific, the small subset: a run of minutes.

  python launch/run.py --config=configs/scientific_small.py \
    --config.data.path=PATH --workdir=DIR
"""

from ml_collections import ConfigDict

from configs import beauty


def get_config(variant: str = "thinking") -> ConfigDict:
  config = beauty.get_config(variant)
  config.data.name = "scientific_small"
  config.data.text_columns = ()
  return config
