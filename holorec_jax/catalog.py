"""The catalogue: items, their codes, and the tree that search walks.

Items of one leaf share all codes. The `leaf` policy (methods 0) scores an
item as log p(code) + log of its smoothed share of the leaf's training
interactions, so a collision costs no decoder step.
"""

import dataclasses
from typing import Literal

import numpy as np

from holorec_jax import tree as tree_lib
from holorec_jax.errors import UserError
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class CatalogConfig:
  """How items that share a code string are told apart.

  Attributes:
    collisions: "leaf" (by training popularity, no extra step), "extra_level"
      (one more code numbers them) or "reassign" (moved to free codes).
    smoothing: added to every item's training count in a leaf.
  """

  collisions: Literal["leaf", "extra_level", "reassign"] = "leaf"
  smoothing: float = 1.0

  def __post_init__(self):
    check_ranges(self, "config.catalog", smoothing="(0, inf)")


@dataclasses.dataclass(frozen=True)
class Catalog:
  """What the generator and the search know of the items.

  Attributes:
    sids_IRL: int32 codes of every granularity, coarse to fine.
    codes_IL: int32 codes that identify items: the fine row after collision
      handling (it may have one level more than sids_IRL).
    num_codes: V, over all levels of codes_IL.
    log_share_I: float32 log share of an item in its leaf.
    tree: the prefix tree of codes_IL.
  """

  sids_IRL: np.ndarray
  codes_IL: np.ndarray
  num_codes: int
  log_share_I: np.ndarray
  tree: tree_lib.Tree

  @property
  def num_items(self) -> int:
    return len(self.codes_IL)


def build_catalog(
  sids_IRL: np.ndarray,
  codes_IL: np.ndarray,
  item_counts_I: np.ndarray,
  num_codes: int,
  smoothing: float = 1.0,
) -> Catalog:
  """Joins codes and training popularity to a catalogue.

  Args:
    sids_IRL: codes of every granularity.
    codes_IL: identifying codes, after collision handling.
    item_counts_I: training interactions of each item.
    num_codes: V of the quantizer; a collision level may need more.
    smoothing: added to every count, so that unseen items stay reachable.

  Raises:
    UserError: when the arrays disagree about the number of items, a code is
      out of range, or smoothing would leave an item without a share.
  """
  if not len(sids_IRL) == len(codes_IL) == len(item_counts_I):
    raise UserError(
      f"The catalogue has {len(item_counts_I)} items, the semantic ids"
      f" {len(sids_IRL)} and {len(codes_IL)}: they were made from different"
      " data. Fit the semantic ids on this data set."
    )
  if not smoothing > 0:
    raise UserError(
      f"catalog.smoothing is {smoothing}; expected a positive number, since an"
      " item without training interactions must stay reachable."
    )
  num_codes = max(num_codes, int(codes_IL.max(initial=0)) + 1)
  tree = tree_lib.build_tree(codes_IL, num_codes)
  weight_I = item_counts_I.astype(np.float64) + smoothing
  leaf_I = tree.leaf_of_item() - tree.level_start[-2]
  leaf_weight = np.bincount(leaf_I, weights=weight_I, minlength=tree.num_leaves)
  log_share_I = np.log(weight_I / leaf_weight[leaf_I]).astype(np.float32)
  return Catalog(
    sids_IRL=np.asarray(sids_IRL, np.int32),
    codes_IL=np.asarray(codes_IL, np.int32),
    num_codes=num_codes,
    log_share_I=log_share_I,
    tree=tree,
  )
