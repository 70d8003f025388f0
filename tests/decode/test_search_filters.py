"""Filters and changed catalogues, on a network that is a table."""

import jax
import numpy as np
import pytest
import tiny_models as tiny
from table_search import (
  assert_best,
  beam_by_sets,
  draw_table,
  run,
  score_all,
  search,
)

from holorec_jax.catalog import add_items, remove_items
from holorec_jax.decode import filters
from holorec_jax.decode.search_tree import device_tree, needs, with_room


def draw_filters(rng, items: int, users: int):
  """Availability, deny and allow lists from nothing to nearly everything."""
  available_I = rng.random(items) < rng.choice([0.1, 0.6, 1.0])
  deny_BT = rng.integers(-1, items, (users, items // 2)).astype(np.int32)
  deny_BT[0] = -1
  allow: list = [
    rng.integers(0, items, rng.integers(0, items)).tolist()
    if rng.random() < 0.6
    else None
    for _ in range(users)
  ]
  return available_I, deny_BT, allow


def allowed_items(items, available_I, deny_T, allow) -> set:
  left = set(np.flatnonzero(available_I).tolist()) - set(deny_T.tolist())
  return left & set(range(items) if allow is None else allow)


# One shape for each form of the tree: bit sets nearly everywhere, children
# nearly everywhere, and both.
FORMS = {0: "children", 1: "root", 2: "all but the last", 3: "bit sets"}


@pytest.mark.parametrize("groups", FORMS)
@pytest.mark.parametrize(
  ("items", "levels", "codes", "seed"),
  [(70, 3, 5, seed) for seed in range(5)]
  + [(50, 2, 40, 5), (9, 1, 4, 6), (60, 4, 3, 7)],
)
def test_random_filters_against_brute_force(items, levels, codes, seed, groups):
  users, beam = 8, 6
  rng = np.random.default_rng(seed)
  catalog = tiny.make_catalog(items, levels, codes, distinct=False, seed=seed)
  table = draw_table(users, levels, codes)
  available_I, deny_BT, allow = draw_filters(rng, items, users)
  capacity = with_room(needs(catalog, groups), 0.25)
  found = search(
    table, catalog, beam, beam, deny_BT, allow, available_I, capacity
  )
  scores_BI = score_all(table, catalog)
  for row in range(users):
    left = allowed_items(items, available_I, deny_BT[row], allow[row])
    below = beam_by_sets(
      np.asarray(table), catalog, row, beam, set(range(items)) - left
    )
    best = sorted(below, key=lambda item: -scores_BI[row, item])[:beam]
    # As many come back as are allowed, up to the beam.
    assert len(best) == min(beam, len(left))
    assert found.item_BK[row].tolist() == best + [-1] * (beam - len(best))
    assert found.valid_BK[row].tolist() == [True] * len(best) + [False] * (
      beam - len(best)
    )
    np.testing.assert_allclose(
      found.score_BK[row, : len(best)], scores_BI[row, best], rtol=1e-5
    )


def test_filters_are_data_and_compile_nothing():
  catalog = tiny.make_catalog(40, 3, 4, distinct=False)
  table = draw_table(3, 3, 4)
  rng = np.random.default_rng(0)
  counts = []
  for _ in range(3):
    available_I, deny_BT, _ = draw_filters(rng, 40, 3)
    search(table, catalog, 5, 5, deny_BT, [[1, 2], None, []], available_I)
    counts.append(run._cache_size())
  assert counts[0] == counts[-1]


def test_a_changed_catalogue_fits_without_compiling():
  catalog = tiny.make_catalog(40, 3, 4, distinct=False)
  table = draw_table(3, 3, 4)
  capacity = with_room(needs(catalog), 0.5)
  before = search(table, catalog, 8, 8, capacity=capacity)
  compiled = run._cache_size()
  best = np.asarray(before.item_BK)[:, 0].tolist()
  codes_IL = np.array([[0, 0, 0], [3, 3, 3], [1, 2, 3]])
  larger = add_items(catalog, np.stack([codes_IL] * 2, 1), codes_IL)
  changed = remove_items(larger, sorted(set(best)))
  assert capacity.holds(needs(changed, capacity.dense_groups))
  found = search(table, changed, 43, 43, capacity=capacity)
  scores_BI = score_all(table, changed)
  gone = [set(best)] * 3
  assert_best(found, scores_BI, 43, gone)
  # The new items are among them at once.
  assert (np.asarray(found.item_BK) >= 40).sum(axis=1).tolist() == [3] * 3
  search(table, changed, 8, 8, capacity=capacity)
  assert run._cache_size() == compiled + 1  # the wider beam
  with pytest.raises(ValueError, match="needs"):
    device_tree(changed, needs(catalog))


def test_long_lists_are_sorted_instead_of_compared(monkeypatch):
  """The same either way, with repeats, padding and places that do not count."""
  rng = np.random.default_rng(0)
  deny_BT = rng.integers(-1, 40, (6, 50)).astype(np.int32)
  allow_BA = rng.integers(-1, 40, (6, 30)).astype(np.int32)
  lists = filters.Lists(deny_BT, allow_BA, np.ones(6, bool))
  counts_BT = (deny_BT >= 0) & (rng.random((6, 50)) < 0.7)
  node_DBT = np.where(counts_BT, np.stack([deny_BT // 9, deny_BT]), -1)

  def find():
    return (
      filters.first_of_each(deny_BT),
      np.where(counts_BT, filters.count_equal(node_DBT, counts_BT), -1),
      filters.denied_of_allowed(lists),
    )

  compared = find()
  monkeypatch.setattr(filters, "_PAIRS", 0)
  for one, other in zip(compared, find(), strict=True):
    np.testing.assert_array_equal(one, other)
  first_BT, count_DBT, denied_BA = compared
  assert 0 < first_BT.sum() < first_BT.size
  assert count_DBT[0].max() > count_DBT[1].max() > 1
  assert 0 < denied_BA.sum() < denied_BA.size


def test_memory_of_filters_grows_with_long_histories_not_their_square():
  catalog = tiny.make_catalog(40, levels=3, codes=4)
  tree = device_tree(catalog)
  live = filters.live_nodes(tree, np.ones(40, bool))

  def peak(length):
    deny_BT = np.zeros((16, length), np.int32)
    lists = filters.Lists(deny_BT, deny_BT[:, :16], np.ones(16, bool))
    made = jax.jit(filters.make_masks).lower(
      tree, live, tiny.make_codes(catalog).fine_IL, lists
    )
    return made.compile().memory_analysis().temp_size_in_bytes

  assert peak(2048) < 3 * peak(1024)
