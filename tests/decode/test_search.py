"""Search with the network: a wide beam is exhaustive, for every thought."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.catalog import build_catalog
from holorec_jax.decode.exhaustive import score_all
from holorec_jax.decode.filters import Lists, live_nodes
from holorec_jax.decode.search import make_search, search
from holorec_jax.decode.search_tree import device_tree
from holorec_jax.quantize import collisions
from holorec_jax.train.losses import unpack_bits
from holorec_jax.tree import continuations

SEARCH = tiny.jit(search, static_argnums=(1, 7, 8, 9))
SCORE_ALL = tiny.jit(score_all, static_argnums=1)
USERS, SLOTS = 8, 6


def draw_histories(items: int) -> np.ndarray:
  """Left-aligned, of length 1 up to all slots, with repetitions."""
  rng = np.random.default_rng(2)
  item_BT = rng.integers(0, items, (USERS, SLOTS)).astype(np.int32)
  length_B = np.linspace(1, SLOTS, USERS).astype(int)
  item_BT[np.arange(SLOTS) >= length_B[:, None]] = -1
  return item_BT


def deny(item_BT: np.ndarray) -> Lists:
  """Nobody gets what they have seen; everything else is allowed."""
  users = len(item_BT)
  return Lists(
    item_BT, np.full((users, 1), -1, np.int32), np.zeros(users, bool)
  )


def assert_exhaustive(catalog, exclude: bool, **changes):
  model, params = tiny.make_model(catalog, **changes)
  item_BT = draw_histories(catalog.num_items)
  I = catalog.num_items
  codes = tiny.make_codes(catalog)
  tree = device_tree(catalog)
  live = live_nodes(tree, jnp.ones(I, bool))
  lists = deny(item_BT) if exclude else None
  found = SEARCH(params, model, codes, tree, live, item_BT, lists, I, I)
  valid_ILV = None
  if changes.get("softmax") == "tree":
    packed_ILX = continuations(catalog.tree)
    valid_ILV = unpack_bits(packed_ILX, catalog.num_codes)
  scores_BI = np.asarray(
    SCORE_ALL(params, model, codes, catalog.log_share_I, item_BT, valid_ILV)
  )
  for row in range(USERS):
    items_K = np.asarray(found.item_BK[row])
    scores_K = np.asarray(found.score_BK[row])
    seen = set(item_BT[row].tolist()) - {-1} if exclude else set()
    count = I - len(seen)
    assert set(items_K[:count].tolist()) == set(range(I)) - seen
    assert (items_K[count:] == -1).all()
    np.testing.assert_allclose(
      scores_K[:count], scores_BI[row, items_K[:count]], rtol=1e-4, atol=1e-4
    )
    assert (np.diff(scores_K[:count]) <= 0).all()
  assert np.std(scores_BI) > 0.1
  return scores_BI


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("thought", tiny.every_thought)
def test_a_wide_beam_is_exhaustive_for_every_thought(thought, exclude):
  catalog = tiny.make_catalog(30, levels=3, codes=4, distinct=False)
  assert catalog.tree.largest_leaf > 1
  assert_exhaustive(
    catalog,
    exclude,
    thought=thought,
    start="last",
    cross_bias=True,
    repeat_bias=True,
    thought_carry=True,
  )


@pytest.mark.parametrize("exclude", [False, True])
def test_over_the_tree_items_share_all_probability(exclude):
  catalog = tiny.make_catalog(30, levels=3, codes=4, distinct=False)
  scores_BI = assert_exhaustive(catalog, exclude, softmax="tree")
  np.testing.assert_allclose(np.exp(scores_BI).sum(1), 1, rtol=1e-4)


@pytest.mark.parametrize(("levels", "codes"), [(1, 7), (2, 7), (4, 3)])
def test_any_number_of_levels(levels, codes):
  catalog = tiny.make_catalog(7, levels, codes)
  scores_BI = assert_exhaustive(catalog, False, tied_heads=True)
  if levels == 1:
    # All codes are items: probabilities sum to one.
    np.testing.assert_allclose(np.exp(scores_BI).sum(1), 1, rtol=1e-4)


def test_with_a_level_that_numbers_collisions():
  leaf = tiny.make_catalog(30, levels=2, codes=5, distinct=False)
  codes_IL = collisions.resolve(leaf.codes_IL, "extra_level", 5)
  assert codes_IL.shape == (30, 3)
  catalog = build_catalog(leaf.sids_IRL, codes_IL, np.ones(30), 5)
  assert catalog.tree.largest_leaf == 1
  assert_exhaustive(catalog, True, thought="holorec", history="pooled")


@pytest.mark.parametrize("thought", tiny.every_thought)
def test_unrolled_levels_find_what_a_loop_finds(thought):
  catalog = tiny.make_catalog(60, levels=4, codes=4, distinct=False)
  model, params = tiny.make_model(catalog, thought=thought, repeat_bias=True)
  item_BT = draw_histories(60)
  tree = device_tree(catalog)
  live = live_nodes(tree, jnp.ones(60, bool))
  args = (params, model, tiny.make_codes(catalog), tree, live, item_BT)
  looped, unrolled = (
    SEARCH(*args, deny(item_BT), 6, 9, unroll) for unroll in (False, True)
  )
  np.testing.assert_array_equal(looped.item_BK, unrolled.item_BK)
  np.testing.assert_array_equal(looped.parent_LBM, unrolled.parent_LBM)
  np.testing.assert_allclose(looped.score_BK, unrolled.score_BK, rtol=1e-5)


def test_eight_devices_recommend_what_one_does():
  catalog = tiny.make_catalog(40, levels=3, codes=4, distinct=False)
  model, params = tiny.make_model(
    catalog, thought="holorec", repeat_bias=True, thought_carry=True
  )
  item_BT = draw_histories(catalog.num_items)
  run = make_search(model, 5, 10)
  tree = device_tree(catalog)
  live = live_nodes(tree, jnp.ones(40, bool))

  def recommend(mesh):
    whole = sharding.replicated(mesh)
    return run(
      *jax.device_put((params, tiny.make_codes(catalog), tree, live), whole),
      *sharding.put_rows((item_BT, deny(item_BT)), mesh),
    )

  one = recommend(sharding.make_mesh(jax.devices()[:1]))
  eight = recommend(sharding.make_mesh())
  assert len(eight.item_BK.sharding.device_set) == 8
  np.testing.assert_array_equal(one.item_BK, eight.item_BK)
  np.testing.assert_allclose(one.score_BK, eight.score_BK, rtol=1e-5)


def test_scores_are_float32_under_bfloat16():
  catalog = tiny.make_catalog(30, levels=3, codes=4)
  model, params = tiny.make_model(catalog, thought="holorec")
  item_BT = draw_histories(30)
  tree = device_tree(catalog)
  live = live_nodes(tree, jnp.ones(30, bool))
  codes = tiny.make_codes(catalog)

  def run(params):
    found = SEARCH(params, model, codes, tree, live, item_BT, None, 30, 30)
    order_BK = jnp.argsort(found.item_BK, axis=1)
    return found, jnp.take_along_axis(found.score_BK, order_BK, axis=1)

  half, score_BI = run(jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
  assert half.score_BK.dtype == half.level_score_BKL.dtype == jnp.float32
  # Not rounded to the eight bits that the network computes with.
  assert (half.score_BK != half.score_BK.astype(jnp.bfloat16)).mean() > 0.9
  np.testing.assert_allclose(score_BI, run(params)[1], atol=0.3)
