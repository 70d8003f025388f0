import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize import collisions


def _crowd(seed, items, codes=8, width=3):
  rng = np.random.default_rng(seed)
  codes_IL = rng.integers(4, size=(items, 3)).astype(np.int32)
  residuals_ID = rng.normal(size=(items, width)).astype(np.float32)
  codebook_VD = rng.normal(size=(codes, width)).astype(np.float32)
  gap_IV = ((residuals_ID[:, None] - codebook_VD) ** 2).sum(-1)
  codes_IL[:, -1] = gap_IV.argmin(1)
  return codes_IL, residuals_ID, codebook_VD


def test_groups_number_code_strings_in_order():
  codes_IL = np.array([[1, 0], [0, 5], [1, 0], [0, 2]], np.int32)
  assert collisions.groups(codes_IL).tolist() == [2, 1, 2, 0]
  assert collisions.collision_rate(codes_IL) == 0.25


def test_groups_do_not_overflow_long_strings():
  codes_IL = np.full((3, 40), 65535, np.int32)
  codes_IL[1, 39] = 0
  assert collisions.groups(codes_IL).tolist() == [1, 0, 1]


@pytest.mark.parametrize("codes", [3, 100_000])
def test_groups_of_few_and_of_many_codes_are_those_of_numpy(codes):
  # The first are ranked by a table, the others by sorting.
  codes_IL = np.random.default_rng(0).integers(codes, size=(500, 3))
  codes_IL[::7] = codes_IL[1]
  for level, group_I in enumerate(collisions.prefix_groups(codes_IL), 1):
    _, expected_I = np.unique(codes_IL[:, :level], axis=0, return_inverse=True)
    np.testing.assert_array_equal(group_I, expected_I)
  np.testing.assert_array_equal(collisions.groups(codes_IL), group_I)
  assert collisions.groups(codes_IL[:, :0]).tolist() == [0] * 500


def test_leaf_leaves_the_codes():
  codes_IL = np.zeros((3, 2), np.int32)
  assert collisions.resolve(codes_IL, "leaf", 4) is codes_IL


def test_extra_level_numbers_a_group():
  codes_IL = np.array([[1, 0], [0, 5], [1, 0], [1, 0]], np.int32)
  numbered = collisions.resolve(codes_IL, "extra_level", 4)
  assert numbered.dtype == np.int32
  assert numbered.tolist() == [[1, 0, 0], [0, 5, 0], [1, 0, 1], [1, 0, 2]]
  with pytest.raises(UserError, match="3 items share one code string"):
    collisions.resolve(codes_IL, "extra_level", 2)


def test_reassign_moves_the_farthest_to_its_next_nearest_free_code():
  codebook_VD = np.array([[0.0], [1.0], [3.0], [-4.0]], np.float32)
  # One family: code 0 is wanted thrice, code 1 is taken by the fourth item.
  residuals_ID = np.array([[0.4], [0.1], [-0.2], [1.1]], np.float32)
  codes_IL = np.array([[7, 0], [7, 0], [7, 0], [7, 1]], np.int32)
  moved = collisions.reassign(codes_IL, residuals_ID, codebook_VD)
  # 0.4 and -0.2 both ask for 3 next: 0.4 is nearer, -0.2 gets -4.
  assert moved.tolist() == [[7, 2], [7, 0], [7, 3], [7, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_reassign_is_distinct_and_moves_only_what_it_must(seed):
  codes_IL, residuals_ID, codebook_VD = _crowd(seed, items=50)
  moved = collisions.reassign(codes_IL, residuals_ID, codebook_VD)
  assert collisions.collision_rate(moved) == 0.0
  np.testing.assert_array_equal(moved[:, :-1], codes_IL[:, :-1])
  changed_I = (moved != codes_IL).any(1)
  assert changed_I.sum() == len(codes_IL) - len(np.unique(codes_IL, axis=0))
  # Of each group the nearest stays.
  gap_I = ((residuals_ID - codebook_VD[codes_IL[:, -1]]) ** 2).sum(-1)
  group_I = collisions.groups(codes_IL)
  for group in range(group_I.max() + 1):
    members = np.flatnonzero(group_I == group)
    assert not changed_I[members[gap_I[members].argmin()]]


def test_reassign_by_parts_is_reassign_of_all(monkeypatch):
  crowd = _crowd(0, items=50)
  whole_IL = collisions.reassign(crowd[0], *crowd[1:])
  monkeypatch.setattr(collisions, "FAMILIES", 3)
  parts_IL = collisions.reassign(crowd[0], *crowd[1:])
  np.testing.assert_array_equal(parts_IL, whole_IL)


def test_reassign_fills_a_family_to_the_brim_and_no_further():
  codebook_VD = np.arange(8.0, dtype=np.float32)[:, None]
  codes_IL = np.zeros((8, 1), np.int32)
  moved = collisions.reassign(
    codes_IL, np.zeros((8, 1), np.float32), codebook_VD
  )
  assert sorted(moved[:, 0].tolist()) == list(range(8))
  with pytest.raises(UserError, match="9 items share all codes but the last"):
    collisions.reassign(
      np.zeros((9, 1), np.int32),
      np.zeros((9, 1), np.float32),
      codebook_VD,
    )


def test_unknown_policy_is_named():
  with pytest.raises(UserError, match="leaf, extra_level, reassign"):
    collisions.resolve(np.zeros((2, 2), np.int32), "sinkhorn", 4)


def test_spread_takes_the_cheapest_free_code_of_any_codebook():
  # Items 0, 1 and 2 share their codes.
  codes_IM = np.array([[0, 0], [0, 0], [0, 0], [0, 1]], np.int32)
  gap_IMV = np.array(
    [
      [[0.5, 1.5, 9.0], [0.5, 2.0, 3.0]],  # the nearest: it stays
      [[1.0, 2.0, 9.0], [1.0, 1.5, 3.0]],
      [[1.0, 1.6, 9.0], [1.0, 1.5, 2.0]],
      [[1.0, 9.0, 9.0], [9.0, 1.0, 9.0]],
    ],
    np.float32,
  )
  asked = []

  def gaps(items_S):
    asked.append(items_S.tolist())
    return gap_IMV[items_S]

  moved_IM = collisions.spread(codes_IM, gaps)
  # Both would rather be (0, 1), which is item 3's, and then (1, 0), which
  # costs item 2 less.
  assert moved_IM.tolist() == [[0, 0], [0, 2], [1, 0], [0, 1]]
  assert asked[0] == [0, 1, 2]
  assert codes_IM[1].tolist() == [0, 0]
  distinct = np.array([[0, 1], [1, 0]], np.int32)
  assert collisions.spread(distinct, gaps).tolist() == distinct.tolist()


def test_spread_serves_first_whom_a_free_code_costs_least():
  """Not whom a code costs least that another has."""
  # Items 0, 1 and 2 share their codes, 3 and 4 hold others.
  codes_IM = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [0, 1]], np.int32)
  own = [[0.0] * 3] * 2
  gap_IMV = np.array(
    [
      own,
      [[1, 1.1, 9.0], [1, 9.0, 5.0]],  # cheapest is 3's; a free one costs 4
      [[1, 9.0, 9.0], [1, 9.0, 2.0]],  # its cheapest is free, and costs 1
      own,
      own,
    ],
    np.float32,
  )
  moved_IM = collisions.spread(codes_IM, lambda items_S: gap_IMV[items_S])
  assert moved_IM[2].tolist() == [0, 2]
  assert moved_IM[1].tolist() == [2, 0]


def test_spread_gives_up_where_no_code_is_free():
  codes_IM = np.zeros((6, 2), np.int32)
  with pytest.raises(UserError, match="2 codebooks of 3 codes"):
    collisions.spread(codes_IM, lambda items: np.ones((len(items), 2, 3)))
  assert (
    len(
      np.unique(
        collisions.spread(
          codes_IM[:5], lambda items: np.ones((len(items), 2, 3))
        ),
        axis=0,
      )
    )
    == 5
  )
