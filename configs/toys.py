r"""HoloRec on Amazon 2014 Toys: the hyperparameters of Beauty, untouched.

  python launch/run.py --config=configs/toys.py \
    --config.data.path=PATH --workdir=DIR

Item-level test R@10 .0865, N@10 .0466, seen items kept, thinking, three seeds
(commit e07a239; deviations and other systems in docs/results.md).
"""

from ml_collections import ConfigDict

from configs import beauty


def get_config(variant: str = "thinking") -> ConfigDict:
  config = beauty.get_config(variant)
  config.data.name = "toys"
  config.data.text_columns = ("title", "categories")
  return config
