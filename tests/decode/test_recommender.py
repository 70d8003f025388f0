"""The recommender: any number of users, by fixed batches."""

import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.decode.exhaustive import score_all
from holorec_jax.decode.recommender import (
  Histories,
  Recommender,
  SearchConfig,
)

CATALOG = tiny.make_catalog(12, levels=2, codes=4, distinct=False)
WIDTH, USERS = 4, 11


@pytest.fixture(scope="module")
def system():
  """A recommender for batches of eight, and eleven users' histories."""
  model, params = tiny.make_model(CATALOG, thought="holorec")
  recommender = Recommender(
    model,
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
    items_UK, scores_UK = recommender.recommend(histories, exclude)
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
  before, _ = recommender.recommend(histories, False)
  recommender.set_params(params | {"fine_head": -params["fine_head"]})
  after, _ = recommender.recommend(histories, False)
  recommender.set_params(params)
  again, _ = recommender.recommend(histories, False)
  assert not np.array_equal(before, after)
  np.testing.assert_array_equal(before, again)


def test_thoughts_and_level_accuracy_follow_the_items_codes(system):
  _, _, recommender, histories = system
  items_UK = np.arange(USERS * 2).reshape(USERS, 2).astype(np.int32) % 12
  shares = recommender.thoughts(histories, items_UK)
  assert shares.shape == (USERS, 2, 2, 4)
  np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
  # The first thought does not know the item yet, the second does.
  np.testing.assert_allclose(shares[:, 0, 0], shares[:, 1, 0], rtol=1e-5)
  assert np.abs(shares[:, 0, 1] - shares[:, 1, 1]).max() > 1e-3

  best_UK, scores_UK = recommender.recommend(histories, False)
  accuracy = recommender.level_accuracy(histories, best_UK[:, 0])
  assert len(accuracy) == 2 and all(0 <= share <= 1 for share in accuracy)
  # Chance is a quarter; the best items' codes are mostly the likeliest.
  assert min(accuracy) > 0.5
  assert scores_UK.dtype == np.float32


def test_a_system_that_does_not_think_in_codes_has_no_thoughts():
  model, params = tiny.make_model(CATALOG, thought="pause")
  recommender = Recommender(
    model,
    params,
    CATALOG,
    sharding.make_mesh(),
    max_history=WIDTH,
    config=SearchConfig(beam=2, k=2, batch=8),
  )
  histories = Histories(np.array([1, 2]), np.array([0]), np.array([2]))
  assert recommender.thoughts(histories, np.array([[3]], np.int32)) is None
