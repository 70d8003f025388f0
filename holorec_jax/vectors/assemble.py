"""All item vectors of a run: sources, missing items, smoothing, scaling."""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.sparse
from absl import logging

from holorec_jax.data import schema, splits
from holorec_jax.errors import UserError
from holorec_jax.vectors import cooccurrence, precomputed, sentence, text


@dataclasses.dataclass(frozen=True)
class VectorConfig:
  """What item vectors are made of; every `config.vectors.*` leaf."""

  # Any of the keys of SOURCES, concatenated in this order.
  sources: tuple[str, ...] = ("text",)
  # Share of each source in distances; empty: all the same.
  weights: tuple[float, ...] = ()
  # Width of the source "text".
  text_dims: int = 256
  # File of the source "precomputed": .npy, .npz or .parquet.
  path: str = ""
  # Text file with the item id of each of its rows; empty: see precomputed.py.
  ids_path: str = ""
  # Hub name or local folder of the source "sentence_transformers".
  sentence_model: str = "sentence-transformers/all-MiniLM-L6-v2"
  # Width of the source "cooccurrence".
  cooccurrence_dims: int = 64
  # Events so far apart in a training history join their items.
  window: int = 5
  # Weight of a pair falls by this with each position of distance.
  decay: float = 1.0
  # Strongest edges kept for each item.
  neighbours: int = 50
  # Hops of smoothing over the item graph; 0: none.
  smooth_hops: int = 2
  # Share of an item's own vector in each hop.
  smooth_alpha: float = 0.5
  # Of the randomised SVDs.
  seed: int = 0

  def __post_init__(self) -> None:
    unknown = [name for name in self.sources if name not in SOURCES]
    if unknown or not self.sources:
      raise UserError(
        f"config.vectors.sources: {unknown or 'empty'}; choose among "
        f"{', '.join(SOURCES)}."
      )
    if self.weights and len(self.weights) != len(self.sources):
      raise UserError(
        f"config.vectors.weights: {len(self.weights)} weights for "
        f"{len(self.sources)} sources; give one each, or none."
      )
    if self.smooth_hops < 0 or not 0 < self.smooth_alpha <= 1:
      raise UserError(
        "config.vectors: smooth_hops must be 0 or more and smooth_alpha in "
        f"(0, 1], got {self.smooth_hops} and {self.smooth_alpha}."
      )


Source = Callable[
  [schema.Dataset, scipy.sparse.csr_array, VectorConfig], np.ndarray
]
SOURCES: dict[str, Source] = {
  "text": lambda dataset, graph, config: text.text_vectors(
    dataset.item_text, config.text_dims, config.seed
  ),
  "precomputed": lambda dataset, graph, config: precomputed.load_vectors(
    config.path, dataset.item_ids, config.ids_path
  ),
  "cooccurrence": lambda dataset, graph, config: cooccurrence.graph_vectors(
    graph, config.cooccurrence_dims, config.seed
  ),
  "sentence_transformers": lambda dataset, graph, config: sentence.encode(
    dataset.item_text, config.sentence_model
  ),
}


def build_vectors(
  dataset: schema.Dataset, split: splits.Split, config: VectorConfig
) -> np.ndarray:
  """Vectors of all items; nothing after a user's train_end enters them.

  Returns:
    x_ID float32, finite, every dimension of mean 0 and variance 1.

  Raises:
    UserError: from the sources.
  """
  users_E, items_E = splits.train_events(dataset, split)
  graph = cooccurrence.item_graph(
    users_E,
    items_E,
    dataset.num_items,
    config.window,
    config.decay,
    config.neighbours,
  )
  weights = config.weights or (1.0,) * len(config.sources)
  parts = []
  for name, weight in zip(config.sources, weights):
    x_ID = SOURCES[name](dataset, graph, config)
    missing_I = ~x_ID.any(axis=1)
    if missing_I.any():
      logging.info(
        "vectors: %d of %d items have no '%s' vector; they get the mean of "
        "their neighbours in training histories",
        missing_I.sum(),
        len(x_ID),
        name,
      )
    x_ID = standardise(x_ID, ~missing_I, name)
    x_ID = cooccurrence.fill_missing(x_ID, missing_I, graph)
    parts.append(x_ID * (weight / np.sqrt(x_ID.shape[1])))
  x_ID = cooccurrence.smooth(
    np.concatenate(parts, axis=1),
    graph,
    config.smooth_hops,
    config.smooth_alpha,
  )
  return standardise(x_ID, np.ones(len(x_ID), bool), "assembled")


def standardise(x_ID: np.ndarray, known_I: np.ndarray, name: str) -> np.ndarray:
  """Mean 0 and variance 1 per dimension over the known items.

  Constant dimensions are dropped with a notice.
  """
  mean_D = x_ID[known_I].mean(axis=0, dtype=np.float64)
  std_D = x_ID[known_I].std(axis=0, dtype=np.float64)
  varies_D = std_D > 1e-6 * np.maximum(np.abs(mean_D), 1e-6)
  if not varies_D.all():
    logging.info(
      "vectors: dropped %d constant dimensions of '%s'",
      (~varies_D).sum(),
      name,
    )
  x_ID = (x_ID[:, varies_D] - mean_D[varies_D]) / std_D[varies_D]
  return x_ID.astype(np.float32)
