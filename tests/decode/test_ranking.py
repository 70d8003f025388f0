"""Ranking of all items against sorting them by hand, under filters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.catalog import add_items, remove_items
from holorec_jax.decode.filters import Lists
from holorec_jax.decode.ranking import RankingEngine, rank_items
from holorec_jax.errors import UserError
from holorec_jax.models.sasrec import SasRec, SasRecConfig

ITEMS, D = 70, 8
CATALOG = tiny.make_catalog(ITEMS, 3, 5)
MODEL = SasRec(
  SasRecConfig(d_model=D, num_heads=2, layers=1, d_ff=12, dropout=0.0), ITEMS
)


def draw_lists(rng, users: int, items: int) -> Lists:
  allow_BA = rng.integers(-1, items, (users, items // 2))
  return Lists(
    deny_BT=jnp.asarray(rng.integers(-1, items, (users, items // 3)), "int32"),
    allow_BA=jnp.asarray(allow_BA, "int32"),
    restricted_B=jnp.asarray(rng.random(users) < 0.5),
  )


def sort_all(log_prob_BI, live_I, lists: Lists | None, k: int):
  """The k best allowed items of each row, and their scores."""
  items_BK, scores_BK = [], []
  for row, log_prob_I in enumerate(np.asarray(log_prob_BI)):
    allowed_I = live_I.copy()
    if lists is not None:
      allowed_I &= ~np.isin(np.arange(len(live_I)), lists.deny_BT[row])
      if lists.restricted_B[row]:
        allowed_I &= np.isin(np.arange(len(live_I)), lists.allow_BA[row])
    order = np.argsort(-log_prob_I, kind="stable")
    best = order[allowed_I[order]][:k]
    missing = k - len(best)
    items_BK.append([*best, *[-1] * missing])
    scores_BK.append([*log_prob_I[best], *[-np.inf] * missing])
  return np.array(items_BK), np.array(scores_BK)


run = tiny.jit(rank_items, static_argnames=("k", "chunk"))


@pytest.mark.parametrize(("chunk", "k"), [(7, 60), (32, 10), (128, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_as_sorting_all(chunk, k, seed):
  """Scores of few distinct values, so that equals abound."""
  rng = np.random.default_rng(seed)
  users, items = 5, 50
  state_BD = rng.integers(-1, 2, (users, D)).astype(np.float32)
  table_ID = rng.integers(-1, 2, (64, D)).astype(np.float32)
  live_I = rng.random(items) < rng.choice([0.2, 0.7, 1.0])
  lists = draw_lists(rng, users, items) if seed else None
  log_prob_BI = jax.nn.log_softmax(state_BD @ table_ID[:items].T)
  want_items, want_scores = sort_all(log_prob_BI, live_I, lists, k)
  got = run(state_BD, table_ID, live_I, lists, k, chunk)
  np.testing.assert_array_equal(got.item_BK, want_items)
  np.testing.assert_allclose(got.score_BK, want_scores, rtol=1e-5)
  np.testing.assert_array_equal(got.valid_BK, want_items >= 0)


def test_many_items_in_chunks():
  """Wide enough for the two-stage top-k."""
  rng = np.random.default_rng(0)
  items = 5000
  state_BD = rng.normal(size=(3, D)).astype(np.float32)
  table_ID = rng.normal(size=(5120, D)).astype(np.float32)
  live_I = rng.random(items) < 0.5
  lists = draw_lists(rng, 3, items)
  log_prob_BI = jax.nn.log_softmax(state_BD @ table_ID[:items].T)
  want_items, want_scores = sort_all(log_prob_BI, live_I, lists, 20)
  for chunk in (1024, 8192):
    got = run(state_BD, table_ID, live_I, lists, 20, chunk)
    np.testing.assert_array_equal(got.item_BK, want_items)
    np.testing.assert_allclose(got.score_BK, want_scores, rtol=1e-4)


@pytest.fixture(scope="module")
def params() -> dict:
  return tiny.jit(init)()


def init() -> dict:
  one = jnp.ones((1, 1), jnp.int32)
  key = jax.random.key(0)
  return MODEL.init(key, one, one, method=SasRec.states)["params"]


@pytest.mark.parametrize("filtered", [False, True])
def test_the_engine_ranks_by_the_state_of_the_last_item(params, filtered):
  rng = np.random.default_rng(0)
  engine = RankingEngine(MODEL)
  catalog = remove_items(CATALOG, np.array([3, 4, 50]))
  engine.check(catalog)
  codes, index = engine.place(catalog)
  available_I = rng.random(ITEMS) < 0.8
  live = engine.live(index, available_I)
  histories = [[5, 2, 9], [3], [60, 60, 1, 8, 7]]
  item_BT = np.full((3, 6), -1, np.int32)
  for row, history in enumerate(histories):
    item_BT[row, : len(history)] = history
  states_BTD = tiny.jit(MODEL.apply, static_argnames="method")(
    {"params": params},
    item_BT,
    np.ones_like(item_BT),
    method=SasRec.states,
  )
  # Causal: what stands in empty slots, behind the last item, has no part.
  state_BD = np.stack(
    [states_BTD[row, len(h) - 1] for row, h in enumerate(histories)]
  )
  log_prob_BI = jax.nn.log_softmax(
    state_BD @ params["item_embedding"][:ITEMS].T
  )
  lists = draw_lists(rng, 3, ITEMS) if filtered else None
  want_items, want_scores = sort_all(
    log_prob_BI, catalog.active_I & available_I, lists, 10
  )
  search = engine.make_search(beam=20, k=10)
  got = search(params, codes, index, live, item_BT, lists)
  np.testing.assert_array_equal(got.item_BK, want_items)
  np.testing.assert_allclose(got.score_BK, want_scores, rtol=1e-4)
  assert not np.isin(got.item_BK, [3, 4, 50]).any()


def test_more_items_asked_for_than_there_are(params):
  engine = RankingEngine(MODEL)
  codes, index = engine.place(CATALOG)
  got = engine.make_search(1, 100)(
    params, codes, index, index, np.array([[1, -1]]), None
  )
  items_K = np.asarray(got.item_BK[0])
  assert sorted(items_K[:ITEMS]) == list(range(ITEMS))
  assert (items_K[ITEMS:] == -1).all()
  np.testing.assert_allclose(
    np.exp(got.score_BK[0, :ITEMS]).sum(), 1, rtol=1e-5
  )
  assert np.isneginf(got.score_BK[0, ITEMS:]).all()


def test_other_catalogues_are_refused():
  engine = RankingEngine(MODEL)
  added = add_items(CATALOG, CATALOG.sids_IRL[:2], CATALOG.codes_IL[:2])
  with pytest.raises(UserError, match=r"72 items.*first 70.*no embedding"):
    engine.check(added)
  with pytest.raises(UserError, match=r"12 items.*made for 70"):
    engine.check(tiny.make_catalog(12, 2, 6))
