"""The beam search alone, on a network that is a table of every prefix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.catalog import Catalog, build_catalog
from holorec_jax.decode.beam import Items, beam_search, device_tree


def draw_table(users: int, levels: int, codes: int) -> np.ndarray:
  """(L, U, V^(L-1), V) log-probabilities after each prefix, per user."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(levels, users, codes ** (levels - 1), codes))
  return jax.nn.log_softmax(logits.astype(np.float32))


@functools.partial(tiny.jit, static_argnames=("beam", "k"))
def search(table, tree, beam: int, k: int, excluded_BT=None) -> Items:
  """The state is the number of the prefix: right only if it moves with it."""
  codes = table.shape[-1]

  def start():
    prefix_B1 = jnp.zeros((table.shape[1], 1), jnp.int32)
    return prefix_B1, table[0][:, :1]

  def level(prefix_BM, depth, code_BM):
    prefix_BM = prefix_BM * codes + code_BM
    after = jnp.take_along_axis(table[depth], prefix_BM[..., None], axis=1)
    return prefix_BM, after

  return beam_search(start, level, tree, beam, k, excluded_BT)


def score_all(table, catalog: Catalog) -> np.ndarray:
  """(U, I) by walking every item's codes."""
  scores = np.broadcast_to(
    catalog.log_share_I, (table.shape[1], catalog.num_items)
  ).copy()
  for item, codes in enumerate(catalog.codes_IL):
    prefix = 0
    for level, code in enumerate(codes):
      scores[:, item] += table[level, :, prefix, code]
      prefix = prefix * table.shape[-1] + code
  return scores


def assert_best(found: Items, scores_BI, k: int, excluded: list[set]):
  """The k best allowed items, best first, then -1."""
  for row, (items_K, scores_K) in enumerate(zip(*map(np.asarray, found))):
    order = np.argsort(-scores_BI[row], kind="stable")
    allowed = [i for i in order if i not in excluded[row]][:k]
    missing = k - len(allowed)
    assert items_K.tolist() == allowed + [-1] * missing
    np.testing.assert_allclose(
      scores_K, [*scores_BI[row, allowed], *[-np.inf] * missing], rtol=1e-5
    )


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
  found = search(table, device_tree(catalog), items, k, seen_BT)
  assert_best(found, score_all(table, catalog), k, excluded)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_scores_what_it_finds_exactly(beam):
  catalog = tiny.make_catalog(60, 3, 4, distinct=False)
  table = draw_table(6, 3, 4)
  k = 8
  found = search(table, device_tree(catalog), beam, k)
  scores_BI = score_all(table, catalog)
  for row, (items_K, scores_K) in enumerate(zip(*map(np.asarray, found))):
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
  found = search(table, device_tree(catalog), 1, 3)
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
  found = search(table, device_tree(catalog), 1, 2, seen_BT)
  assert found.item_BK.tolist() == [[0, -1], [1, 2], [3, -1], [2, -1]]


def test_ties_keep_the_order_of_the_tree():
  catalog = tiny.make_catalog(20, 3, 4)
  table = np.full((3, 2, 16, 4), np.log(0.25), np.float32)
  tree = device_tree(catalog)
  first, again = (search(table, tree, 20, 20) for _ in range(2))
  expected = catalog.tree.leaf_items.tolist()
  assert first.item_BK.tolist() == [expected] * 2
  assert again.item_BK.tolist() == first.item_BK.tolist()
  narrow = search(table, tree, 5, 5)
  assert narrow.item_BK.tolist() == [expected[:5]] * 2


def test_nothing_is_left_for_who_has_seen_all():
  catalog = tiny.make_catalog(9, 2, 3)
  seen_BT = np.arange(9, dtype=np.int32)[None]
  found = search(draw_table(1, 2, 3), device_tree(catalog), 4, 3, seen_BT)
  assert found.item_BK.tolist() == [[-1] * 3]
  assert (np.asarray(found.score_BK) == -np.inf).all()
