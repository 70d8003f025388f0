"""The golden request: what a bundle must answer wherever it is loaded.

Histories of the run with and without filters, and an empty one, answered by the
recommender itself. Those are taken whose answers are clearly ordered: other
platforms round otherwise, and must not swap two items of almost one score.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.export import programs

CANDIDATES = 32
# Free, without what was seen, of some items only.
KINDS = 3


def make(
  recommender: Recommender,
  histories: Sequence[np.ndarray],
  width: int,
  dtype: str,
) -> dict[str, Any]:
  """Requests and answers, as JSON.

  Args:
    recommender: that answers.
    histories: to choose from.
    width: most entries of a list.
    dtype: of the search.

  Returns:
    histories, deny and allow as `Bundle.recommend` takes them, and the items
    and scores found, without what is behind a list's end.
  """
  chosen = [h for h in histories if 0 < len(set(map(int, h))) <= width]
  step = max(1, len(chosen) // CANDIDATES)
  asked = [list(map(int, h)) for h in chosen[::step][:CANDIDATES]] + [[]]
  num_items = recommender.catalog.num_items
  some = np.linspace(0, num_items - 1, min(width, num_items)).astype(int)
  kinds = [number % KINDS for number in range(len(asked) - 1)] + [1]
  deny = [h if kind == 1 else [] for h, kind in zip(asked, kinds)]
  allow = [some.tolist() if kind == 2 else None for kind in kinds]
  with jax.default_matmul_precision(programs.precision(dtype)):
    found = recommender.recommend(
      make_histories(asked), Filters(False, deny, allow)
    )
  clear_U = [_separation(scores) for scores in found.scores_UK]
  best = [
    max(
      (user for user in range(len(asked) - 1) if kinds[user] == kind),
      key=clear_U.__getitem__,
      default=None,
    )
    for kind in range(KINDS)
  ]
  taken = [user for user in best if user is not None] + [len(asked) - 1]
  valid_UK = found.valid_UK
  return {
    "histories": [asked[user] for user in taken],
    "deny": [deny[user] for user in taken],
    "allow": [allow[user] for user in taken],
    "items": [found.items_UK[u, valid_UK[u]].tolist() for u in taken],
    "scores": [found.scores_UK[u, valid_UK[u]].tolist() for u in taken],
  }


def _separation(score_K: np.ndarray) -> float:
  """Least distance of two neighbours; equal ones keep their order anywhere."""
  gap_K = -np.diff(score_K[np.isfinite(score_K)])
  return float(gap_K[gap_K > 0].min(initial=np.inf))
