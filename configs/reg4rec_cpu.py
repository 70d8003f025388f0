r"""REG4Rec: Beauty, at most an hour on two CPU cores.

  python launch/run.py --config=configs/reg4rec_cpu.py \
    --config.data.path=PATH --workdir=DIR

Source: arXiv 2508.15308. Leaves: configs/beauty.py and the variant in
configs/systems.py; any other may stand behind a colon. Toys: configs/toys.py
with the same variants.
"""

from ml_collections import ConfigDict

from configs import beauty


def get_config(variant: str = "reg4rec") -> ConfigDict:
  return beauty.get_config(variant)
