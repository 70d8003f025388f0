r"""HoloRec: a small data set, minutes on two CPU cores.

  python launch/run.py --config=configs/holorec_small.py \
    --config.data.path=PATH --workdir=DIR

Source: arXiv 2606.15331. Leaves: configs/scientific_small.py and the variant in
configs/systems.py; any other may stand behind a colon.
"""

from ml_collections import ConfigDict

from configs import scientific_small


def get_config(variant: str = "thinking") -> ConfigDict:
  return scientific_small.get_config(variant)
