"""Bootstrap: against plain resampling, and on a known distribution."""

import numpy as np

from holorec_jax.evaluate import intervals, metrics


def random_ranks(rng, users: int, hit: float) -> np.ndarray:
  ranks = rng.integers(0, 20, users)
  return np.where(rng.random(users) < hit, ranks, metrics.MISSED)


def test_intervals_hold_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(0)
  hits = 0
  for trial in range(300):
    ranks = random_ranks(rng, 400, 0.3)
    low, high = intervals.bootstrap(ranks, (20,), 400, seed=trial)["recall@20"]
    hits += low <= 0.3 <= high
  # 95 % of 300 is 285 with a standard deviation of 3.8.
  assert 270 <= hits <= 298


def test_agrees_with_resampling_the_users():
  rng = np.random.default_rng(1)
  ranks = random_ranks(rng, 500, 0.4)
  draws = rng.integers(0, 500, (4000, 500))
  gains = metrics.gains(ranks, (10,))[:, 1]
  expected = np.percentile(gains[draws].mean(axis=1), [2.5, 97.5])
  found = intervals.bootstrap(ranks, (10,), 4000)["ndcg@10"]
  np.testing.assert_allclose(found, expected, atol=0.003)


def test_seed_decides():
  ranks = random_ranks(np.random.default_rng(2), 200, 0.4)
  assert intervals.bootstrap(ranks) == intervals.bootstrap(ranks)
  assert intervals.bootstrap(ranks) != intervals.bootstrap(ranks, seed=1)


def test_pairing_sees_what_two_intervals_cannot():
  rng = np.random.default_rng(3)
  other = random_ranks(rng, 2000, 0.3)
  better = other.copy()
  better[np.flatnonzero(other == metrics.MISSED)[:20]] = 0
  mean, low, high = intervals.paired_difference(better, other)["recall@10"]
  assert abs(mean - 0.01) < 1e-12
  assert 0 < low < mean < high
  alone = intervals.bootstrap(better)["recall@10"]
  assert alone[1] - alone[0] > 2 * (high - low)


def test_a_system_against_itself_differs_by_nothing():
  ranks = random_ranks(np.random.default_rng(4), 50, 0.5)
  for triple in intervals.paired_difference(ranks, ranks).values():
    assert triple == (0, 0, 0)
