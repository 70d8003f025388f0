"""Search with neighbours is what the formula says of every item."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.catalog import add_items, remove_items
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.exhaustive import score_all
from holorec_jax.decode.ranking import RankingEngine
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.errors import UserError
from holorec_jax.models.sasrec import SasRec, SasRecConfig
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.train.objective import init_params

ITEMS, STRENGTH, FLOOR = 30, 1.5, 0.05
HISTORIES = [[3], [5, 3, 9, 8], [1, 2, 3, 4, 5, 6], [29, 0, 29]]
SASREC = SasRecConfig(d_model=8, num_heads=2, layers=1, d_ff=12, dropout=0.0)


NEIGHBOURS = tiny.make_neighbours(ITEMS, STRENGTH, FLOOR)
CATALOG = dataclasses.replace(
  tiny.make_catalog(ITEMS, levels=3, codes=4, distinct=False),
  neighbours=NEIGHBOURS,
)


def evidence_of(history: list[int], allowed: set[int]) -> np.ndarray:
  """The formula of decode/evidence.py, item by item."""
  share_I = np.zeros(ITEMS)
  for age, item in enumerate(history[::-1][: len(NEIGHBOURS.recency_A)]):
    for other, weight in zip(
      NEIGHBOURS.item_IK[item], NEIGHBOURS.weight_IK[item]
    ):
      if int(other) in allowed:
        share_I[other] += NEIGHBOURS.recency_A[age] * weight
  if share_I.sum():
    share_I /= share_I.sum()
  return STRENGTH * np.log((FLOOR + share_I) / (FLOOR + share_I.sum()))


def make_recommender(catalog, engine, params, beam: int = 32) -> Recommender:
  config = SearchConfig(beam=beam, k=beam, batch=8)
  return Recommender(engine, params, catalog, sharding.make_mesh(), 6, config)


def scores_of(found) -> np.ndarray:
  """Of every item found, (users, items)."""
  score_UI = np.full((len(HISTORIES), ITEMS), -np.inf)
  for user, (items_K, scores_K) in enumerate(
    zip(found.items_UK, found.scores_UK)
  ):
    score_UI[user, items_K[items_K >= 0]] = scores_K[items_K >= 0]
  return score_UI


def expect(found, score_UI, unseen: bool, removed: set[int]):
  """Lists in order, and the scores, of all that may be returned."""
  for user, history in enumerate(HISTORIES):
    allowed = set(range(ITEMS)) - removed - (set(history) if unseen else set())
    want_I = score_UI[user] + evidence_of(history, allowed)
    items = found.items_UK[user][: len(allowed)]
    assert set(items.tolist()) == allowed
    scores = found.scores_UK[user][: len(allowed)]
    np.testing.assert_allclose(scores, want_I[items], rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    assert (found.items_UK[user][len(allowed) :] == -1).all()


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("removed", [set(), {2, 7}])
def test_a_wide_beam_finds_the_formula(unseen, removed):
  assert CATALOG.tree.largest_leaf > 1
  catalog = remove_items(CATALOG, np.array(sorted(removed), int))
  model, params = tiny.make_model(catalog, thought="holorec", repeat_bias=True)
  histories = make_histories(HISTORIES)
  found = make_recommender(catalog, TreeEngine(model), params).recommend(
    histories, Filters(exclude_seen=unseen)
  )
  score_UI = tiny.jit(score_all, static_argnums=1)(
    params,
    model,
    tiny.make_codes(catalog),
    jnp.asarray(np.where(catalog.active_I, catalog.log_share_I, -9.0)),
    histories.padded(slice(0, len(HISTORIES)), 6),
  )
  expect(found, np.asarray(score_UI), unseen, removed)


@pytest.mark.parametrize("unseen", [False, True])
def test_ranking_all_items_finds_it_too(unseen):
  model = SasRec(SASREC, ITEMS)
  one = jnp.ones((1, 1), jnp.int32)
  params = model.init(jax.random.key(0), one, one, method=SasRec.states)
  histories = make_histories(HISTORIES)
  filters = Filters(exclude_seen=unseen)
  without = dataclasses.replace(CATALOG, neighbours=None)
  lists = [
    make_recommender(catalog, RankingEngine(model), params["params"]).recommend(
      histories, filters
    )
    for catalog in (without, CATALOG)
  ]
  expect(lists[1], scores_of(lists[0]), unseen, set())


def test_of_items_asked_for_the_evidence_is_shared_anew():
  model, params = tiny.make_model(CATALOG)
  wanted = [list(range(0, 30, 2)), None, list(range(9)), list(range(20, 30))]
  histories = make_histories(HISTORIES)
  plain, heeding = (
    make_recommender(catalog, TreeEngine(model), params).recommend(
      histories, Filters(allow=wanted)
    )
    for catalog in (dataclasses.replace(CATALOG, neighbours=None), CATALOG)
  )
  for user, history in enumerate(HISTORIES):
    allowed = set(wanted[user] or range(ITEMS))
    log_p_I, count = np.zeros(ITEMS), len(allowed)
    log_p_I[plain.items_UK[user][:count]] = plain.scores_UK[user][:count]
    items = heeding.items_UK[user][:count]
    assert set(items.tolist()) == allowed
    np.testing.assert_allclose(
      heeding.scores_UK[user][:count],
      (log_p_I + evidence_of(history, allowed))[items],
      rtol=1e-4,
      atol=1e-4,
    )


def test_a_narrow_beam_follows_the_evidence():
  """An item that its neighbour alone speaks for is found by a beam of one."""
  model, params = tiny.make_model(CATALOG)
  for target in range(5):
    table = dataclasses.replace(
      NEIGHBOURS,
      item_IK=np.full((ITEMS, 1), target, np.int32),
      weight_IK=np.ones((ITEMS, 1), np.float32),
      strength=np.float32(50),
    )
    catalog = dataclasses.replace(CATALOG, neighbours=table)
    recommender = make_recommender(catalog, TreeEngine(model), params, beam=1)
    found = recommender.recommend(make_histories(HISTORIES))
    assert (found.items_UK == target).all()


def test_a_catalogue_that_grows_keeps_them():
  grown = add_items(
    CATALOG, CATALOG.sids_IRL[:2], CATALOG.codes_IL[:2], np.ones(2)
  )
  model, params = tiny.make_model(CATALOG)
  recommender = make_recommender(CATALOG, TreeEngine(model, 0.5), params)
  assert recommender.set_catalog(grown)
  found = recommender.recommend(make_histories([*HISTORIES, [30, 31]]))
  assert set(found.items_UK[-1].tolist()) == set(range(32))
  assert (grown.neighbours.item_IK[ITEMS:] == -1).all()


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("order", ["confident", "fixed"])
def test_search_of_code_sets_finds_it_too(order, unseen):
  """Sets share items of the evidence: not every item has one path."""
  model = SetGenerator(
    tiny.make_config(start="last", softmax="tree"), 3, CATALOG.num_codes
  )
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
    jax.eval_shape(functools.partial(init_params, model, 0)),
  )
  histories = make_histories(HISTORIES)
  lists = [
    make_recommender(catalog, SetEngine(model, order=order), params).recommend(
      histories, Filters(exclude_seen=unseen)
    )
    for catalog in (dataclasses.replace(CATALOG, neighbours=None), CATALOG)
  ]
  expect(lists[1], scores_of(lists[0]), unseen, set())
  narrow = make_recommender(CATALOG, SetEngine(model, order=order), params, 4)
  found = narrow.recommend(histories, Filters(exclude_seen=unseen))
  for items_K in found.items_UK:
    assert len(set(items_K.tolist())) == 4


def test_sets_in_any_order_have_no_use_for_them():
  model = SetGenerator(
    tiny.make_config(), num_codebooks=3, num_codes=CATALOG.num_codes
  )
  with pytest.raises(UserError, match="neighbours"):
    SetEngine(model, order="any").check(CATALOG)
