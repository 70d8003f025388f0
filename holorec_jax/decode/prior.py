"""Recommendations without a history: the catalogue's popularity."""

from collections.abc import Sequence

import numpy as np

from holorec_jax.catalog import Catalog


def score_items(catalog: Catalog) -> np.ndarray:
  """(I,) float32 log share of each item in the active ones' interactions."""
  weight_I = catalog.counts_I + catalog.smoothing
  total = weight_I[catalog.active_I].sum()
  return np.log(weight_I / total).astype(np.float32)


def order_items(score_I: np.ndarray, allowed_I: np.ndarray) -> np.ndarray:
  """Allowed items, best first; ties by item number."""
  order = np.argsort(-score_I, kind="stable")
  return order[allowed_I[order]]


def best_items(
  order: np.ndarray,
  score_I: np.ndarray,
  k: int,
  deny: Sequence[int] | np.ndarray | None,
  allow: Sequence[int] | np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
  """One user's items (K,), padded with -1, and their scores.

  Args:
    order: from `order_items`.
    score_I: from `score_items`.
    k: how many.
    deny: item numbers never to return; None: none.
    allow: item numbers to choose from; None: all.
  """
  deny = () if deny is None else deny
  if allow is None:
    order = order[: k + len(np.unique(deny))]
  else:
    order = order[np.isin(order, allow)]
  best = order[~np.isin(order, deny)][:k]
  items_K = np.full(k, -1, np.int32)
  scores_K = np.full(k, -np.inf, np.float32)
  items_K[: len(best)] = best
  scores_K[: len(best)] = score_I[best]
  return items_K, scores_K
