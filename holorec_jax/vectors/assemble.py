"""All item vectors of a run: sources, missing items, smoothing, scaling."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from absl import logging

from holorec_jax.data import schema, splits
from holorec_jax.errors import UserError
from holorec_jax.vectors import cooccurrence, precomputed, sentence, text
from holorec_jax.vectors.cold_items import VERSION, ColdItems


@dataclasses.dataclass(frozen=True)
class VectorConfig:
  """What item vectors are made of; each field is a leaf of `config.vectors`.

  Attributes:
    sources: keys of SOURCES, concatenated in this order.
    weights: how much each source counts in distances, whatever its width; ()
      weighs "cooccurrence" 0.5 and what describes the item itself 1.
    text_dims: width of the source "text".
    path: file of the source "precomputed": .npy, .npz or .parquet.
    ids_path: text file with the item id of each of its rows, one a line; ""
      where the file has ids, or its rows are the item table's.
    sentence_model: of the source "sentence_transformers": a local folder or a
      name on the hub.
    cooccurrence_dims: width of the source "cooccurrence".
    window: events at most so far apart in a training history join their items.
    decay: weight of such a pair is decay ** (distance - 1).
    neighbours: strongest edges that each item of the graph keeps.
    smooth_hops: steps of smoothing over the graph; 0 for none.
    smooth_alpha: share of an item's own vector in each step.
    seed: of the randomised SVDs.
  """

  sources: tuple[str, ...] = ("text", "cooccurrence")
  weights: tuple[float, ...] = ()
  text_dims: int = 256
  path: str = ""
  ids_path: str = ""
  sentence_model: str = "sentence-transformers/all-MiniLM-L6-v2"
  cooccurrence_dims: int = 64
  window: int = 5
  decay: float = 1.0
  neighbours: int = 50
  smooth_hops: int = 3
  smooth_alpha: float = 0.1
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
    if any(weight <= 0 for weight in self.weights):
      raise UserError(
        f"config.vectors.weights: {self.weights} must be positive; leave a "
        "source that should not count out of config.vectors.sources."
      )
    if self.smooth_hops < 0 or not 0 < self.smooth_alpha <= 1:
      raise UserError(
        "config.vectors: smooth_hops must be 0 or more and smooth_alpha in "
        f"(0, 1], got {self.smooth_hops} and {self.smooth_alpha}."
      )
    widths = (self.text_dims, self.cooccurrence_dims)
    if min(*widths, self.window, self.neighbours) < 1:
      raise UserError(
        "config.vectors: text_dims, cooccurrence_dims, window and neighbours "
        "must be 1 or more."
      )


@dataclasses.dataclass(frozen=True)
class Made:
  """What a source gives.

  Attributes:
    x_ID: vectors; a row of zeros is an item of which it knows nothing.
    about, arrays: what `ColdItems` needs beside, of those names.
  """

  x_ID: np.ndarray
  about: dict[str, Any] = dataclasses.field(default_factory=dict)
  arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def _text(
  dataset: schema.Dataset, graph: scipy.sparse.csr_array, config: VectorConfig
) -> Made:
  del graph
  x_ID, fitted = text.fit_text(dataset.item_text, config.text_dims, config.seed)
  return Made(
    x_ID,
    {"columns": list(fitted.columns), "tokens": fitted.tokens},
    {
      "text/idf_F": fitted.idf_F,
      "text/components_FD": fitted.components_FD,
    },
  )


Source = Callable[[schema.Dataset, scipy.sparse.csr_array, VectorConfig], Made]
SOURCES: dict[str, Source] = {
  "text": _text,
  "precomputed": lambda dataset, graph, config: Made(
    precomputed.load_vectors(config.path, dataset, config.ids_path)
  ),
  "cooccurrence": lambda dataset, graph, config: Made(
    cooccurrence.graph_vectors(graph, config.cooccurrence_dims, config.seed)
  ),
  "sentence_transformers": lambda dataset, graph, config: Made(
    sentence.encode(dataset.item_text, config.sentence_model),
    {
      "columns": sorted(dataset.item_text),
      "sentence_model": config.sentence_model,
    },
  ),
}


def build_vectors(
  dataset: schema.Dataset, split: splits.Split, config: VectorConfig
) -> np.ndarray:
  """What `fit_vectors` gives the items themselves."""
  return fit_vectors(dataset, split, config)[0]


def fit_vectors(
  dataset: schema.Dataset, split: splits.Split, config: VectorConfig
) -> tuple[np.ndarray, ColdItems]:
  """Vectors of all items; nothing after a user's train_end enters them.

  Every source is standardised per dimension and scaled by its weight over the
  square root of its width, so that a source counts by its weight. Smoothing
  leaves more variance to the dimensions on which neighbours agree; that is
  its point, so afterwards only the whole is rescaled.

  Returns:
    x_ID float32, finite, every dimension of mean 0, mean variance 1. And what
    makes such vectors of items that come later.

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
  weights = config.weights or [
    0.5 if name == "cooccurrence" else 1.0 for name in config.sources
  ]
  about: dict[str, Any] = {"version": VERSION, "sources": []}
  arrays: dict[str, np.ndarray] = {}
  parts = []
  for name, weight in zip(config.sources, weights):
    made = SOURCES[name](dataset, graph, config)
    x_ID, statistics = _complete(name, made.x_ID, graph)
    factor = weight / np.sqrt(x_ID.shape[1])
    parts.append(x_ID * factor)
    source = {"name": name, "width": made.x_ID.shape[1]}
    source |= {"kept": x_ID.shape[1], "factor": float(factor)}
    about = about | made.about | {"sources": [*about["sources"], source]}
    if name != "cooccurrence":
      arrays |= made.arrays | statistics
  x_ID = np.concatenate(parts, axis=1, dtype=np.float32)
  hops, alpha = config.smooth_hops, config.smooth_alpha
  x_ID = cooccurrence.smooth(x_ID, graph, hops, alpha)
  mean_W = x_ID.mean(axis=0)
  x_ID -= mean_W
  scale = np.sqrt(np.mean(np.square(x_ID)))
  cold = ColdItems(about | {"scale": float(scale)}, arrays | {"mean_W": mean_W})
  return x_ID / scale, cold


def _complete(
  name: str, x_ID: np.ndarray, graph: scipy.sparse.csr_array
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """A source standardised, with something for every item, and by what."""
  missing_I = np.logical_not(x_ID.any(axis=1))
  if missing_I.all():
    raise UserError(
      f"config.vectors.sources: '{name}' has no vector for any of "
      f"{len(x_ID)} items; leave it out, or see whether the data has text or "
      "training histories of two items."
    )
  x_ID, statistics = standardise(x_ID, ~missing_I, name)
  if not missing_I.any():
    return x_ID, statistics
  x_ID, alone = cooccurrence.fill_missing(x_ID, missing_I, graph)
  logging.info(
    "vectors: %d of %d items have no '%s' vector: %d get the mean of their "
    "neighbours in training histories, %d the mean of all",
    missing_I.sum(),
    len(x_ID),
    name,
    missing_I.sum() - alone,
    alone,
  )
  return x_ID, statistics


def standardise(
  x_ID: np.ndarray, known_I: np.ndarray, name: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Mean 0 and variance 1 per dimension over the known items.

  Constant dimensions are dropped with a notice.

  Returns:
    x_ID float32, and arrays as `ColdItems` has them.
  """
  mean_D = x_ID[known_I].mean(axis=0, dtype=np.float64)
  std_D = x_ID[known_I].std(axis=0, dtype=np.float64)
  # Relative: a truncated SVD ends in rounding errors where the rank is lower.
  varies_D = std_D > 1e-5 * np.sqrt(np.mean(np.square(x_ID[known_I])))
  if not varies_D.any():
    raise UserError(
      f"config.vectors.sources: '{name}' gives every item the same vector."
    )
  if not varies_D.all():
    logging.info(
      "vectors: dropped %d constant dimensions of '%s'",
      (~varies_D).sum(),
      name,
    )
  mean_D, std_D = mean_D[varies_D], std_D[varies_D]
  x_ID = (x_ID[:, varies_D] - mean_D) / std_D
  return x_ID.astype(np.float32), {
    f"{name}/kept_D": np.flatnonzero(varies_D).astype(np.int32),
    f"{name}/mean_D": mean_D,
    f"{name}/std_D": std_D,
  }
