"""Neighbours: which items follow which in the training histories, as a table.

The graph of item-kNN, counted from training events alone:

  W[h, i] = C[h, i] / (n_h n_i)^exponent

n counts training events and C[h, i] training pairs: 1 / distance for every i
that follows h within a window, and `backward` times that for every i before it.
Of each row the largest weights are kept. A history gathers them with weights
that fall with age; search reads the sum as evidence beside the network's
(`decode/evidence.py`).
"""

import dataclasses

import jax
import numpy as np
import scipy.sparse
from flax import struct

from holorec_jax.data import schema, splits
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class KnnConfig:
  """Item-kNN's hyperparameters; the defaults are untuned.

  Attributes:
    window: greatest distance of a pair, in events.
    backward: weight of a pair against the direction of time.
    exponent: of the counts in the normalisation; 0.5 is the cosine.
    decay: weight of a history item over that of the one after it.
    last: history items used.
  """

  window: int = 5
  backward: float = 0.5
  exponent: float = 0.5
  decay: float = 0.8
  last: int = 10


@dataclasses.dataclass(frozen=True)
class NeighboursConfig(KnnConfig):
  """How search heeds the neighbours of a history's items.

  Attributes:
    strength: of the evidence beside the network's; 0: search without it.
    floor: share that every item has, be it a neighbour or not.
    count: neighbours kept of each item.
  """

  backward: float = 0.25
  decay: float = 0.3
  strength: float = 0.0
  floor: float = 0.01
  count: int = 32

  def __post_init__(self):
    check_ranges(
      self,
      "config.search.neighbours",
      window="[1, inf)",
      backward="[0, inf)",
      exponent="[0, inf)",
      decay="(0, 1]",
      last="[1, inf)",
      strength="[0, inf)",
      floor="(0, inf)",
      count="[1, inf)",
    )


@struct.dataclass
class Neighbours:
  """The table, as a pytree; on the host or on device.

  Attributes:
    item_IK: int32 neighbours of each item, the nearest first; -1: no more.
    weight_IK: float32 W; 0 where there is none.
    recency_A: float32 weight of a history item by its age, the latest first.
    strength: () float32, as in NeighboursConfig.
    floor: () float32, likewise.
  """

  item_IK: jax.Array | np.ndarray
  weight_IK: jax.Array | np.ndarray
  recency_A: jax.Array | np.ndarray
  strength: jax.Array | np.ndarray
  floor: jax.Array | np.ndarray

  def lengthened(self, items: int) -> "Neighbours":
    """With rows of items that have no neighbours, up to `items` of them."""
    more = ((0, items - len(self.item_IK)), (0, 0))
    return dataclasses.replace(
      self,
      item_IK=np.pad(self.item_IK, more, constant_values=-1),
      weight_IK=np.pad(self.weight_IK, more),
    )


def find_neighbours(
  dataset: schema.Dataset, split: splits.Split, config: NeighboursConfig
) -> Neighbours:
  """The table of a data set, on the host; ties go to the lower item.

  Args:
    dataset: the interactions.
    split: which of them train.
    config: of the graph.
  """
  pairs_II = count_pairs(dataset, split, config.window)
  weights_II = weigh_pairs(pairs_II, dataset, split, config)
  # By row, then falling weight, then item.
  row_P = np.repeat(np.arange(weights_II.shape[0]), np.diff(weights_II.indptr))
  order_P = np.lexsort((weights_II.indices, -weights_II.data, row_P))
  place_P = np.arange(len(row_P)) - weights_II.indptr[row_P]
  kept_P = place_P < config.count
  width = int(place_P.max(initial=0)) + 1
  shape = (weights_II.shape[0], min(config.count, width))
  item_IK = np.full(shape, -1, np.int32)
  weight_IK = np.zeros(shape, np.float32)
  at = (row_P[kept_P], place_P[kept_P])
  item_IK[at] = weights_II.indices[order_P][kept_P]
  weight_IK[at] = weights_II.data[order_P][kept_P]
  return Neighbours(
    item_IK=item_IK,
    weight_IK=weight_IK,
    recency_A=np.float32(config.decay) ** np.arange(config.last, dtype="f4"),
    strength=np.asarray(config.strength, np.float32),
    floor=np.asarray(config.floor, np.float32),
  )


def count_pairs(
  dataset: schema.Dataset, split: splits.Split, window: int
) -> scipy.sparse.csr_array:
  """(I, I): 1 / distance for each training pair, row before column."""
  users_E, items_E = splits.train_events(dataset, split)
  shape = (dataset.num_items, dataset.num_items)
  pairs_II = scipy.sparse.csr_array(shape)
  for distance in range(1, window + 1):
    before_E, after_E = items_E[:-distance], items_E[distance:]
    pair_E = users_E[:-distance] == users_E[distance:]
    pair_E &= before_E != after_E
    weight_E = np.full(np.count_nonzero(pair_E), 1 / distance)
    pairs_II = pairs_II + scipy.sparse.csr_array(
      (weight_E, (before_E[pair_E], after_E[pair_E])), shape=shape
    )
  return pairs_II.tocsr()


def weigh_pairs(
  pairs_II: scipy.sparse.csr_array,
  dataset: schema.Dataset,
  split: splits.Split,
  config: KnnConfig,
) -> scipy.sparse.csr_array:
  """W of the module's docstring, (I, I)."""
  counts_I = np.maximum(splits.train_item_counts(dataset, split), 1)
  scale_II = scipy.sparse.diags_array(counts_I**-config.exponent)
  both_II = pairs_II + config.backward * pairs_II.T
  weights_II = (scale_II @ both_II @ scale_II).tocsr()
  weights_II.eliminate_zeros()
  return weights_II
