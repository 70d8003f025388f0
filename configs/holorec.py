"""HoloRec's defaults; every other config starts from these leaves.

The leaves are those of the library's dataclasses, whose docstrings say what
each one is; `python launch/run.py --config=configs/holorec.py --helpfull` lists
them with their values.
"""

from ml_collections import ConfigDict

from holorec_jax.experiment.config import Config, as_config_dict


def get_config() -> ConfigDict:
  return as_config_dict(Config())
