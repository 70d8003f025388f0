"""What codes mean beside telling items apart: clusters and categories.

S2GR's thoughts aim at clusters of codes; REG4Rec prunes paths whose codes are
of different categories.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from holorec_jax.catalog import Catalog
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.preparation import Data
from holorec_jax.quantize import categories, clusters, quantizers


@dataclasses.dataclass(frozen=True)
class Meaning:
  """Of a catalogue's codes; what no system of a run asks for is None.

  Attributes:
    cluster_LV: int32 cluster of every code; levels that only number collisions
      are left out.
    category_LV: int32 most frequent leaf category of a code's items, -1 for
      none.
  """

  cluster_LV: np.ndarray | None = None
  category_LV: np.ndarray | None = None


def find_meaning(
  config: Config, workdir: pathlib.Path, data: Data, built: Catalog
) -> Meaning:
  """What the systems of the config need to know of the codes."""
  cluster_LV = category_LV = None
  if "s2gr" in config.systems:
    cluster_LV = _clusters(config, workdir, built)
  if "reg4rec" in config.systems and config.search.corp:
    category_LV = categories.code_categories(
      built.codes_IL,
      categories.leaf_categories(data.dataset)[0],
      built.num_codes,
    )
  return Meaning(cluster_LV, category_LV)


def _clusters(
  config: Config, workdir: pathlib.Path, built: Catalog
) -> np.ndarray:
  levels = built.sids_IRL.shape[2]
  codes_IL = built.codes_IL[:, :levels]
  if config.sids_path:
    vectors_ID = np.load(workdir / "vectors" / "vectors.npy")
    codebooks_LVD, used_LV = clusters.mean_codebooks(
      vectors_ID, codes_IL, built.num_codes
    )
  else:
    quantizer: Any = quantizers.load(workdir / "sids")
    codebooks_LVD = quantizer.codebooks_LVD
    used_LV = np.stack(
      [
        np.bincount(code_I, minlength=built.num_codes) > 0
        for code_I in codes_IL.T
      ]
    )
  return clusters.cluster_codes(
    codebooks_LVD, config.s2gr.clusters, config.train.seed, used_LV
  )
