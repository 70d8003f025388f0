"""Items that share a code string, and what to do about them (methods 0).

Policies: `leaf` leaves the codes alone, a leaf of the tree then holds several
items; `extra_level` numbers the items of a group in one more level, as TIGER
(arXiv 2305.05065) does; `reassign` moves all but the nearest item of a group
to free codes: of the last level, or, of unordered codes, of whichever codebook
costs least (`spread`).
"""

import functools
import heapq
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from holorec_jax.errors import UserError

POLICIES = ("leaf", "extra_level", "reassign")
# Keys below so many times their number are ranked by a table of all of them,
# which takes a tenth of sorting's time.
TABLE = 8
# Families whose homeless items are settled at a time, or items that are where
# any codebook will do: each asks for all codes.
FAMILIES = 16_384


def _rank(key_I: np.ndarray) -> np.ndarray:
  """Place of each key >= 0 among the distinct ones; (I,) int64."""
  bound = int(key_I.max(initial=0)) + 1
  if bound > TABLE * len(key_I):
    return np.unique(key_I, return_inverse=True)[1]
  there_K = np.zeros(bound, bool)
  there_K[key_I] = True
  return (np.cumsum(there_K) - 1)[key_I]


def _refine(group_I: np.ndarray, code_I: np.ndarray) -> np.ndarray:
  """Groups by one level more."""
  return _rank(group_I * (int(code_I.max(initial=0)) + 1) + code_I)


def prefix_groups(codes_IL: np.ndarray) -> Iterator[np.ndarray]:
  """`groups` of the first level, of the first two, and so on."""
  one_I = np.zeros(len(codes_IL), np.int64)
  steps = itertools.accumulate(codes_IL.T, _refine, initial=one_I)
  return itertools.islice(steps, 1, None)


def groups(codes_IL: np.ndarray) -> np.ndarray:
  """Number of each item's code string, in lexicographic order; (I,) int64."""
  one_I = np.zeros(len(codes_IL), np.int64)
  return functools.reduce(_refine, codes_IL.T, one_I)


def collision_rate(codes_IL: np.ndarray) -> float:
  """1 - distinct code strings / items."""
  return 1.0 - float(groups(codes_IL).max() + 1) / len(codes_IL)


def resolve(codes_IL: np.ndarray, policy: str, num_codes: int) -> np.ndarray:
  """Applies a policy that needs no quantizer to the fine row's codes.

  Args:
    codes_IL: fine codes.
    policy: one of POLICIES but `reassign`, which is a method of quantizers.
    num_codes: V, codes per level.

  Returns:
    int32 codes: (I, L) or, for `extra_level`, distinct ones (I, L + 1).

  Raises:
    UserError: the policy is unknown, or more items than codes fit.
  """
  if policy == "leaf":
    return codes_IL
  if policy == "extra_level":
    return _number(codes_IL, num_codes)
  raise UserError(
    f"collision policy {policy!r} is unknown here; expected one of"
    f" {', '.join(POLICIES)}, the last of which is a method of quantizers."
  )


def _rank_in_group(group_I: np.ndarray) -> np.ndarray:
  """0, 1, .. within each group, in the order of the items."""
  order_I = np.argsort(group_I, kind="stable")
  sorted_I = group_I[order_I]
  rank_I = np.empty_like(group_I)
  rank_I[order_I] = np.arange(len(group_I)) - np.searchsorted(
    sorted_I, sorted_I
  )
  return rank_I


def _number(codes_IL: np.ndarray, num_codes: int) -> np.ndarray:
  rank_I = _rank_in_group(groups(codes_IL))
  _check_fit(int(rank_I.max()) + 1, num_codes, "share one code string")
  return np.concatenate([codes_IL, rank_I[:, None].astype(np.int32)], 1)


def _check_fit(items: int, num_codes: int, what: str) -> None:
  if items > num_codes:
    raise UserError(
      f"{items} items {what}, but a level has only {num_codes} codes: more "
      "items than codes fit. Raise the number of codes or levels, or use the "
      "collision policy leaf."
    )


def reassign(
  codes_IL: np.ndarray, residuals_ID: np.ndarray, codebook_VD: np.ndarray
) -> np.ndarray:
  """Distinct codes, all but a group's nearest item having the last one moved.

  Rounds of proposals: each homeless item asks for its nearest free code.
  Siblings share all codes but the last and compete for the last level's. In a
  round every contested code goes to its nearest suitor, so rounds end.

  Args:
    codes_IL: fine codes.
    residuals_ID: what the last level had to quantize.
    codebook_VD: the last level's code vectors.

  Raises:
    UserError: more items share all codes but the last than it has codes.
  """
  codes_IL = codes_IL.copy()
  family_I = groups(codes_IL[:, :-1])
  _check_fit(
    int(np.bincount(family_I).max()),
    len(codebook_VD),
    "share all codes but the last",
  )
  last_I = codes_IL[:, -1]
  group_I = _rank(family_I * len(codebook_VD) + last_I)
  crowd_S = np.flatnonzero(np.bincount(group_I)[group_I] > 1)
  gap_S = np.sum(
    (residuals_ID[crowd_S] - codebook_VD[last_I[crowd_S]]) ** 2, -1
  )
  won_S = _winners(family_I[crowd_S], last_I[crowd_S], gap_S, len(codebook_VD))
  homeless_S = crowd_S[~won_S]
  # Only families with a collision take part from here on.
  families_P, family_S = np.unique(family_I[homeless_S], return_inverse=True)
  row_F = np.full(int(family_I.max()) + 1, -1)
  row_F[families_P] = np.arange(len(families_P))
  # Every code that a family has is kept by one of its items.
  sibling_J = np.flatnonzero(row_F[family_I] >= 0)
  taken_PV = np.zeros((len(families_P), len(codebook_VD)), bool)
  taken_PV[row_F[family_I[sibling_J]], last_I[sibling_J]] = True
  order_S = np.argsort(family_S, kind="stable")
  cuts = np.searchsorted(
    family_S[order_S], np.arange(FAMILIES, len(families_P), FAMILIES)
  )
  for part_S in np.split(order_S, cuts):
    item_S = homeless_S[part_S]
    codes_IL[item_S, -1] = _settle(
      family_S[part_S], residuals_ID[item_S], codebook_VD, taken_PV
    )
  return codes_IL


def _settle(family_S, residuals_SD, codebook_VD, taken_PV):
  """The codes of homeless items, which are marked as taken; (S,)."""
  code_S = np.empty(len(family_S), np.int64)
  gap_SV = np.sum(codebook_VD**2, -1) - 2 * residuals_SD @ codebook_VD.T
  left_S = np.arange(len(family_S))
  while len(left_S):
    open_SV = np.where(taken_PV[family_S[left_S]], np.inf, gap_SV)
    wish_S = np.argmin(open_SV, 1)
    won_S = _winners(
      family_S[left_S], wish_S, np.min(open_SV, 1), len(codebook_VD)
    )
    code_S[left_S[won_S]] = wish_S[won_S]
    taken_PV[family_S[left_S[won_S]], wish_S[won_S]] = True
    left_S, gap_SV = left_S[~won_S], gap_SV[~won_S]
  return code_S


def _winners(family_S, code_S, gap_S, num_codes):
  """Whether each suitor is the nearest to its family's code."""
  order_S = np.lexsort((gap_S, family_S * num_codes + code_S))
  place_S = (family_S * num_codes + code_S)[order_S]
  won_S = np.zeros(len(family_S), bool)
  won_S[order_S] = np.diff(place_S, prepend=-1) != 0
  return won_S


def spread(
  codes_IM: np.ndarray, gaps: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Distinct codes, all but a group's nearest item having one moved.

  Items choose one by one, those first that a free code costs least (of FAMILIES
  items at a time): of all codebooks the code whose distance exceeds their own
  code's least, in units of the codebook's mean distance.

  Args:
    codes_IM: unordered codes, one of each codebook.
    gaps: items (S,) -> squared distances (S, M, V) to all codes.

  Returns:
    int32 (I, M).

  Raises:
    UserError: an item has no free code left.
  """
  codes_IM = codes_IM.copy()
  group_I = groups(codes_IM)
  crowd_S = np.flatnonzero(np.bincount(group_I)[group_I] > 1)
  own_SM = np.concatenate(
    [_at_own(gaps(part), codes_IM[part]) for part in _parts(crowd_S)]
    or [np.empty((0, codes_IM.shape[1]))]
  )
  mean_M = np.maximum(own_SM.mean(axis=0), 1e-12) if len(own_SM) else 1.0
  order_S = np.lexsort(((own_SM / mean_M).sum(axis=1), group_I[crowd_S]))
  nearest_S = np.diff(group_I[crowd_S][order_S], prepend=-1) != 0
  homeless_S = crowd_S[order_S[~nearest_S]]
  settled_I = np.ones(len(codes_IM), bool)
  settled_I[homeless_S] = False
  taken = set(map(tuple, codes_IM[settled_I].tolist()))
  for part_S in _parts(homeless_S):
    gap_SMV = gaps(part_S)
    own_SM = _at_own(gap_SMV, codes_IM[part_S])
    cost_SMV = (gap_SMV - own_SM[..., None]) / np.reshape(mean_M, (-1, 1))
    codes_IM[part_S] = _choose(codes_IM[part_S], cost_SMV, taken)
  return codes_IM


def _parts(items_S: np.ndarray) -> list[np.ndarray]:
  """Some at a time: each asks for all codes."""
  cuts = range(FAMILIES, len(items_S), FAMILIES)
  return np.split(items_S, cuts) if len(items_S) else []


def _at_own(gap_SMV: np.ndarray, codes_SM: np.ndarray) -> np.ndarray:
  return np.take_along_axis(gap_SMV, codes_SM[..., None], axis=-1)[..., 0]


def _choose(codes_SM, cost_SMV, taken: set[tuple[int, ...]]) -> np.ndarray:
  """The items' new codes, which are added to those that are taken."""
  codes_SM, (M, V) = codes_SM.copy(), cost_SMV.shape[1:]
  # Their own codes are not for choice.
  np.put_along_axis(cost_SMV, codes_SM[..., None], np.inf, axis=-1)
  cost_SX = cost_SMV.reshape(-1, M * V)
  wishes_SX = np.argsort(cost_SX, axis=1)
  # Of every item its cheapest code that may be free: cost, item, wish.
  open_wishes = [
    (cost_SX[item, wish], item, 0) for item, wish in enumerate(wishes_SX[:, 0])
  ]
  heapq.heapify(open_wishes)
  while open_wishes:
    _, item, rank = heapq.heappop(open_wishes)
    codebook, code = divmod(int(wishes_SX[item, rank]), V)
    moved = codes_SM[item].tolist()
    moved[codebook] = code
    if tuple(moved) not in taken:
      taken.add(tuple(moved))
      codes_SM[item] = moved
    elif rank + 1 < M * (V - 1):
      wish = wishes_SX[item, rank + 1]
      heapq.heappush(open_wishes, (cost_SX[item, wish], item, rank + 1))
    else:
      raise UserError(
        f"more items share the codes {codes_SM[item].tolist()} than {M}"
        f" codebooks of {V} codes tell apart by one of them. Raise the number"
        " of codes or codebooks, or use the collision policy leaf."
      )
  return codes_SM
