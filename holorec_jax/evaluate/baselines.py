"""Floors under the same evaluator: popularity and recency-weighted item-kNN.

Item-kNN scores item i for a history h_1 (latest), h_2, .. by

  score(i) = sum_a decay^(a-1) W[h_a, i]     over the latest `last` items

with W of the graph in `neighbours.py`. Where the graph has nothing to say, the
list goes on by popularity.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import scipy.sparse
import tqdm
from absl import logging

from holorec_jax.data import schema, splits
from holorec_jax.evaluate import metrics, targets
from holorec_jax.neighbours import KnnConfig, count_pairs, weigh_pairs

_CHUNK = 2048
_TUNING_ROWS = 10_000


# In the order of tuning: what matters most first.
GRID: dict[str, tuple[float, ...]] = {
  "exponent": (0.0, 0.1, 0.2, 0.35, 0.5),
  "backward": (0.0, 0.25, 0.5, 1.0),
  "decay": (0.2, 0.4, 0.6, 0.8, 0.9),
  "window": (2, 5, 10, 20),
  "last": (5, 10, 20),
}


def baseline_lists(
  dataset: schema.Dataset,
  split: splits.Split,
  rows: targets.Targets,
  k: int = 20,
) -> dict[str, targets.Lists]:
  """Both baselines, item-kNN tuned on validation apart for kept and unseen."""
  knn, config = [], None
  for drop_seen in (False, True):
    config = tune(dataset, split, drop_seen, start=config)
    knn.append(item_knn(dataset, split, rows, k, drop_seen, config))
  return {
    "popularity": targets.Lists(
      popularity(dataset, split, rows, k),
      popularity(dataset, split, rows, k, drop_seen=True),
    ),
    "item_knn": targets.Lists(*knn),
  }


def popularity(
  dataset: schema.Dataset,
  split: splits.Split,
  rows: targets.Targets,
  k: int = 20,
  drop_seen: bool = False,
) -> np.ndarray:
  """Items by training count, ties by item index.

  Args:
    dataset: the interactions.
    split: which of them train.
    rows: whose lists are wanted.
    k: list length.
    drop_seen: leave out the items of each row's history.

  Returns:
    topk_UK int32, -1 where the catalogue has no more items to give.
  """
  popular_I = np.argsort(
    -splits.train_item_counts(dataset, split), kind="stable"
  )
  topk_UK = np.full((len(rows), k), -1, np.int32)
  if not drop_seen:
    topk_UK[:, : len(popular_I)] = popular_I[:k]
    return topk_UK
  for chunk in _chunks(len(rows)):
    part = rows.take(chunk)
    pool_P = popular_I[: k + part.lengths_U.max(initial=0)]
    seen_UP = _seen(part, dataset.num_items)[:, pool_P].toarray() > 0
    order_UK = np.argsort(seen_UP, axis=1, kind="stable")[:, :k]
    kept_UK = ~np.take_along_axis(seen_UP, order_UK, axis=1)
    topk_UK[chunk, : order_UK.shape[1]] = np.where(
      kept_UK, pool_P[order_UK], -1
    )
  return topk_UK


def item_knn(
  dataset: schema.Dataset,
  split: splits.Split,
  rows: targets.Targets,
  k: int = 20,
  drop_seen: bool = False,
  config: KnnConfig | None = None,
) -> np.ndarray:
  """Item-kNN lists; the other arguments and the result as in `popularity`."""
  config = config or KnnConfig()
  pairs_II = count_pairs(dataset, split, config.window)
  weights_II = weigh_pairs(pairs_II, dataset, split, config)
  topk_UK = _nearest(weights_II, rows, config, k, drop_seen)
  return _fill(topk_UK, popularity(dataset, split, rows, k, drop_seen))


def tune(
  dataset: schema.Dataset,
  split: splits.Split,
  drop_seen: bool = False,
  start: KnnConfig | None = None,
  seed: int = 0,
) -> KnnConfig:
  """Hyperparameters with the best NDCG@10 on validation rows.

  One hyperparameter at a time, round by round until a round changes nothing.

  Args:
    dataset: the interactions.
    split: only its training events and validation targets are used.
    drop_seen: whether the lists will leave out the items of the history.
    start: where to begin; the defaults if None.
    seed: of the sample of validation rows.
  """
  rows = targets.from_positions(dataset, split.valid)
  sample = np.random.default_rng(seed).permutation(len(rows))[:_TUNING_ROWS]
  rows = rows.take(np.sort(sample))
  pairs = {w: count_pairs(dataset, split, int(w)) for w in GRID["window"]}

  def score(config: KnnConfig) -> float:
    weights_II = weigh_pairs(pairs[config.window], dataset, split, config)
    topk_UK = _nearest(weights_II, rows, config, 10, drop_seen)
    ranks_U = metrics.target_ranks(topk_UK, rows.items_U)
    return metrics.summarise(ranks_U, (10,))["ndcg@10"]

  best = start or KnnConfig()
  scores = {best: score(best)}
  with tqdm.tqdm(desc="tuning item-kNN", unit=" settings") as progress:
    settled = None
    while settled != best:
      settled = best
      for field in GRID:
        for config in _along(best, field):
          if config not in scores:
            scores[config] = score(config)
            progress.update()
        best = max(scores, key=lambda config: scores[config])
  logging.info("item-kNN: validation NDCG@10 %.4f with %s", scores[best], best)
  return best


def _along(config: KnnConfig, field: str) -> Iterator[KnnConfig]:
  for value in GRID[field]:
    yield dataclasses.replace(config, **{field: value})  # type: ignore[arg-type]


def _nearest(
  weights_II: scipy.sparse.csr_array,
  rows: targets.Targets,
  config: KnnConfig,
  k: int,
  drop_seen: bool,
) -> np.ndarray:
  """Best k items of the graph, -1 where it reaches fewer; ties by item."""
  topk_UK = np.full((len(rows), k), -1, np.int32)
  seen_I = np.zeros(weights_II.shape[0], bool)
  for chunk in _chunks(len(rows)):
    part = rows.take(chunk)
    row, item, age = part.flat_histories(config.last)
    history_UI = scipy.sparse.csr_array(
      (config.decay**age, (row, item)),
      shape=(len(part), weights_II.shape[0]),
    )
    score_UI = (history_UI @ weights_II).tocsr()
    for u, begin, end in zip(
      range(chunk.start, chunk.stop), score_UI.indptr, score_UI.indptr[1:]
    ):
      seen = rows.history(u) if drop_seen else topk_UK[u, :0]
      best = _top(
        score_UI.indices[begin:end], score_UI.data[begin:end], k + len(seen)
      )
      seen_I[seen] = True
      best = best[~seen_I[best]][:k]
      seen_I[seen] = False
      topk_UK[u, : len(best)] = best
  return topk_UK


def _top(item_N: np.ndarray, score_N: np.ndarray, k: int) -> np.ndarray:
  """The k items of the greatest scores, descending, ties by item."""
  if len(score_N) > k:
    # A partition alone would break ties at the k-th place arbitrarily.
    inside_N = score_N >= np.partition(score_N, -k)[-k]
    item_N, score_N = item_N[inside_N], score_N[inside_N]
  return item_N[np.lexsort((item_N, -score_N))[:k]]


def _seen(rows: targets.Targets, num_items: int) -> scipy.sparse.csr_array:
  """(U, I): 1 for the items of each row's history."""
  row, item, _ = rows.flat_histories()
  seen_UI = scipy.sparse.csr_array(
    (np.ones(len(row)), (row, item)), shape=(len(rows), num_items)
  )
  seen_UI.sum_duplicates()
  seen_UI.data[:] = 1
  return seen_UI


def _fill(topk_UK: np.ndarray, more_UK: np.ndarray) -> np.ndarray:
  """Goes on with the items of `more` that a list with room lacks."""
  filled_UK = topk_UK.copy()
  for u in np.flatnonzero(topk_UK[:, -1] < 0):
    own = topk_UK[u][topk_UK[u] >= 0]
    more = more_UK[u][~np.isin(more_UK[u], own)]
    both = np.concatenate([own, more])[: topk_UK.shape[1]]
    filled_UK[u, : len(both)] = both
  return filled_UK


def _chunks(count: int) -> Iterator[slice]:
  for start in range(0, count, _CHUNK):
    yield slice(start, min(start + _CHUNK, count))
