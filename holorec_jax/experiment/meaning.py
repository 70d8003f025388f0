"""What codes mean beside telling items apart: clusters and categories.

S2GR's thoughts aim at clusters of codes; REG4Rec prunes paths whose codes are
of different categories.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from holorec_jax.catalog import Catalog
from holorec_jax.errors import UserError
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
  config: Config, workdir: pathlib.Path, data: Data, built: Catalog, name: str
) -> Meaning:
  """What a system needs to know of the codes to train and search."""
  cluster_LV = None
  if name == "s2gr":
    cluster_LV = _clusters(config, workdir, built)
  return Meaning(cluster_LV, find_categories(config, data, built, name))


def find_categories(
  config: Config, data: Data, built: Catalog, name: str
) -> np.ndarray | None:
  """The codes' categories for a search that prunes; else None.

  Raises:
    UserError: no item has a category.
  """
  if name != "reg4rec" or not config.search.corp:
    return None
  category_I, names = categories.leaf_categories(data.dataset)
  if not names:
    raise UserError(
      "config.search.corp compares the categories of codes, but the items have"
      " none: it needs a text column 'categories' (config.data.text_columns)."
    )
  return categories.code_categories(built.codes_IL, category_I, built.num_codes)


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
