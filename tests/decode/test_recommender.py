"""The recommender: any number of users, by fixed batches."""

import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.catalog import add_items, remove_items
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.exhaustive import score_all
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.decode.requests import Filters, Histories, make_histories
from holorec_jax.errors import UserError

CATALOG = tiny.make_catalog(12, levels=2, codes=4, distinct=False)
WIDTH, USERS = 4, 11


@pytest.fixture(scope="module")
def system():
  """A recommender for batches of eight, and eleven users' histories."""
  model, params = tiny.make_model(CATALOG, thought="holorec")
  recommender = Recommender(
    TreeEngine(model),
    params,
    CATALOG,
    sharding.make_mesh(),
    max_history=WIDTH,
    config=SearchConfig(beam=12, k=12, batch=3),
  )
  rng = np.random.default_rng(0)
  lengths_U = np.arange(USERS) % 6 + 1
  lengths_U[9] = 20  # The second batch needs more room for what was seen.
  ends_U = np.cumsum(lengths_U)
  items_E = rng.integers(0, 12, ends_U[-1]).astype(np.int32)
  histories = Histories(items_E, ends_U - lengths_U, ends_U)
  return model, params, recommender, histories


def test_histories_are_cut_to_the_latest_items():
  histories = Histories(
    np.array([7, 8, 9, 5, 6]), np.array([0, 3, 3]), np.array([3, 5, 3])
  )
  padded = histories.padded(slice(0, 3), 2)
  assert padded.tolist() == [[8, 9], [5, 6], [-1, -1]]
  assert padded.dtype == np.int32
  assert histories.padded(slice(1, 2), 3).tolist() == [[5, 6, -1]]


def test_the_width_fits_the_longest_of_a_batch():
  lengths_U = np.array([3, 1, 16, 17, 0, 65])
  ends_U = np.cumsum(lengths_U)
  histories = Histories(np.zeros(102, int), ends_U - lengths_U, ends_U)
  batches = [(0, 2), (1, 3), (2, 4), (4, 5), (3, 6), (2, 2)]
  widths = [histories.width(slice(*batch)) for batch in batches]
  assert widths == [16, 16, 32, 16, 128, 16]


def test_every_user_gets_what_scoring_all_items_says(system):
  model, params, recommender, histories = system
  codes = tiny.make_codes(CATALOG)
  scores_UI = tiny.jit(score_all, static_argnums=1)(
    params,
    model,
    codes,
    CATALOG.log_share_I,
    histories.padded(slice(0, USERS), WIDTH),
  )
  for exclude in (False, True):
    answer = recommender.recommend(histories, Filters(exclude))
    items_UK, scores_UK = answer.items_UK, answer.scores_UK
    assert items_UK.shape == scores_UK.shape == (USERS, 12)
    for user in range(USERS):
      # The whole history counts as seen, not just what the model sees.
      seen = histories.items_E[
        histories.starts_U[user] : histories.ends_U[user]
      ]
      wanted = set(range(12)) - (set(seen.tolist()) if exclude else set())
      found = items_UK[user][items_UK[user] >= 0]
      assert set(found.tolist()) == wanted and len(found) == len(wanted)
      np.testing.assert_allclose(
        scores_UK[user, : len(found)],
        np.asarray(scores_UI)[user, found],
        rtol=1e-4,
      )


def test_new_parameters_answer_at_once(system):
  _, params, recommender, histories = system
  before = recommender.recommend(histories).items_UK
  recommender.set_params(params | {"fine_head": -params["fine_head"]})
  after = recommender.recommend(histories).items_UK
  recommender.set_params(params)
  again = recommender.recommend(histories).items_UK
  assert not np.array_equal(before, after)
  np.testing.assert_array_equal(before, again)


def test_thoughts_and_level_accuracy_follow_the_items_codes(system):
  model, params, recommender, histories = system
  probe = Probe(model, params, CATALOG, sharding.make_mesh(), WIDTH)
  items_UK = np.arange(USERS * 2).reshape(USERS, 2).astype(np.int32) % 12
  shares = probe.thoughts(histories, items_UK)
  assert shares.shape == (USERS, 2, 2, 4)
  np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
  # The first thought does not know the item yet, the second does.
  np.testing.assert_allclose(shares[:, 0, 0], shares[:, 1, 0], rtol=1e-5)
  assert np.abs(shares[:, 0, 1] - shares[:, 1, 1]).max() > 1e-3

  answer = recommender.recommend(histories)
  accuracy = probe.accuracy(histories, answer.items_UK[:, 0])
  codes, prefixes = accuracy["codes"], accuracy["prefixes"]
  assert len(codes) == 2 and all(0 <= share <= 1 for share in codes)
  # Chance is a quarter; the best items' codes are mostly the likeliest.
  assert min(codes) > 0.5
  assert prefixes[0] == codes[0]
  assert sum(codes) - 1 <= prefixes[1] <= min(codes)
  assert answer.scores_UK.dtype == np.float32


def test_a_system_that_does_not_think_in_codes_has_no_thoughts():
  model, params = tiny.make_model(CATALOG, thought="pause")
  probe = Probe(model, params, CATALOG, sharding.make_mesh(), WIDTH)
  histories = Histories(np.array([1, 2]), np.array([0]), np.array([2]))
  assert probe.thoughts(histories, np.array([[3]], np.int32)) is None


def make_recommender(catalog=CATALOG, model=None, params=None, **search):
  if model is None:
    model, params = tiny.make_model(catalog)
  config = SearchConfig(**{"beam": 4, "k": 4, "batch": 8} | search)
  return Recommender(
    TreeEngine(model, config.room),
    params,
    catalog,
    sharding.make_mesh(),
    max_history=WIDTH,
    config=config,
  )


def test_every_filter_holds_at_once():
  recommender = make_recommender()
  histories = make_histories([[1, 2, 1], [3], [0, 5, 6, 7, 8], [9]])
  available_I = np.arange(12) != 4
  recommender.set_available(available_I)
  filters = Filters(
    exclude_seen=True,
    deny=[[11], [], [1, 2], [0]],
    allow=[None, [3, 4, 10], None, []],
  )
  found = recommender.recommend(histories, filters)
  seen = [{1, 2}, {3}, {0, 5, 6, 7, 8}, {9}]
  for user, items in enumerate(found.items_UK):
    returned = set(items[found.valid_UK[user]].tolist())
    assert not returned & (seen[user] | set(filters.deny[user]) | {4})
  # Four where that many are left, and fewer, flagged, where not.
  assert found.valid_UK.sum(axis=1).tolist() == [4, 1, 4, 0]
  assert found.items_UK[1].tolist() == [10, -1, -1, -1]
  assert not found.from_prior_U.any()
  recommender.set_available(np.zeros(12, bool))
  assert not recommender.recommend(histories).valid_UK.any()


def test_filters_never_change_a_score():
  recommender = make_recommender(beam=12, k=12)
  histories = make_histories([[1, 2], [5]])
  free = recommender.recommend(histories)
  bound = recommender.recommend(histories, Filters(deny=[[0, 3], [7]]))
  for user in range(2):
    score = dict(zip(free.items_UK[user], free.scores_UK[user]))
    for item, value in zip(bound.items_UK[user], bound.scores_UK[user]):
      if item >= 0:
        np.testing.assert_allclose(value, score[item], rtol=1e-5)


def test_without_a_history_the_most_popular_items_come_flagged():
  recommender = make_recommender()
  histories = make_histories([[], [2], []])
  allow = [None, None, [0, 1]]
  found = recommender.recommend(histories, Filters(allow=allow), k=3)
  assert found.from_prior_U.tolist() == [True, False, True]
  popular = np.argsort(-CATALOG.counts_I, kind="stable")
  assert found.items_UK[0].tolist() == popular[:3].tolist()
  assert set(found.items_UK[2].tolist()) == {0, 1, -1}
  weight = CATALOG.counts_I + CATALOG.smoothing
  np.testing.assert_allclose(
    np.exp(found.scores_UK[0]),
    weight[popular[:3]] / weight.sum(),
    rtol=1e-5,
  )
  nobody = recommender.recommend(make_histories([[], []]), Filters(True))
  assert nobody.from_prior_U.all() and nobody.valid_UK.all()


def test_k_may_exceed_beam_and_catalogue():
  recommender = make_recommender()
  histories = make_histories([[1], [2, 3]])
  found = recommender.recommend(histories, k=20)
  assert found.valid_UK.sum(axis=1).tolist() == [12, 12]
  with pytest.raises(UserError, match=r"k is 0; expected 1\.\.1024"):
    recommender.recommend(histories, k=0)
  with pytest.raises(UserError, match="k is 1025"):
    recommender.recommend(histories, k=1025)


@pytest.mark.parametrize(
  ("histories", "filters", "match"),
  [
    ([[1], [2, 12]], Filters(), "history 1 holds item 12; .* 0..11"),
    ([[-3]], Filters(), "history 0 holds item -3"),
    ([[99, 1, 2, 3, 4]], Filters(True), "history 0 holds item 99"),
    ([[1]], Filters(deny=[[99]]), r"filters.deny\[0\] names item 99"),
    ([[2], [3, -1, 5]], Filters(), "history 1 holds item -1"),
    ([[1]], Filters(allow=[[1], [2]]), "2 lists for 1 histories"),
    ([[1]], Filters(deny=[[1.5]]), r"deny\[0\] holds float64; expected item"),
  ],
)
def test_bad_requests_are_named(histories, filters, match):
  with pytest.raises(UserError, match=match):
    make_recommender().recommend(make_histories(histories), filters)


def test_histories_are_whole_numbers():
  with pytest.raises(UserError, match="holds float64; expected item numbers"):
    make_histories([[1], [2.7]])  # type: ignore[list-item]


def test_some_users_may_be_denied_nothing():
  histories = make_histories([[1], [1], []])
  recommender = make_recommender()
  free = recommender.recommend(histories)
  deny = [None, free.items_UK[1, :1].tolist(), None]
  found = recommender.recommend(histories, Filters(deny=deny))
  np.testing.assert_array_equal(found.items_UK[::2], free.items_UK[::2])
  assert found.items_UK[1, 0] == free.items_UK[1, 1]
  # Of those without a history, too, and as arrays.
  popular = free.items_UK[2]
  nobody = Filters(deny=[None, None, popular[:2]])
  found = recommender.recommend(histories, nobody)
  assert found.items_UK[2, 0] == popular[2]


def test_one_program_answers_for_every_k():
  recommender = make_recommender()
  histories = make_histories([[1], [2, 3]])
  most = recommender.recommend(histories, k=recommender.config.beam)
  search = recommender.engine.make_search(*[recommender.config.beam] * 2)
  compiled = search._cache_size()
  for k in (1, 3):
    found = recommender.recommend(histories, k=k)
    np.testing.assert_array_equal(found.items_UK, most.items_UK[:, :k])
    np.testing.assert_array_equal(found.scores_UK, most.scores_UK[:, :k])
  assert search._cache_size() == compiled


def test_availability_of_another_catalogue_is_refused():
  with pytest.raises(UserError, match=r"shape .*each of the catalogue's 12"):
    make_recommender().set_available(np.ones(11, bool))


def test_a_catalogue_of_other_codes_is_refused():
  other = tiny.make_catalog(12, levels=3, codes=4)
  with pytest.raises(UserError, match=r"3 levels of 4 .* 2 levels of 4"):
    make_recommender().set_catalog(other)


def test_new_items_are_recommendable_at_once_and_gone_ones_never():
  model, params = tiny.make_model(CATALOG)
  recommender = make_recommender(
    CATALOG, model, params, room=1.0, beam=12, k=12
  )
  histories = make_histories([[1, 2], [5]])
  recommender.recommend(histories)
  search = recommender.engine.make_search(12, 12)
  compiled = search._cache_size()
  codes_NL = np.array([[3, 3], [0, 1]])
  changed = remove_items(
    add_items(CATALOG, np.stack([codes_NL] * 2, 1), codes_NL), [1, 2]
  )
  assert recommender.set_catalog(changed)
  found = recommender.recommend(histories)
  assert search._cache_size() == compiled
  for items_K in found.items_UK:
    assert set(items_K.tolist()) == set(range(14)) - {1, 2}
  # A fresh recommender, with arrays that just fit, says the same.
  fresh = make_recommender(changed, model, params, beam=12, k=12)
  again = fresh.recommend(histories)
  np.testing.assert_array_equal(found.items_UK, again.items_UK)
  np.testing.assert_allclose(found.scores_UK, again.scores_UK, rtol=1e-5)
  # One that does not fit makes room, and says so.
  codes_NL = np.tile(codes_NL, (20, 1))
  larger = add_items(changed, np.stack([codes_NL] * 2, 1), codes_NL)
  assert not recommender.set_catalog(larger)
  # A leaf may now hold more items than a beam was asked for.
  found = recommender.recommend(histories)
  assert found.valid_UK.all() and (found.items_UK != 1).all()


def test_the_catalogue_comes_back_whole_after_a_swap():
  recommender = make_recommender()
  recommender.set_available(np.arange(12) < 3)
  recommender.set_catalog(CATALOG)
  found = recommender.recommend(make_histories([[1]]), k=12)
  assert found.valid_UK.sum() == 12
