"""The catalogue: shares inside a leaf, updates, and clear errors."""

import dataclasses

import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.catalog import (
  add_items,
  build_catalog,
  remove_items,
  restore_items,
  set_active,
)
from holorec_jax.errors import UserError

CODES_IL = np.array([[0, 1], [2, 2], [0, 1], [0, 1]])


def build(codes_IL=CODES_IL, counts=(3, 5, 0, 7), sids_IRL=None, **kwargs):
  if sids_IRL is None:
    sids_IRL = CODES_IL[:, None]
  return build_catalog(sids_IRL, codes_IL, np.array(counts), 4, **kwargs)


def test_shares_follow_smoothed_popularity():
  catalog = build()
  np.testing.assert_allclose(
    np.exp(catalog.log_share_I), [4 / 13, 1, 1 / 13, 8 / 13], rtol=1e-6
  )
  assert catalog.log_share_I.dtype == np.float32
  np.testing.assert_allclose(
    np.exp(build(smoothing=5.0).log_share_I), [8 / 25, 1, 5 / 25, 12 / 25], 1e-6
  )


def test_the_shares_of_a_leaf_sum_to_one():
  catalog = tiny.make_catalog(200, levels=2, codes=6, distinct=False)
  leaf_I = catalog.tree.leaf_of_item() - catalog.tree.level_start[-2]
  total = np.bincount(leaf_I, weights=np.exp(catalog.log_share_I))
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_a_collision_level_may_need_more_codes_than_the_quantizer_has():
  numbered_IL = np.column_stack([CODES_IL, [0, 9, 1, 2]])
  catalog = build(numbered_IL)
  assert catalog.num_codes == 10
  assert catalog.codes_IL.shape == (4, 3) and catalog.num_items == 4
  assert not catalog.log_share_I.any()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"counts": (1, 2, 3)}, "3 items, the semantic ids 4 and 4"),
    ({"sids_IRL": CODES_IL[:3, None]}, "different data. Fit"),
    ({"smoothing": 0.0}, "smoothing is 0.0; expected a positive"),
    ({"smoothing": float("nan")}, "smoothing is nan"),
    ({"codes_IL": CODES_IL - 1}, "Item 0 has code -1 at level 0"),
    (
      {"sids_IRL": np.stack([CODES_IL, CODES_IL * 2], 1)},
      r"Granularity 1 of item 1 has code 4 at level 0; .* in 0\.\.3",
    ),
    ({"counts": (3, 5, -1, 7)}, "Item 2 counts -1 training inter"),
    ({"counts": (3, float("nan"), 0, 7)}, "Item 1 counts nan"),
    (
      {
        "codes_IL": CODES_IL[:0],
        "counts": (),
        "sids_IRL": CODES_IL[:0, None],
      },
      "needs codes of shape",
    ),
  ],
)
def test_bad_input_is_named(change, message):
  with pytest.raises(UserError, match=message):
    build(**change)


NEW_IL = np.array([[2, 2], [0, 0]])


def share(catalog):
  return np.exp(catalog.log_share_I)


def test_a_removed_item_keeps_its_number_and_codes():
  catalog = remove_items(build(), np.array([0]))
  assert catalog.active_I.tolist() == [False, True, True, True]
  assert catalog.codes_IL.tolist() == CODES_IL.tolist()
  assert catalog.sids_IRL.tolist() == CODES_IL[:, None].tolist()
  assert catalog.num_items == catalog.tree.num_catalog_items == 4
  assert catalog.tree.leaf_items.tolist() == [2, 3, 1]
  # Counts are 0 and 7 in the leaf that is left, 5 in the other.
  np.testing.assert_allclose(share(catalog), [0, 1, 1 / 9, 8 / 9], rtol=1e-6)
  assert catalog.log_share_I[0] == -np.inf
  # Removed once more, it is still out, and nothing else is.
  again = remove_items(catalog, np.array([0, 0]))
  assert again.active_I.tolist() == catalog.active_I.tolist()


def test_added_items_get_the_next_numbers():
  catalog = add_items(build(), NEW_IL[:, None], NEW_IL, np.array([2, 0]))
  assert catalog.num_items == 6 and catalog.active_I.all()
  assert catalog.codes_IL.tolist() == [*CODES_IL.tolist(), [2, 2], [0, 0]]
  assert catalog.sids_IRL.shape == (6, 1, 2)
  assert catalog.tree.leaf_items.tolist() == [5, 0, 2, 3, 1, 4]
  np.testing.assert_allclose(
    share(catalog), [4 / 13, 6 / 9, 1 / 13, 8 / 13, 3 / 9, 1], rtol=1e-6
  )
  unseen = add_items(build(), NEW_IL[:, None], NEW_IL)
  assert unseen.counts_I.tolist() == [3, 5, 0, 7, 0, 0]
  nothing = add_items(build(), NEW_IL[:0, None], NEW_IL[:0])
  assert nothing.num_items == 4


def test_a_leaf_whose_items_are_all_removed_is_gone():
  catalog = remove_items(build(), [0, 2, 3])
  assert catalog.tree.num_leaves == catalog.tree.fanout[0] == 1
  assert share(catalog).tolist() == [0, 1, 0, 0]


def assert_same(a, b):
  for field in dataclasses.fields(a):
    x, y = getattr(a, field.name), getattr(b, field.name)
    if dataclasses.is_dataclass(x):
      assert_same(x, y)
    else:
      assert np.asarray(x).dtype == np.asarray(y).dtype, field.name
      np.testing.assert_array_equal(x, y, field.name)


def test_what_is_put_back_is_as_before():
  before = build()
  after = restore_items(remove_items(before, [3, 1]), [1, 3])
  assert_same(after, before)
  # Updates leave the catalogue that they were given alone.
  assert before.active_I.all()
  assert_same(before, build())


def test_added_or_built_at_once_is_the_same():
  whole = tiny.make_catalog(60, levels=3, codes=4, distinct=False)
  head = build_catalog(
    whole.sids_IRL[:45], whole.codes_IL[:45], whole.counts_I[:45], 4
  )
  assert_same(
    add_items(
      head, whole.sids_IRL[45:], whole.codes_IL[45:], whole.counts_I[45:]
    ),
    whole,
  )


def test_updates_in_any_order_give_the_shares_of_what_is_left():
  whole = tiny.make_catalog(80, levels=2, codes=4, distinct=False)
  rng = np.random.default_rng(1)
  catalog = build_catalog(
    whole.sids_IRL[:50], whole.codes_IL[:50], whole.counts_I[:50], 4, 0.5
  )
  catalog = remove_items(catalog, rng.choice(50, 30))
  catalog = add_items(
    catalog, whole.sids_IRL[50:], whole.codes_IL[50:], whole.counts_I[50:]
  )
  catalog = remove_items(catalog, rng.choice(80, 20))
  catalog = restore_items(catalog, rng.choice(80, 5))
  for item in range(80):
    alike_I = (catalog.codes_IL == catalog.codes_IL[item]).all(axis=1)
    weight_I = (whole.counts_I + 0.5) * (alike_I & catalog.active_I)
    expected = weight_I[item] / max(weight_I.sum(), 0.5)
    np.testing.assert_allclose(share(catalog)[item], expected, rtol=1e-6)
  assert_same(set_active(whole, catalog.active_I).tree, catalog.tree)
  np.testing.assert_array_equal(
    np.sort(catalog.tree.leaf_items), np.flatnonzero(catalog.active_I)
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"codes_NL": [[2, 2], [0, 4]]},
      r"New item 1 has code 4 at level 1; .* in 0\.\.3",
    ),
    (
      {"sids_NRL": [[[2, 2]], [[-1, 0]]]},
      "Granularity 0 of new item 1 has code -1 at level 0",
    ),
    ({"codes_NL": [[2.0, 2], [0, 0]]}, "integer codes; got float64"),
    (
      {"codes_NL": [[2, 2, 0], [0, 0, 0]]},
      r"items' codes are of shape \(2, 3\); expected \(2, 2\) for 2 items",
    ),
    (
      {"sids_NRL": [[[2, 2]] * 2] * 2},
      r"items' sids are of shape \(2, 2, 2\); expected \(2, 1, 2\)",
    ),
    ({"sids_NRL": [[[2, 2]]]}, r"sids are of shape \(1, 1, 2\); expected"),
    ({"counts_N": [1]}, r"counts are of shape \(1,\); expected \(2,\)"),
    ({"counts_N": [1, -2]}, "Item 5 counts -2.0 training"),
  ],
)
def test_new_items_at_fault_are_named(change, message):
  arguments = {"sids_NRL": NEW_IL[:, None], "codes_NL": NEW_IL} | change
  with pytest.raises(UserError, match=message):
    add_items(build(), **arguments)


@pytest.mark.parametrize("update", [remove_items, restore_items])
@pytest.mark.parametrize(
  ("items", "message"),
  [
    ([1, 4], r"no item 4 \(entry 1\): items are numbered 0\.\.3"),
    ([-1], "no item -1"),
    ([1.0], "flat array of item numbers; got float64"),
    ([True, False, True, True], "flat array of item numbers; got bool"),
  ],
)
def test_unknown_items_are_named(update, items, message):
  with pytest.raises(UserError, match=message):
    update(build(), items)


def test_the_last_item_stays():
  catalog = remove_items(build(), [0, 2, 3])
  with pytest.raises(UserError, match="None of the catalogue's 4 items would"):
    remove_items(catalog, [1])
  assert remove_items(catalog, []).active_I.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("active_I", [[1, 0, 1, 1], [True] * 3])
def test_activity_is_one_bool_an_item(active_I):
  with pytest.raises(UserError, match=r"must be bool of shape \(4,\)"):
    set_active(build(), active_I)
