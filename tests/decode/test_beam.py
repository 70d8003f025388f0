"""The beam search alone, on a network that is a table of every prefix."""

import jax
import numpy as np
import pytest
import tiny_models as tiny
from table_search import (
  assert_best,
  beam_by_sets,
  draw_table,
  score_all,
  search,
)

from holorec_jax.catalog import build_catalog
from holorec_jax.decode.beam import top_k


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(
  ("items", "levels", "codes", "distinct"),
  [
    (5, 1, 7, True),
    (9, 1, 4, False),
    (40, 2, 7, True),
    (40, 2, 5, False),
    (60, 3, 4, False),
    (50, 4, 3, True),
    (40, 4, 2, False),
  ],
)
def test_a_beam_as_wide_as_the_catalogue_is_exhaustive(
  items, levels, codes, distinct, exclude
):
  users = 6
  catalog = tiny.make_catalog(items, levels, codes, distinct)
  table = draw_table(users, levels, codes)
  rng = np.random.default_rng(1)
  seen_BT, excluded = None, [set() for _ in range(users)]
  if exclude:
    # Repetitions, empty slots, and a user who has seen all but one item.
    seen_BT = rng.integers(-1, items, (users, items)).astype(np.int32)
    seen_BT[:2, 3:] = -1
    seen_BT[-1] = rng.permutation(items)
    seen_BT[-1, 0] = -1
    excluded = [set(row.tolist()) for row in seen_BT]
  k = items + 3
  found = search(table, catalog, items, k, seen_BT)
  assert_best(found, score_all(table, catalog), k, excluded)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_scores_what_it_finds_exactly(beam):
  catalog = tiny.make_catalog(60, 3, 4, distinct=False)
  table = draw_table(6, 3, 4)
  k = 8
  found = search(table, catalog, beam, k)
  scores_BI = score_all(table, catalog)
  answers = zip(np.asarray(found.item_BK), np.asarray(found.score_BK))
  for row, (items_K, scores_K) in enumerate(answers):
    items = items_K[items_K >= 0]
    assert len(set(items.tolist())) == len(items) > 0
    np.testing.assert_allclose(
      scores_K[: len(items)], scores_BI[row, items], rtol=1e-5
    )
    assert (scores_K[len(items) :] == -np.inf).all()
    assert (np.diff(scores_K[: len(items)]) <= 0).all()


def test_beam_one_is_greedy():
  """At each level the best code that some item continues with."""
  codes_IL = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]])
  catalog = build_catalog(
    codes_IL[:, None], codes_IL, np.array([1, 1, 1, 2, 5]), 3, smoothing=1.0
  )
  # Code 2 is likeliest of all, but no item begins with it.
  share = [
    [[[0.1, 0.3, 0.6], [0.2, 0.2, 0.6], [0.2, 0.2, 0.6]]],
    [[[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.3, 0.3, 0.4]]],
  ]
  table = np.log(np.array(share, np.float32))
  found = search(table, catalog, 1, 3)
  # Items 3 and 4 share a leaf in the proportion 3 : 6.
  assert found.item_BK.tolist() == [[4, 3, -1]]
  np.testing.assert_allclose(
    np.exp(found.score_BK), [[0.3 * 0.5 * 6 / 9, 0.3 * 0.5 * 3 / 9, 0.0]], 1e-5
  )


def test_an_exhausted_leaf_takes_no_place_in_the_beam():
  codes_IL = np.array([[0], [1], [1], [2]])
  catalog = build_catalog(codes_IL[:, None], codes_IL, np.ones(4), 3)
  table = np.log(np.array([[[[0.5, 0.3, 0.2]]]], np.float32))
  table = np.repeat(table, 4, axis=1)
  # The last user has seen item 1 twice, but not item 2 of the same leaf.
  seen_BT = np.array([[-1, -1, -1], [0, -1, -1], [2, 0, 1], [0, 1, 1]])
  found = search(table, catalog, 1, 2, seen_BT)
  assert found.item_BK.tolist() == [[0, -1], [1, 2], [3, -1], [2, -1]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
  ("items", "levels", "codes", "beam"),
  [(12, 1, 9, 3), (50, 2, 6, 4), (60, 3, 4, 1), (60, 3, 4, 5), (70, 4, 3, 6)],
)
def test_a_beam_keeps_the_best_prefixes_with_items_left(
  items, levels, codes, beam, seed
):
  users = 8
  catalog = tiny.make_catalog(items, levels, codes, distinct=False, seed=seed)
  table = draw_table(users, levels, codes)
  rng = np.random.default_rng(seed)
  # Users have seen from nothing up to all but a few, some of it repeatedly.
  seen_BT = np.stack([rng.permutation(items) for _ in range(users)])
  count_B = np.linspace(0, items - 2, users).astype(int)
  seen_BT[np.arange(items) >= count_B[:, None]] = -1
  seen_BT = np.concatenate([seen_BT[:, ::3], seen_BT], 1).astype(np.int32)
  found = search(table, catalog, beam, beam, seen_BT)
  scores_BI = score_all(table, catalog)
  for row, seen_T in enumerate(seen_BT):
    excluded = set(seen_T.tolist())
    below = beam_by_sets(np.asarray(table), catalog, row, beam, excluded)
    best = sorted(below, key=lambda item: -scores_BI[row, item])[:beam]
    # A beam is full unless it holds all that is left.
    assert len(best) == min(beam, items - len(excluded - {-1}))
    assert found.item_BK[row].tolist() == best + [-1] * (beam - len(best))
    np.testing.assert_allclose(
      found.score_BK[row, : len(best)], scores_BI[row, best], rtol=1e-5
    )


def test_seen_items_under_a_popular_prefix_leave_the_beam_full():
  # Items 0 .. 23 begin with code 0, which everybody is offered first.
  codes_IL = np.array(
    [[0, a, b] for a in range(4) for b in range(6)]
    + [[a, b, 0] for a in (1, 2, 3) for b in range(4)]
  )
  catalog = build_catalog(codes_IL[:, None], codes_IL, np.ones(36), 6)
  table = np.array(draw_table(3, 3, 6))
  table[0, :, 0] = np.log([0.95, 0.01, 0.01, 0.01, 0.01, 0.01])
  # The first user has seen all of the prefix, the second all but one leaf
  # each below 0 0 and 0 2, the third all but that below 0 2.
  seen_BT = np.tile(np.arange(24, dtype=np.int32), (3, 1))
  seen_BT[1, [5, 14]] = -1
  seen_BT[2, 14] = -1
  k = 4
  found = search(table, catalog, k, k, seen_BT)
  items_BK = np.asarray(found.item_BK)
  assert (items_BK >= 0).all()
  for row in range(3):
    assert not set(items_BK[row].tolist()) & set(seen_BT[row].tolist())
  assert set(items_BK[1, :2].tolist()) == {5, 14}
  assert items_BK[2, 0] == 14
  # Codes 1, 2 and 3 all survive the first level: what is best below them is
  # best of all.
  scores_I = score_all(table, catalog)[0]
  assert items_BK[0, 0] == 24 + np.argmax(scores_I[24:])


def test_ties_keep_the_order_of_the_tree():
  catalog = tiny.make_catalog(20, 3, 4)
  table = np.full((3, 2, 16, 4), np.log(0.25), np.float32)
  first, again = (search(table, catalog, 20, 20) for _ in range(2))
  expected = catalog.tree.leaf_items.tolist()
  assert first.item_BK.tolist() == [expected] * 2
  assert again.item_BK.tolist() == first.item_BK.tolist()
  narrow = search(table, catalog, 5, 5)
  assert narrow.item_BK.tolist() == [expected[:5]] * 2


def test_nothing_is_left_for_who_has_seen_all():
  catalog = tiny.make_catalog(9, 2, 3)
  seen_BT = np.arange(9, dtype=np.int32)[None]
  found = search(draw_table(1, 2, 3), catalog, 4, 3, seen_BT)
  assert found.item_BK.tolist() == [[-1] * 3]
  assert (np.asarray(found.score_BK) == -np.inf).all()


def test_an_answer_says_where_it_came_from():
  catalog = tiny.make_catalog(60, 4, 3, distinct=False)
  table = draw_table(5, 4, 3)
  found = search(table, catalog, 7, 7)
  codes_BKL = catalog.codes_IL[np.asarray(found.item_BK)]
  share_BK = catalog.log_share_I[np.asarray(found.item_BK)]
  for row, rank in np.ndindex(5, 7):
    prefix = 0
    for level, code in enumerate(codes_BKL[row, rank]):
      np.testing.assert_allclose(
        found.level_score_BKL[row, rank, level],
        table[level, row, prefix, code],
        rtol=1e-6,
      )
      prefix = prefix * 3 + code
  np.testing.assert_allclose(
    np.sum(found.level_score_BKL, -1) + share_BK, found.score_BK, rtol=1e-5
  )
  assert found.parent_LBM.shape == found.beam_score_LBM.shape == (4, 5, 7)
  assert (np.asarray(found.parent_LBM)[0] == 0).all()
  # A beam never scores above the beam that it continues.
  for level in range(1, 4):
    parent_BM = np.asarray(found.parent_LBM[level])
    above = np.take_along_axis(
      np.asarray(found.beam_score_LBM[level - 1]), parent_BM, axis=1
    )
    assert (np.asarray(found.beam_score_LBM[level]) <= above).all()


@pytest.mark.parametrize(("size", "k"), [(5120, 20), (700, 3), (999, 1)])
def test_two_stages_find_what_one_does(size, k):
  rng = np.random.default_rng(size)
  score_BX = rng.normal(size=(6, size)).astype(np.float32)
  # Ties everywhere, dead entries, and a row without any life.
  score_BX[1:3] = np.round(score_BX[1:3])
  score_BX[3, rng.random(size) < 0.9] = -np.inf
  score_BX[4] = -np.inf
  for ours, theirs in zip(top_k(score_BX, k), jax.lax.top_k(score_BX, k)):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("beam", [256, 1024])
def test_beams_up_to_a_thousand(beam):
  catalog = tiny.make_catalog(2000, 3, 16)
  table = draw_table(2, 3, 16)
  found = search(table, catalog, beam, beam)
  scores_BI = score_all(table, catalog)
  for row in range(2):
    below = beam_by_sets(np.asarray(table), catalog, row, beam, set())
    best = sorted(below, key=lambda item: -scores_BI[row, item])[:beam]
    assert set(found.item_BK[row].tolist()) == set(best)
