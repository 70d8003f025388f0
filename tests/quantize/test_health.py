import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize import health


def test_report_by_hand():
  coarse = [[0, 0], [0, 0], [1, 1], [1, 1]]
  fine = [[0, 0], [0, 1], [1, 0], [1, 0]]
  sids_IRL = np.stack([coarse, fine], 1).astype(np.int32)
  vectors_IW = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
  report = health.report(sids_IRL, vectors_IW, (2, 4), 4, reconstruction=0.5)
  row = report["granularities"][1]
  assert row["dims"] == 4
  assert row["collision_rate"] == 0.25
  assert row["largest_group"] == 2
  assert row["levels"][0] == {
    "used": 2,
    "dead": 2,
    "perplexity": 2.0,
    "entropy": 1.0,
    "conditional_entropy": 1.0,
  }
  # Half of the items have a second bit to tell.
  np.testing.assert_allclose(row["levels"][1]["conditional_entropy"], 0.5)
  assert report["granularities"][0]["levels"][1]["conditional_entropy"] == 0.0
  assert report["reconstruction"] == 0.5
  # All three others are neighbours, one of them shares the code.
  np.testing.assert_allclose(report["neighbour_agreement"], 1 / 3)


def test_neighbour_agreement_matches_brute_force(monkeypatch):
  monkeypatch.setattr(health, "CHUNK", 17)
  rng = np.random.default_rng(0)
  vectors_IW = rng.normal(size=(120, 6)).astype(np.float32)
  vectors_IW[5] = 0.0
  code_I = vectors_IW[:, :2].argmax(1)
  unit = vectors_IW / np.maximum(
    np.linalg.norm(vectors_IW, axis=1, keepdims=True), 1e-12
  )
  score_II = unit @ unit.T
  np.fill_diagonal(score_II, -np.inf)
  near = np.argsort(-score_II, 1)[:, :10]
  keep = np.arange(120) != 5  # The zero vector's neighbours are all ties.
  expected = (code_I[near] == code_I[:, None]).mean(1)
  agreement = health.neighbour_agreement(code_I, vectors_IW)
  assert abs(agreement - expected[keep].mean()) < 1 / 100


def test_one_item_agrees_with_itself():
  assert health.neighbour_agreement(np.zeros(1, int), np.ones((1, 3))) == 1.0


def _report(used, codes):
  level = {"used": used, "dead": codes - used}
  return {"granularities": [{"dims": 8, "levels": [level]}]}


def test_check_fails_loudly_below_half():
  health.check(_report(128, 256), num_items=10_000)
  with pytest.raises(UserError, match="only 127 of 256 codes at level 0"):
    health.check(_report(127, 256), num_items=10_000)


def test_check_judges_small_catalogues_by_their_items():
  health.check(_report(50, 256), num_items=400)
  with pytest.raises(UserError, match="lower the codes per level to 50"):
    health.check(_report(49, 256), num_items=400)
