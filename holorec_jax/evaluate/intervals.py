"""Bootstrap confidence intervals over users.

A row's metrics depend on its rank alone, so resampling rows with replacement is
a multinomial draw over the distinct ranks: exact, and its cost does not grow
with the number of users.
"""

from collections.abc import Sequence

import numpy as np

from holorec_jax.evaluate import metrics

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)


def bootstrap(
  rank_U: np.ndarray,
  cutoffs: Sequence[int] = metrics.CUTOFFS,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> dict[str, tuple[float, float]]:
  """95 % intervals of every metric: {"recall@10": (low, high), ..}."""
  ranks_V, counts_V = np.unique(rank_U, return_counts=True)
  low, high = _percentiles(
    metrics.gains(ranks_V, cutoffs), counts_V, resamples, seed
  )
  return dict(zip(metrics.names(cutoffs), zip(low.tolist(), high.tolist())))


def paired_difference(
  rank_U: np.ndarray,
  other_U: np.ndarray,
  cutoffs: Sequence[int] = metrics.CUTOFFS,
  resamples: int = RESAMPLES,
  seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
  """A system minus another on the same rows.

  Args:
    rank_U: the system's ranks.
    other_U: the other's ranks of the same targets, row by row.
    cutoffs: list lengths.
    resamples: bootstrap samples.
    seed: of the draws.

  Returns:
    {"recall@10": (difference, low, high), ..}: rows are resampled together, so
    what is hard for both cancels.
  """
  if len(rank_U) != len(other_U):
    raise ValueError(f"{len(rank_U)} rows against {len(other_U)}")
  pairs_V2, counts_V = np.unique(
    np.stack([rank_U, other_U], axis=1), axis=0, return_counts=True
  )
  gain_VM = metrics.gains(pairs_V2[:, 0], cutoffs) - metrics.gains(
    pairs_V2[:, 1], cutoffs
  )
  mean_M = counts_V @ gain_VM / max(counts_V.sum(), 1)
  low, high = _percentiles(gain_VM, counts_V, resamples, seed)
  rows = zip(mean_M.tolist(), low.tolist(), high.tolist())
  return dict(zip(metrics.names(cutoffs), rows))


def _percentiles(
  gain_VM: np.ndarray, counts_V: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
  """(2, M): percentiles of the resampled means; NaN without rows."""
  total = counts_V.sum()
  if not total:
    return np.full((2, gain_VM.shape[1]), np.nan)
  rng = np.random.default_rng(seed)
  draws_SV = rng.multinomial(total, counts_V / total, size=resamples)
  return np.percentile(draws_SV @ gain_VM / total, PERCENTILES, axis=0)
