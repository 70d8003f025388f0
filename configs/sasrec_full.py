r"""SASRec with full cross-entropy: the network and budget of HoloRec's paper.

  python launch/run.py --config=configs/sasrec_full.py \
    --config.data.path=PATH --workdir=DIR

Source: arXiv 1808.09781. Leaves: configs/paper.py and the variant in
configs/systems.py; any other may stand behind a colon.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(variant: str = "sasrec") -> ConfigDict:
  return paper.get_config(variant)
