"""The catalogue: items, their codes, and the tree that search walks.

Items of one leaf share all codes. The `leaf` policy (methods 0) scores an
item as log p(code) + log of its smoothed share of the leaf's training
interactions, so a collision costs no decoder step.

Item numbers never change. A removed item leaves the tree, and with it every
recommendation, but keeps its number and codes, since histories still hold it;
new items get the next numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from holorec_jax import tree as tree_lib
from holorec_jax.errors import UserError
from holorec_jax.neighbours import Neighbours
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class CatalogConfig:
  """How items that share a code string are told apart.

  Attributes:
    collisions: "leaf" (by training popularity, no extra step), "extra_level"
      (one more code numbers them) or "reassign" (moved to free codes, once:
      WORKDIR/reassigned keeps them).
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
    counts_I: float64 training interactions of each item.
    smoothing: added to every count.
    active_I: bool, whether an item is in the tree.
    log_share_I: float32 log share of an item among its leaf's active items;
      -inf where it is not active.
    tree: the prefix tree of the active items' codes_IL.
    neighbours: what search heeds beside the network; None: nothing.
  """

  sids_IRL: np.ndarray
  codes_IL: np.ndarray
  num_codes: int
  counts_I: np.ndarray
  smoothing: float
  active_I: np.ndarray
  log_share_I: np.ndarray
  tree: tree_lib.Tree
  neighbours: Neighbours | None = None

  @property
  def num_items(self) -> int:
    """Items that have a number, active or not."""
    return len(self.codes_IL)


def build_catalog(
  sids_IRL: np.ndarray,
  codes_IL: np.ndarray,
  item_counts_I: np.ndarray,
  num_codes: int,
  smoothing: float = 1.0,
  make_tree: Callable[[np.ndarray, int], tree_lib.Tree] = tree_lib.build_tree,
) -> Catalog:
  """Joins codes and training popularity to a catalogue of active items.

  Args:
    sids_IRL: codes of every granularity.
    codes_IL: identifying codes, after collision handling.
    item_counts_I: training interactions of each item.
    num_codes: V of the quantizer; a collision level may need more.
    smoothing: added to every count, so that unseen items stay reachable.
    make_tree: (codes, V) -> the tree, for one that was built before.

  Raises:
    UserError: when the arrays disagree about the number of items, a code is
      out of range, a count is not finite or negative, or smoothing would leave
      an item without a share.
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
  _check_sids(np.asarray(sids_IRL), num_codes, "item")
  return _assemble(
    sids_IRL,
    codes_IL,
    num_codes,
    item_counts_I,
    smoothing,
    np.ones(len(codes_IL), bool),
    make_tree(np.asarray(codes_IL), num_codes),
  )


def add_items(
  catalog: Catalog,
  sids_NRL: np.ndarray,
  codes_NL: np.ndarray,
  counts_N: np.ndarray | None = None,
) -> Catalog:
  """Appends active items, numbered on from the catalogue's last.

  Args:
    catalog: what they join.
    sids_NRL: their codes of every granularity.
    codes_NL: their identifying codes; a code string that is taken makes them
      share its leaf.
    counts_N: their training interactions, by default none.

  Returns:
    The new catalogue; num_codes stays, as the network has that many.

  Raises:
    UserError: the arrays disagree with one another or with the catalogue
      about items, granularities or levels; a code is out of range; a count is
      not finite or negative.
  """
  sids_NRL, codes_NL = np.asarray(sids_NRL), np.asarray(codes_NL)
  if counts_N is None:
    counts_N = np.zeros(len(codes_NL))
  counts_N = np.asarray(counts_N)
  _check_alike("sids", sids_NRL, catalog.sids_IRL, len(codes_NL))
  _check_alike("codes", codes_NL, catalog.codes_IL, len(codes_NL))
  _check_alike("counts", counts_N, catalog.counts_I, len(codes_NL))
  if not len(codes_NL):
    return catalog
  _check_sids(sids_NRL, catalog.num_codes, "new item")
  tree_lib.check_codes(codes_NL, catalog.num_codes, "New item")
  active_I = np.concatenate([catalog.active_I, np.ones(len(codes_NL), bool)])
  codes_IL = np.concatenate([catalog.codes_IL, codes_NL], dtype=np.int32)
  return _assemble(
    np.concatenate([catalog.sids_IRL, sids_NRL], dtype=np.int32),
    codes_IL,
    catalog.num_codes,
    np.concatenate([catalog.counts_I, counts_N]),
    catalog.smoothing,
    active_I,
    tree_lib.build_tree(codes_IL, catalog.num_codes, np.flatnonzero(active_I)),
    catalog.neighbours,
  )


def remove_items(catalog: Catalog, items: np.ndarray) -> Catalog:
  """Takes items (N,) out of the tree; those that are out already stay out.

  Raises:
    UserError: an unknown item number, or no active item would be left.
  """
  return _mark(catalog, items, False)


def restore_items(catalog: Catalog, items: np.ndarray) -> Catalog:
  """Puts items (N,) back where they were; UserError for an unknown number."""
  return _mark(catalog, items, True)


def set_active(catalog: Catalog, active_I: np.ndarray) -> Catalog:
  """The catalogue with exactly these items in its tree.

  Args:
    catalog: the items.
    active_I: bool.

  Raises:
    UserError: not one bool an item, or none is true.
  """
  active_I = np.asarray(active_I)
  if active_I.shape != (catalog.num_items,) or active_I.dtype != bool:
    raise UserError(
      f"active_I must be bool of shape ({catalog.num_items},), one for each"
      f" item; got {active_I.dtype} of shape {active_I.shape}."
    )
  if not active_I.any():
    raise UserError(
      f"None of the catalogue's {catalog.num_items} items would be left: keep"
      " at least one, or add its successors first."
    )
  return _assemble(
    catalog.sids_IRL,
    catalog.codes_IL,
    catalog.num_codes,
    catalog.counts_I,
    catalog.smoothing,
    active_I.copy(),
    tree_lib.build_tree(
      catalog.codes_IL, catalog.num_codes, np.flatnonzero(active_I)
    ),
    catalog.neighbours,
  )


def _mark(catalog: Catalog, items: np.ndarray, active: bool) -> Catalog:
  items = np.asarray(items)
  tree_lib.check_items(items, catalog.num_items)
  active_I = catalog.active_I.copy()
  active_I[items.astype(np.int64)] = active
  return set_active(catalog, active_I)


def _assemble(
  sids_IRL: np.ndarray,
  codes_IL: np.ndarray,
  num_codes: int,
  counts_I: np.ndarray,
  smoothing: float,
  active_I: np.ndarray,
  tree: tree_lib.Tree,
  neighbours: Neighbours | None = None,
) -> Catalog:
  """Computes what follows from the items and their tree: the shares."""
  _check_counts(counts_I)
  counts_I = np.asarray(counts_I, np.float64)
  weight_A = counts_I[active_I] + smoothing
  leaf_A = tree.leaf_of_item()[active_I] - tree.level_start[-2]
  leaf_weight = np.bincount(leaf_A, weights=weight_A, minlength=tree.num_leaves)
  log_share_I = np.full(len(codes_IL), -np.inf, np.float32)
  log_share_I[active_I] = np.log(weight_A / leaf_weight[leaf_A])
  return Catalog(
    sids_IRL=np.asarray(sids_IRL, np.int32),
    codes_IL=np.asarray(codes_IL, np.int32),
    num_codes=num_codes,
    counts_I=counts_I,
    smoothing=smoothing,
    active_I=active_I,
    log_share_I=log_share_I,
    tree=tree,
    neighbours=neighbours and neighbours.lengthened(len(codes_IL)),
  )


def _check_alike(
  name: str, new: np.ndarray, old: np.ndarray, num_items: int
) -> None:
  """Holds new rows to the catalogue's form: (N, ..) as its (I, ..)."""
  expected = (num_items, *old.shape[1:])
  if new.shape != expected:
    raise UserError(
      f"The new items' {name} are of shape {new.shape}; expected {expected}"
      f" for {num_items} items, since the catalogue's are {old.shape}. Quantize"
      " them with the catalogue's quantizer and collision policy."
    )


def _check_sids(sids_NRL: np.ndarray, num_codes: int, what: str) -> None:
  for granularity in range(sids_NRL.shape[1]):
    tree_lib.check_codes(
      sids_NRL[:, granularity],
      num_codes,
      f"Granularity {granularity} of {what}",
    )


def _check_counts(counts_I: np.ndarray) -> None:
  wrong_I = ~(np.isfinite(counts_I) & (counts_I >= 0))
  if wrong_I.any():
    item = int(np.argmax(wrong_I))
    raise UserError(
      f"Item {item} counts {counts_I[item]} training interactions; expected a"
      " number of at least 0."
    )
