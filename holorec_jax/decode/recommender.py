"""A trained generator that answers: histories in, items and thoughts out.

Pads users to fixed batches, so one compiled search serves any number of them.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax import tree as tree_lib
from holorec_jax.catalog import Catalog
from holorec_jax.codes import device_codes
from holorec_jax.decode import prior, search_tree
from holorec_jax.decode.filters import live_nodes
from holorec_jax.decode.requests import Filters, Histories, Recommendations
from holorec_jax.decode.search import make_search
from holorec_jax.errors import UserError
from holorec_jax.models.generator import Generator
from holorec_jax.ranges import check_ranges
from holorec_jax.types import Batch

WIDEST_BEAM = 1024


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """How recommendations are searched.

  Attributes:
    beam: prefixes kept per level.
    k: items returned.
    batch: users searched at once; fewer are padded to a power of two.
    room: share by which the catalogue may grow before search, whose arrays are
      that much longer, compiles again.
  """

  beam: int = 20
  k: int = 20
  batch: int = 256
  room: float = 0.0

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
  """One system: generator, parameters, catalogue, compiled searches.

  Attributes:
    catalog: the items, as of the last `set_catalog`.
  """

  def __init__(
    self,
    model: Generator,
    params: dict,
    catalog: Catalog,
    mesh: Mesh,
    max_history: int,
    config: SearchConfig,
  ):
    self._model = model
    self._mesh = mesh
    self._config = config
    self._width = max_history
    self._batch = -(-config.batch // mesh.size) * mesh.size
    self._capacity: search_tree.Capacity | None = None
    self._make_search = functools.cache(functools.partial(make_search, model))
    self.set_catalog(catalog)
    self.set_params(params)

  def set_params(self, params: dict) -> None:
    """Answers with these parameters from now on; nothing is compiled again."""
    self._params = jax.device_put(params, sharding.replicated(self._mesh))

  def set_catalog(self, catalog: Catalog) -> bool:
    """Answers from this catalogue from now on; all its items are available.

    Args:
      catalog: of codes that the generator knows, such as the present one with
        items added or removed.

    Returns:
      Whether it fits the arrays on device (`config.search.room` says how much
      it may grow). Otherwise these grow and the next search compiles again.

    Raises:
      UserError: the generator was made for other codes.
    """
    model = self._model
    has = (catalog.codes_IL.shape[1], catalog.num_codes)
    if has != (model.num_levels, model.num_codes):
      raise UserError(
        f"the catalogue has {has[0]} levels of {has[1]} codes, this generator"
        f" was made for {model.num_levels} levels of {model.num_codes}: load"
        " the catalogue of the run that trained it"
      )
    fits = self._capacity is not None and self._capacity.holds(
      search_tree.needs(catalog, self._capacity.dense_groups)
    )
    if not fits:
      if self._capacity is not None:
        logging.info("the catalogue outgrew its arrays; search compiles again")
      self._capacity = search_tree.with_room(
        search_tree.needs(catalog), self._config.room
      )
    whole = sharding.replicated(self._mesh)
    capacity = self._capacity
    assert capacity is not None
    self.catalog = catalog
    codes = device_codes(catalog, "level", capacity.items)
    self._codes = jax.device_put(codes, whole)
    tree = search_tree.device_tree(catalog, capacity)
    self._tree = jax.device_put(tree, whole)
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
    room = len(self._tree.leaf_items) - len(available_I)
    padded = jax.device_put(
      np.pad(available_I, (0, room)), sharding.replicated(self._mesh)
    )
    self._live = live_nodes(self._tree, padded)
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
    k = self._config.k if k is None else k
    if not 1 <= k <= WIDEST_BEAM:
      raise UserError(f"k is {k}; expected 1..{WIDEST_BEAM}")
    filters.check(len(histories), self.catalog.num_items)
    beam = self._config.beam
    if k > beam:
      beam = 1 << (k - 1).bit_length()
    items_UK = np.full((len(histories), k), -1, np.int32)
    scores_UK = np.full((len(histories), k), -np.inf, np.float32)
    for rows in self._batches(len(histories), progress):
      items_UK[rows], scores_UK[rows] = self._answer(
        histories, rows, filters, beam, k
      )
    from_prior_U = histories.lengths() == 0
    for user in np.flatnonzero(from_prior_U).tolist():
      items_UK[user], scores_UK[user] = prior.best_items(
        self._prior_order,
        self._prior_I,
        k,
        () if filters.deny is None else filters.deny[user],
        None if filters.allow is None else filters.allow[user],
      )
    return Recommendations(items_UK, scores_UK, from_prior_U)

  def _answer(
    self, histories: Histories, rows: slice, filters: Filters, beam: int, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores of one batch of users."""
    item_BT = histories.padded(rows, self._width)
    self._check_known(item_BT, rows.start)
    lists = filters.lists(histories, rows)
    if lists is not None:
      # What was seen before the latest items counts, too.
      self._check_known(np.asarray(lists.deny_BT), rows.start)
    size = self._size(len(histories))
    columns = sharding.put_rows(_pad((item_BT, lists), size), self._mesh)
    found = self._make_search(beam, k)(
      self._params, self._codes, self._tree, self._live, *columns
    )
    count = rows.stop - rows.start
    return np.asarray(found.item_BK)[:count], np.asarray(found.score_BK)[:count]

  def _check_known(self, item_BT: np.ndarray, first_user: int) -> None:
    unknown = np.argwhere((item_BT < -1) | (item_BT >= self.catalog.num_items))
    if len(unknown):
      row, slot = unknown[0]
      raise UserError(
        f"history {first_user + row} holds item {item_BT[row, slot]}; the"
        f" catalogue has the items 0..{self.catalog.num_items - 1}"
      )

  def thoughts(
    self, histories: Histories, items_UK: np.ndarray
  ) -> np.ndarray | None:
    """What the model thought before each code of the given items.

    Args:
      histories: of the users.
      items_UK: items to explain; entries of -1 yield anything.

    Returns:
      (U, K, L, V) float32 shares of the coarse codes in each thought; None for
      a system that does not think in codes.
    """
    shares = []
    for rows in self._batches(len(histories), ""):
      outputs = self._follow(histories, rows, items_UK[rows])
      if outputs[0].coarse_BNV is None:
        return None
      temperature = self._model.config.thought_temperature
      share_LBKV = [
        jax.nn.softmax(output.coarse_BNV / temperature) for output in outputs
      ]
      share_BKLV = np.stack([np.asarray(s) for s in share_LBKV], axis=2)
      shares.append(share_BKLV[: rows.stop - rows.start])
    return np.concatenate(shares)

  def level_accuracy(
    self, histories: Histories, targets_U: np.ndarray
  ) -> list[float]:
    """Share of targets whose fine code ranks first, given the codes before."""
    hits_L = np.zeros(self._model.num_levels)
    fine_IL = self.catalog.codes_IL
    continuations_ILX = None
    if self._model.config.softmax == "tree":
      continuations_ILX = tree_lib.continuations(self.catalog.tree)
    for rows in self._batches(len(histories), ""):
      target_B1 = targets_U[rows][:, None]
      outputs = self._follow(histories, rows, target_B1)
      gold_BL = fine_IL[target_B1[:, 0]]
      for level, output in enumerate(outputs):
        logits_BV = np.asarray(output.fine_BNV[: len(gold_BL), 0])
        if continuations_ILX is not None:
          packed_BX = continuations_ILX[target_B1[:, 0], level]
          valid_BV = np.unpackbits(packed_BX, axis=-1, bitorder="little")
          valid_BV = valid_BV[:, : logits_BV.shape[-1]]
          logits_BV = np.where(valid_BV, logits_BV, -np.inf)
        best_B = logits_BV.argmax(axis=-1)
        hits_L[level] += np.sum(best_B == gold_BL[:, level])
    return (hits_L / len(histories)).tolist()

  def _follow(self, histories: Histories, rows: slice, item_BK: np.ndarray):
    """The decoder's outputs along the codes of the given items."""
    item_BT, target_BK = _pad(
      (histories.padded(rows, self._width), item_BK),
      self._size(len(histories)),
    )
    last_B1 = np.maximum((item_BT >= 0).sum(axis=1, keepdims=True) - 1, 0)
    columns = {
      "item_BT": item_BT,
      "segment_BT": (item_BT >= 0).astype(np.int32),
      "last_BN": np.broadcast_to(last_B1, target_BK.shape).astype(np.int32),
      "target_BN": target_BK,
      "weight_BN": (target_BK >= 0).astype(np.float32),
    }
    batch = Batch(**sharding.put_rows(columns, self._mesh))
    return self._unroll(self._params, batch, self._codes)

  @functools.cached_property
  def _unroll(self):
    def unroll(params, batch, codes):
      return self._model.apply({"params": params}, batch, codes)

    return jax.jit(unroll)

  def _batches(self, users: int, progress: str) -> Iterator[slice]:
    starts = range(0, users, self._batch)
    bar = tqdm(
      starts, desc=progress, unit="batch", disable=not progress, leave=False
    )
    for start in bar:
      yield slice(start, min(start + self._batch, users))

  def _size(self, users: int) -> int:
    """Rows of every batch of a call: few distinct ones are compiled."""
    size = min(self._batch, 1 << (users - 1).bit_length()) if users else 1
    return -(-size // self._mesh.size) * self._mesh.size


def _pad(tree, size: int):
  """Arrays of fewer rows, filled up with nobody: -1 or False."""

  def pad(rows: np.ndarray) -> np.ndarray:
    width = ((0, size - len(rows)),) + ((0, 0),) * (rows.ndim - 1)
    empty = False if rows.dtype == bool else -1
    return np.pad(rows, width, constant_values=empty)

  return jax.tree.map(pad, tree)
