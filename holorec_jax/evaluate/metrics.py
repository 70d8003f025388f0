"""Recall, NDCG, coverage and validity of ranked lists.

With one relevant item per row, Recall@k is 1 when its rank (from 0) is below k,
and NDCG@k is 1 / log2(rank + 2) then, because the ideal list scores 1.
"""

from collections.abc import Sequence

import numpy as np

CUTOFFS = (1, 5, 10, 20)
# Rank of a target that the list lacks: beyond every cutoff, also beyond those
# longer than the list.
MISSED = np.iinfo(np.int32).max


def target_ranks(topk_UK: np.ndarray, targets_U: np.ndarray) -> np.ndarray:
  """Finds each row's target in its list.

  Args:
    topk_UK: items in rank order, -1 where the list has none.
    targets_U: the items to be found.

  Returns:
    rank_U int32 from 0, MISSED where the list lacks the target.
  """
  if len(topk_UK) != len(targets_U):
    raise ValueError(f"{len(topk_UK)} lists for {len(targets_U)} targets")
  if len(targets_U) and np.min(targets_U) < 0:
    raise ValueError("a target below 0 would match the lists' empty slots")
  return _first_match(topk_UK == np.asarray(targets_U)[:, None])


def code_ranks(
  topk_UK: np.ndarray, targets_U: np.ndarray, codes_IL: np.ndarray
) -> np.ndarray:
  """Like target_ranks, but an item of the same code string is a hit too."""
  strings_I = np.unique(codes_IL, axis=0, return_inverse=True)[1].reshape(-1)
  strings_UK = np.where(topk_UK < 0, -1, strings_I[topk_UK])
  return target_ranks(strings_UK, strings_I[targets_U])


def _first_match(match_UK: np.ndarray) -> np.ndarray:
  if not match_UK.shape[1]:
    return np.full(len(match_UK), MISSED, np.int32)
  found_U = match_UK.any(axis=1)
  return np.where(found_U, match_UK.argmax(axis=1), MISSED).astype(np.int32)


def names(cutoffs: Sequence[int] = CUTOFFS) -> list[str]:
  """The metrics' names, in the order of the columns of `gains`."""
  return [f"{kind}@{k}" for kind in ("recall", "ndcg") for k in cutoffs]


def title(name: str) -> str:
  """A metric's name as readers know it: "Recall@10"."""
  return name.replace("recall", "Recall").replace("ndcg", "NDCG")


def gains(rank_U: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> np.ndarray:
  """Every metric of every row: (U, 2 * cutoffs), columns as in `names`."""
  inside_UC = rank_U[:, None] < np.asarray(cutoffs)
  discount_U = 1 / np.log2(rank_U.astype(np.float64) + 2)
  return np.concatenate([inside_UC, inside_UC * discount_U[:, None]], axis=1)


def summarise(
  rank_U: np.ndarray, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, float]:
  """Means over rows: {"recall@1": .., "ndcg@10": ..}; NaN without rows."""
  if not len(rank_U):
    return dict.fromkeys(names(cutoffs), float("nan"))
  means = gains(rank_U, cutoffs).mean(axis=0)
  return dict(zip(names(cutoffs), means.tolist()))


def coverage(topk_UK: np.ndarray, num_items: int, k: int = 10) -> float:
  """Share of the catalogue that is among anybody's first k."""
  top = topk_UK[:, :k]
  return len(np.unique(top[top >= 0])) / num_items


def valid_fraction(topk_UK: np.ndarray, num_items: int) -> float:
  """Share of slots that hold an item of the catalogue.

  A list cannot be longer than the catalogue, so slots beyond it do not count.
  """
  top = topk_UK[:, :num_items]
  return float(np.mean((top >= 0) & (top < num_items))) if top.size else 1.0
