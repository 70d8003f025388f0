"""Items that share a code string, and what to do about them (methods 0).

Policies: `leaf` leaves the codes alone, a leaf of the tree then holds several
items; `extra_level` numbers the items of a group in one more level, as TIGER
(arXiv 2305.05065) does; `reassign` moves all but the nearest item of a group
to free last-level codes.
"""

import numpy as np

from holorec_jax.errors import UserError

POLICIES = ("leaf", "extra_level", "reassign")


def groups(codes_IL: np.ndarray) -> np.ndarray:
  """Number of each item's code string, in lexicographic order; (I,) int64."""
  group_I = np.zeros(len(codes_IL), np.int64)
  for code_I in codes_IL.T.astype(np.int64):
    _, group_I = np.unique(
      group_I * (code_I.max(initial=0) + 1) + code_I, return_inverse=True
    )
  return group_I


def collision_rate(codes_IL: np.ndarray) -> float:
  """1 - distinct code strings / items."""
  return 1.0 - float(groups(codes_IL).max() + 1) / len(codes_IL)


def resolve(
  codes_IL: np.ndarray,
  policy: str,
  num_codes: int,
  residuals_ID: np.ndarray | None = None,
  codebook_VD: np.ndarray | None = None,
) -> np.ndarray:
  """Applies a policy to the fine row's codes.

  Args:
    codes_IL: fine codes.
    policy: one of POLICIES.
    num_codes: V, codes per level.
    residuals_ID: for `reassign`, what the last level had to quantize
      (`FittedQuantizer.last_residuals`).
    codebook_VD: for `reassign`, the last level's code vectors.

  Returns:
    int32 codes: (I, L) or, for `extra_level`, (I, L + 1). All but `leaf` are
    distinct.

  Raises:
    UserError: the policy is unknown, or more items than codes fit.
  """
  if policy == "leaf":
    return codes_IL
  if policy == "extra_level":
    return _number(codes_IL, num_codes)
  if policy == "reassign":
    if residuals_ID is None or codebook_VD is None:
      raise ValueError("reassign needs residuals_ID and codebook_VD")
    return _reassign(codes_IL, residuals_ID, codebook_VD)
  raise UserError(
    f"collision policy {policy!r} is unknown; expected one of "
    f"{', '.join(POLICIES)}."
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


def _reassign(codes_IL, residuals_ID, codebook_VD):
  """Rounds of proposals: each homeless item asks for its nearest free code.

  Siblings share all codes but the last and compete for the last level's. In a
  round every contested code goes to its nearest suitor, so rounds end.
  """
  codes_IL = codes_IL.copy()
  family_I = groups(codes_IL[:, :-1])
  _check_fit(
    int(np.bincount(family_I).max()),
    len(codebook_VD),
    "share all codes but the last",
  )
  last_I = codes_IL[:, -1]
  gap_I = np.sum((residuals_ID - codebook_VD[last_I]) ** 2, -1)
  home_I = _winners(family_I, last_I, gap_I, len(codebook_VD))
  # Only families with a collision take part from here on.
  homeless_S = np.flatnonzero(~home_I)
  families_P, family_S = np.unique(family_I[homeless_S], return_inverse=True)
  taken_PV = np.zeros((len(families_P), len(codebook_VD)), bool)
  settled_J = np.flatnonzero(home_I & np.isin(family_I, families_P))
  taken_PV[
    np.searchsorted(families_P, family_I[settled_J]), last_I[settled_J]
  ] = True
  gap_SV = (
    np.sum(codebook_VD**2, -1) - 2 * residuals_ID[homeless_S] @ codebook_VD.T
  )
  while len(homeless_S):
    open_SV = np.where(taken_PV[family_S], np.inf, gap_SV)
    wish_S = np.argmin(open_SV, 1)
    wish_gap_S = np.min(open_SV, 1)
    won_S = _winners(family_S, wish_S, wish_gap_S, len(codebook_VD))
    codes_IL[homeless_S[won_S], -1] = wish_S[won_S]
    taken_PV[family_S[won_S], wish_S[won_S]] = True
    homeless_S, family_S, gap_SV = (
      homeless_S[~won_S],
      family_S[~won_S],
      gap_SV[~won_S],
    )
  return codes_IL


def _winners(family_S, code_S, gap_S, num_codes):
  """Whether each suitor is the nearest to its family's code."""
  order_S = np.lexsort((gap_S, family_S * num_codes + code_S))
  place_S = (family_S * num_codes + code_S)[order_S]
  won_S = np.zeros(len(family_S), bool)
  won_S[order_S] = np.diff(place_S, prepend=-1) != 0
  return won_S
