"""What a quantizer's codes are worth (methods 0): use, collisions, likeness.

`report` is the schema of health.json; `check` judges it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from holorec_jax.errors import UserError
from holorec_jax.quantize import collisions

NEIGHBOURS = 10
QUERIES = 2000
# Query-item pairs looked at: fewer queries on catalogues beyond 100,000 items.
PAIRS = 200_000_000
CHUNK = 16384


def report(
  sids_IRL: np.ndarray,
  vectors_IW: np.ndarray,
  dims: Sequence[int],
  num_codes: int,
  reconstruction: float | None = None,
) -> dict[str, Any]:
  """Health of a SID matrix, before any handling of collisions.

  Args:
    sids_IRL: codes, coarse to fine.
    vectors_IW: the items' content vectors.
    dims: latent dimensions of each granularity.
    num_codes: V.
    reconstruction: mean squared error of decoded items, where known.

  Returns:
    {"granularities": [{"dims", "collision_rate", "largest_group", "levels":
    [{"used", "dead", "perplexity", "entropy", "conditional_entropy"}]}],
    "reconstruction", "neighbour_agreement"}; entropies in bits.
  """
  granularities = []
  for r, dim in enumerate(dims):
    levels, size_G = _levels(sids_IRL[:, r], num_codes)
    granularities.append(
      {
        "dims": int(dim),
        "collision_rate": 1.0 - len(size_G) / len(sids_IRL),
        "largest_group": int(size_G.max()),
        "levels": levels,
      }
    )
  return {
    "granularities": granularities,
    "reconstruction": reconstruction,
    "neighbour_agreement": neighbour_agreement(sids_IRL[:, -1, 0], vectors_IW),
  }


def _entropy(size_G: np.ndarray) -> float:
  share = size_G / size_G.sum()
  return float(-np.sum(share * np.log2(share)))


def _levels(
  codes_IL: np.ndarray, num_codes: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
  """Health of each level, and how many items have each code string."""
  levels = []
  before = 0.0
  size_G = np.array([len(codes_IL)])
  for code_I, group_I in zip(codes_IL.T, collisions.prefix_groups(codes_IL)):
    size_V = np.bincount(code_I)
    used = int(np.count_nonzero(size_V))
    entropy = _entropy(size_V[size_V > 0])
    # H(s_l | s_<l) = H(s_<=l) - H(s_<l).
    size_G = np.bincount(group_I)
    upto = _entropy(size_G)
    levels.append(
      {
        "used": used,
        "dead": num_codes - used,
        "perplexity": 2.0**entropy,
        "entropy": entropy,
        "conditional_entropy": upto - before,
      }
    )
    before = upto
  return levels, size_G


def _unit(vectors_NW: np.ndarray) -> np.ndarray:
  norm_N1 = np.linalg.norm(vectors_NW, axis=1, keepdims=True)
  return vectors_NW / np.maximum(norm_N1, 1e-12)


def neighbour_agreement(
  code_I: np.ndarray, vectors_IW: np.ndarray, seed: int = 0
) -> float:
  """Share of an item's nearest items by cosine that share its code.

  Ten neighbours each, of all items or of a sample on large catalogues.
  """
  num_items = len(code_I)
  neighbours = min(NEIGHBOURS, num_items - 1)
  if neighbours < 1:
    return 1.0
  queries = max(1, min(QUERIES, PAIRS // num_items, num_items))
  query_Q = np.random.default_rng(seed).choice(num_items, queries, False)
  query_QW = _unit(vectors_IW[query_Q])
  best_QN = np.zeros((queries, 0), np.int64)
  score_QN = np.zeros((queries, 0), np.float32)
  for start in range(0, num_items, CHUNK):
    chunk_C = np.arange(start, min(start + CHUNK, num_items))
    score_QC = query_QW @ _unit(vectors_IW[start : start + CHUNK]).T
    score_QC[query_Q[:, None] == chunk_C] = -np.inf
    score_QC = np.concatenate([score_QN, score_QC], 1)
    item_QC = np.concatenate(
      [best_QN, np.broadcast_to(chunk_C, (queries, len(chunk_C)))], 1
    )
    keep = min(neighbours, score_QC.shape[1])
    top_QN = np.argpartition(-score_QC, keep - 1, 1)[:, :keep]
    score_QN = np.take_along_axis(score_QC, top_QN, 1)
    best_QN = np.take_along_axis(item_QC, top_QN, 1)
  return float(np.mean(code_I[best_QN] == code_I[query_Q, None]))


def check(report: dict[str, Any], num_items: int) -> None:
  """Raises UserError where a level uses under half of its codes.

  A catalogue of fewer than four items per code is held to half of a quarter
  of its items instead.
  """
  for row in report["granularities"]:
    for number, level in enumerate(row["levels"]):
      codes = level["used"] + level["dead"]
      enough = 0.5 * min(codes, num_items / 4)
      if level["used"] >= enough:
        continue
      if codes > num_items / 4:
        remedy = (
          f"lower the codes per level to {max(1, num_items // 8)} or less"
        )
      else:
        remedy = (
          "check that the item vectors are standardised and not nearly equal, "
          "fit for more steps, or lower the codes per level"
        )
      raise UserError(
        f"the quantizer uses only {level['used']} of {codes} codes at level "
        f"{number} of the granularity with {row['dims']} dims (expected at "
        f"least {int(np.ceil(enough))}): {remedy}."
      )
