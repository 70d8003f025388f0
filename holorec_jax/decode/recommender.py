"""A trained system that answers: histories in, items out.

Pads users to fixed batches, so one compiled search serves any number of them.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.catalog import Catalog
from holorec_jax.decode import prior
from holorec_jax.decode.batching import Batching, pad
from holorec_jax.decode.engine import Engine
from holorec_jax.decode.requests import Filters, Histories, Recommendations
from holorec_jax.errors import UserError
from holorec_jax.neighbours import NeighboursConfig
from holorec_jax.precision import Dtype, cast
from holorec_jax.ranges import check_ranges

WIDEST_BEAM = 1024


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """How recommendations are searched.

  Attributes:
    beam: prefixes kept per level.
    k: items returned.
    batch: users searched at once; fewer are padded to a power of two. More
      than 64 leave a CPU core's cache; accelerators take a thousand.
    room: share by which the catalogue may grow before search, whose arrays are
      that much longer, compiles again.
    dtype: compute dtype; scores are float32.
    corp: REG4Rec's search drops paths whose codes' categories disagree.
    any_order: REG4Rec's search tries every codebook next, not the most
      confident one; of equal sets the best order counts. With a beam no wider
      than k it may find fewer than k items.
    neighbours: evidence beside the network's (`decode/evidence.py`).
  """

  beam: int = 20
  k: int = 20
  batch: int = 64
  room: float = 0.0
  dtype: Dtype = "float32"
  corp: bool = False
  any_order: bool = False
  neighbours: NeighboursConfig = dataclasses.field(
    default_factory=NeighboursConfig
  )

  def __post_init__(self):
    check_ranges(
      self,
      "config.search",
      beam=f"[1, {WIDEST_BEAM}]",
      k=f"[1, {WIDEST_BEAM}]",
      batch="[1, inf)",
      room="[0, inf)",
    )
    if self.beam < self.k:
      raise UserError(
        f"config.search.beam is {self.beam}, less than config.search.k ="
        f" {self.k}: fewer prefixes than items may not lead to k items. Raise"
        " beam, or lower k."
      )


class Recommender:
  """One system: engine, parameters, catalogue, compiled searches.

  Attributes:
    catalog: the items, as of the last `set_catalog`.
    engine: of the search.
    params: on device, in the search's dtype.
    placed: the catalogue's codes and index on device.
    config: of the search.
    max_history: items of a history that are read.
  """

  def __init__(
    self,
    engine: Engine,
    params: dict,
    catalog: Catalog,
    mesh: Mesh,
    max_history: int,
    config: SearchConfig,
  ):
    self.engine = engine
    self._mesh = mesh
    self.config = config
    self.max_history = max_history
    self._batching = Batching(config.batch, mesh.size)
    self.placed: Any = None
    self.set_catalog(catalog)
    self.set_params(params)

  def drop_params(self) -> None:
    """Frees their memory on device until they are set again."""
    self.params: dict = {}

  def set_params(self, params: dict) -> None:
    """Answers with these parameters from now on; nothing is compiled again."""
    params = jax.device_put(params, sharding.replicated(self._mesh))
    self.params = cast(params, self.config.dtype)

  def set_catalog(self, catalog: Catalog) -> bool:
    """Answers from this catalogue from now on; all its items are available.

    Args:
      catalog: of codes that the model knows, such as the present one with
        items added or removed.

    Returns:
      Whether it fits the arrays on device (`config.search.room` says how much
      it may grow). Otherwise these grow and the next search compiles again.

    Raises:
      UserError: the model was made for another catalogue.
    """
    self.engine.check(catalog)
    placed = jax.device_put(
      self.engine.place(catalog), sharding.replicated(self._mesh)
    )
    fits = self.placed is not None and _alike(self.placed, placed)
    if self.placed is not None and not fits:
      logging.info("the catalogue outgrew its arrays; search compiles again")
    self.placed = placed
    self.catalog = catalog
    self.set_available(np.ones(catalog.num_items, bool))
    return fits

  def set_available(self, available_I: np.ndarray) -> None:
    """Returns only these items from now on; nothing is compiled again.

    Args:
      available_I: bool over the catalogue's items, such as what is in stock.
    """
    if np.shape(available_I) != (self.catalog.num_items,):
      raise UserError(
        f"availability has shape {np.shape(available_I)}; expected one value"
        f" for each of the catalogue's {self.catalog.num_items} items"
      )
    available_I = np.asarray(available_I, bool)
    self._live = self.engine.live(self.placed[1], available_I)
    self._prior_I = prior.score_items(self.catalog)
    self._prior_order = prior.order_items(
      self._prior_I, available_I & self.catalog.active_I
    )

  def recommend(
    self,
    histories: Histories,
    filters: Filters | None = None,
    k: int | None = None,
    progress: str = "",
  ) -> Recommendations:
    """Best items of every history, the best first.

    Args:
      histories: whose next item is asked for; of longer ones than the
        generator takes it reads the most recent items.
      filters: on what is returned; None: any available item.
      k: items a user, at most 1024; None: config.search.k. More than
        config.search.beam widen the beam, which compiles once for each power
        of two. More than there are items: the rest is invalid.
      progress: label of a progress bar; none if empty.

    Raises:
      UserError: unknown items, lists that are not one a user, k out of range.
    """
    filters = filters or Filters()
    k = self.config.k if k is None else k
    if not 1 <= k <= WIDEST_BEAM:
      raise UserError(f"k is {k}; expected 1..{WIDEST_BEAM}")
    filters.check(len(histories), self.catalog.num_items)
    beam = self.config.beam
    if k > beam:
      beam = 1 << (k - 1).bit_length()
    items_UK = np.full((len(histories), k), -1, np.int32)
    scores_UK = np.full((len(histories), k), -np.inf, np.float32)
    for rows in self._batching.slices(len(histories), progress):
      items_UK[rows], scores_UK[rows] = self._answer(
        histories, rows, filters, beam, k
      )
    from_prior_U = histories.lengths() == 0
    for user in np.flatnonzero(from_prior_U).tolist():
      items_UK[user], scores_UK[user] = prior.best_items(
        self._prior_order,
        self._prior_I,
        k,
        None if filters.deny is None else filters.deny[user],
        None if filters.allow is None else filters.allow[user],
      )
    return Recommendations(items_UK, scores_UK, from_prior_U)

  def _answer(
    self, histories: Histories, rows: slice, filters: Filters, beam: int, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores of one batch of users."""
    item_BT = histories.padded(rows, self.max_history)
    # What was seen before the latest items is denied, too.
    read = histories.width(rows) if filters.exclude_seen else self.max_history
    histories.check(rows, read, self.catalog.num_items)
    lists = filters.lists(histories, rows)
    size = self._batching.size(len(histories))
    columns = sharding.put_rows(pad((item_BT, lists), size), self._mesh)
    # All that the beams found: one program for every k.
    found = self.engine.make_search(beam, beam)(
      self.params, *self.placed, self._live, *columns
    )
    count = rows.stop - rows.start
    return (
      np.asarray(found.item_BK)[:count, :k],
      np.asarray(found.score_BK)[:count, :k],
    )


def _alike(old, new) -> bool:
  """Whether what was compiled for the old arrays takes the new ones."""

  def form(tree):
    leaves, structure = jax.tree.flatten(tree)
    return structure, [np.shape(leaf) for leaf in leaves]

  return form(old) == form(new)
