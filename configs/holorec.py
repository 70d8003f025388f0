"""HoloRec's defaults; every other config starts from these leaves.

The leaves are those of the library's dataclasses: the docstring of
holorec_jax/experiment/config.py leads to what each one is. A run lists them
with their values in WORKDIR/config.json.
"""

from ml_collections import ConfigDict

from holorec_jax.experiment.config import Config, as_config_dict


def get_config() -> ConfigDict:
  return as_config_dict(Config())
