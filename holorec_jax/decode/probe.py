"""What a generator computes along the codes of given items.

Search keeps only what ranks items; thoughts and the accuracy of each level are
read from the same steps with an item's codes fed.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax import tree as tree_lib
from holorec_jax.catalog import Catalog
from holorec_jax.codes import device_codes
from holorec_jax.decode.batching import Batching, pad
from holorec_jax.decode.requests import Histories
from holorec_jax.models.generator import Generator
from holorec_jax.types import Batch

BATCH = 256


@dataclasses.dataclass(frozen=True)
class Clusters:
  """What S2GR's thoughts aim at; levels that only number collisions have none.

  Attributes:
    cluster_LV: int32 cluster of every code.
    centre_LQD: direction of each cluster, for each level.
  """

  cluster_LV: np.ndarray
  centre_LQD: Sequence[np.ndarray]


class Probe:
  """A generator with parameters and a catalogue; on device when first asked.

  Attributes:
    catalog: whose items it follows.
  """

  def __init__(
    self,
    model: Generator,
    params: dict,
    catalog: Catalog,
    mesh: Mesh,
    max_history: int,
  ):
    self.catalog = catalog
    self._model = model
    self._given = params
    self._mesh = mesh
    self._width = max_history
    self._batching = Batching(BATCH, mesh.size)

  @functools.cached_property
  def _placed(self):
    """Parameters and codes on device."""
    codes = device_codes(self.catalog, "level")
    return jax.device_put((self._given, codes), sharding.replicated(self._mesh))

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
    for rows in self._batching.slices(len(histories)):
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

  def accuracy(
    self,
    histories: Histories,
    targets_U: np.ndarray,
    clusters: Clusters | None = None,
  ) -> dict[str, list[float]]:
    """Shares of targets by level, with the target's codes before it given.

    Args:
      histories: of the users.
      targets_U: an item of each.
      clusters: those that the thoughts were trained to aim at.

    Returns:
      "codes": whose fine code ranks first; "prefixes": whose codes up to there
      all do; with clusters "clusters": whose cluster is nearest to the thought.
    """
    hits: dict[str, list[np.ndarray]] = {"codes": []}
    if clusters is not None:
      hits["clusters"] = []
    fine_IL = self.catalog.codes_IL
    continuations_ILX = None
    if self._model.config.softmax == "tree":
      continuations_ILX = tree_lib.continuations(self.catalog.tree)
    for rows in self._batching.slices(len(histories)):
      target_B1 = targets_U[rows][:, None]
      outputs = self._follow(histories, rows, target_B1)
      gold_BL = fine_IL[target_B1[:, 0]]
      if clusters is not None:
        hits["clusters"].append(_aimed(clusters, outputs, gold_BL))
      hit_BL = np.zeros(gold_BL.shape, bool)
      for level, output in enumerate(outputs):
        logits_BV = np.asarray(output.fine_BNV[: len(gold_BL), 0])
        if continuations_ILX is not None:
          packed_BX = continuations_ILX[target_B1[:, 0], level]
          valid_BV = np.unpackbits(packed_BX, axis=-1, bitorder="little")
          valid_BV = valid_BV[:, : logits_BV.shape[-1]]
          logits_BV = np.where(valid_BV, logits_BV, -np.inf)
        hit_BL[:, level] = logits_BV.argmax(axis=-1) == gold_BL[:, level]
      hits["codes"].append(hit_BL)
    hit_UL = {name: np.concatenate(parts) for name, parts in hits.items()}
    hit_UL["prefixes"] = np.logical_and.accumulate(hit_UL["codes"], axis=1)
    return {name: hit.mean(axis=0).tolist() for name, hit in hit_UL.items()}

  def _follow(self, histories: Histories, rows: slice, item_BK: np.ndarray):
    """The decoder's outputs along the codes of the given items."""
    item_BT, target_BK = pad(
      (histories.padded(rows, self._width), item_BK),
      self._batching.size(len(histories)),
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
    params, codes = self._placed
    return self._unroll(params, batch, codes)

  @functools.cached_property
  def _unroll(self):
    def unroll(params, batch, codes):
      return self._model.apply({"params": params}, batch, codes)

    return jax.jit(unroll)


def _aimed(clusters: Clusters, outputs, gold_BL: np.ndarray) -> np.ndarray:
  """Whether the nearest cluster to each thought is the gold code's, (B, L)."""
  hits = []
  for level, centre_QD in enumerate(clusters.centre_LQD):
    thought_BD = np.asarray(outputs[level].thought_BND, np.float32)[:, 0]
    nearest_B = (thought_BD @ centre_QD.T)[: len(gold_BL)].argmax(axis=-1)
    hits.append(nearest_B == clusters.cluster_LV[level, gold_BL[:, level]])
  return np.stack(hits, axis=1)
