"""Metrics by length of the history and by how often the target was trained on.

The second shows whether a system serves rare items (the sparse scenario).
Users of ten interactions and more are a slice of their own, as S2GR's paper
(arXiv 2601.18664) reports them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holorec_jax.evaluate import intervals, metrics

# First value of each bin; the last bin has no end.
HISTORY_EDGES = (1, 5, 6, 8, 11, 21, 51, 101, 201)
ACTIVITY_EDGES = (1, 10)
FREQUENCY_EDGES = (0, 1, 5, 10, 20, 50, 100, 500)


def by_value(
  value_U: np.ndarray,
  rank_U: Mapping[str, np.ndarray],
  edges: Sequence[int],
  cutoffs: Sequence[int] = (10,),
  fewest: int = 30,
) -> list[dict[str, Any]]:
  """Metrics of every system in every bin that has rows.

  Args:
    value_U: what to slice by, a count per row.
    rank_U: system's name -> ranks of the same rows.
    edges: first value of each bin, ascending; rows below the first are a bug.
    cutoffs: list lengths.
    fewest: while the last bin has fewer rows, it joins the one before: too
      few say nothing.

  Returns:
    [{"low": 5, "high": 9 (None: no end), "users": n, "systems": {name:
    {"recall@10": .., ..}}, "intervals": {name: {"recall@10": [low, high]}}}].
  """
  if len(value_U) and np.min(value_U) < edges[0]:
    raise ValueError(f"a value below the first edge, {edges[0]}")
  while len(edges) > 1 and np.count_nonzero(value_U >= edges[-1]) < fewest:
    edges = edges[:-1]
  bin_U = np.searchsorted(edges, value_U, side="right") - 1
  rows = []
  for index in np.unique(bin_U).tolist():
    inside_U = bin_U == index
    ranks = {name: rank[inside_U] for name, rank in rank_U.items()}
    rows.append(
      {
        "low": edges[index],
        "high": edges[index + 1] - 1 if index + 1 < len(edges) else None,
        "users": int(inside_U.sum()),
        "systems": {
          name: metrics.summarise(rank, cutoffs) for name, rank in ranks.items()
        },
        "intervals": {
          name: intervals.bootstrap(rank, cutoffs)
          for name, rank in ranks.items()
        },
      }
    )
  return rows


def label(low: int, high: int | None) -> str:
  """A bin in words: "5", "6–7", "201+"."""
  if high is None:
    return f"{low}+"
  return str(low) if low == high else f"{low}–{high}"
