"""A trained generator that answers: histories in, items and thoughts out.

Pads users to fixed batches, so one compiled search serves any number of them.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.catalog import Catalog
from holorec_jax.codes import device_codes
from holorec_jax.decode.beam import device_tree
from holorec_jax.decode.search import make_search
from holorec_jax.errors import UserError
from holorec_jax.models.generator import Generator
from holorec_jax.ranges import check_ranges
from holorec_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """How recommendations are searched.

  Attributes:
    beam: prefixes kept per level.
    k: items returned.
    batch: users searched at once.
  """

  beam: int = 20
  k: int = 20
  batch: int = 256

  def __post_init__(self):
    check_ranges(self, "config.search", k="[1, inf)", batch="[1, inf)")
    if self.beam < self.k:
      raise UserError(
        f"config.search.beam is {self.beam}, less than config.search.k ="
        f" {self.k}: fewer prefixes than items may not lead to k items. Raise"
        " beam, or lower k."
      )


@dataclasses.dataclass(frozen=True)
class Histories:
  """Histories as stretches of one event array.

  Attributes:
    items_E: all events' items.
    starts_U: first event of each history.
    ends_U: one behind its last event.
  """

  items_E: np.ndarray
  starts_U: np.ndarray
  ends_U: np.ndarray

  def __len__(self) -> int:
    return len(self.starts_U)

  def width(self, rows: slice) -> int:
    """Slots for the longest of these: a power of two, at least 16.

    Few distinct widths are few compilations.
    """
    longest = int((self.ends_U[rows] - self.starts_U[rows]).max(initial=1))
    return max(16, 1 << (longest - 1).bit_length())

  def padded(self, rows: slice, width: int) -> np.ndarray:
    """(rows, width) int32: the latest `width` items, oldest first, then -1."""
    end = self.ends_U[rows]
    start = np.maximum(self.starts_U[rows], end - width)
    slot = start[:, None] + np.arange(width)
    return np.where(
      slot < end[:, None], self.items_E[np.minimum(slot, end[:, None] - 1)], -1
    ).astype(np.int32)


class Recommender:
  """One system: generator, parameters, catalogue, compiled searches."""

  def __init__(
    self,
    model: Generator,
    params: dict,
    catalog: Catalog,
    mesh: Mesh,
    max_history: int,
    config: SearchConfig,
  ):
    whole = sharding.replicated(mesh)
    self._model = model
    self._mesh = mesh
    self._config = config
    self._width = max_history
    self._batch = -(-config.batch // mesh.size) * mesh.size
    codes = device_codes(catalog, model.config.softmax)
    self._codes = jax.device_put(codes, whole)
    self._tree = jax.device_put(device_tree(catalog), whole)
    self.set_params(params)

  def set_params(self, params: dict) -> None:
    """Answers with these parameters from now on; nothing is compiled again."""
    self._params = jax.device_put(params, sharding.replicated(self._mesh))

  @functools.cached_property
  def _search(self):
    return {
      exclude: make_search(
        self._model, self._config.beam, self._config.k, exclude
      )
      for exclude in (False, True)
    }

  def recommend(
    self, histories: Histories, exclude_seen: bool, progress: str = ""
  ) -> tuple[np.ndarray, np.ndarray]:
    """Best items of every history.

    Args:
      histories: whose next item is asked for.
      exclude_seen: leave out all items of the (whole) history.
      progress: label of a progress bar; none if empty.

    Returns:
      (items (U, K) int32, -1 where none; log-probabilities (U, K) float32).
    """
    items, scores = [], []
    for rows in self._batches(len(histories), progress):
      item_BT = self._pad(histories.padded(rows, self._width))
      seen_BT = None
      if exclude_seen:
        seen_BT = self._pad(histories.padded(rows, histories.width(rows)))
      answer = self._search[exclude_seen](
        self._params,
        self._codes,
        self._tree,
        *sharding.put_rows((item_BT, seen_BT), self._mesh),
      )
      count = rows.stop - rows.start
      items.append(np.asarray(answer.item_BK)[:count])
      scores.append(np.asarray(answer.score_BK)[:count])
    return np.concatenate(items), np.concatenate(scores)

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
    fine_IL = np.asarray(self._codes.fine_IL)
    continuations_ILX = self._codes.continuations_ILX
    if continuations_ILX is not None:
      continuations_ILX = np.asarray(continuations_ILX)
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
    item_BT = self._pad(histories.padded(rows, self._width))
    target_BK = self._pad(item_BK)
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

  def _pad(self, item_BT: np.ndarray) -> np.ndarray:
    return np.pad(
      item_BT,
      ((0, self._batch - len(item_BT)), (0, 0)),
      constant_values=-1,
    )
