r"""TIGER: a small data set, minutes on two CPU cores.

  python launch/run.py --config=configs/tiger_small.py \
    --config.data.path=PATH --workdir=DIR

Source: arXiv 2305.05065. Leaves: configs/scientific_small.py and the variant in
configs/systems.py; any other may stand behind a colon.
"""

from ml_collections import ConfigDict

from configs import scientific_small


def get_config(variant: str = "tiger") -> ConfigDict:
  return scientific_small.get_config(variant)
