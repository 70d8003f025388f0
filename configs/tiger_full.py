r"""TIGER: the network and budget of HoloRec's paper.

  python launch/run.py --config=configs/tiger_full.py \
    --config.data.path=PATH --workdir=DIR

Source: arXiv 2305.05065. Leaves: configs/paper.py and the variant in
configs/systems.py; any other may stand behind a colon.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(variant: str = "tiger") -> ConfigDict:
  return paper.get_config(variant)
