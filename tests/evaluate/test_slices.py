"""Slices: bins partition the rows and average back to the whole."""

import numpy as np
import pytest

from holorec_jax.evaluate import metrics, slices


def test_bins_by_hand():
  ranks = {"ours": np.array([0, metrics.MISSED, 1, 30])}
  bins = slices.by_value(np.array([1, 4, 5, 99]), ranks, (1, 5, 10), fewest=1)
  assert [(b["low"], b["high"], b["users"]) for b in bins] == [
    (1, 4, 2),
    (5, 9, 1),
    (10, None, 1),
  ]
  assert [b["systems"]["ours"]["recall@10"] for b in bins] == [0.5, 1, 0]
  low, high = bins[0]["intervals"]["ours"]["recall@10"]
  assert (low, high) == (0, 1)


def test_weighted_bins_are_the_whole():
  rng = np.random.default_rng(0)
  ranks = rng.integers(0, 40, 500)
  bins = slices.by_value(
    rng.integers(0, 300, 500), {"a": ranks}, slices.FREQUENCY_EDGES
  )
  total = sum(b["users"] * b["systems"]["a"]["ndcg@10"] for b in bins)
  assert sum(b["users"] for b in bins) == 500
  assert total / 500 == pytest.approx(
    metrics.summarise(ranks, (10,))["ndcg@10"]
  )


def test_a_thin_tail_joins_the_bin_before():
  value_U = np.array([1] * 40 + [5] * 8 + [20] * 2)
  edges = (1, 5, 10, 30)
  bins = slices.by_value(value_U, {"a": value_U}, edges, fewest=10)
  assert [(b["low"], b["high"], b["users"]) for b in bins] == [
    (1, 4, 40),
    (5, None, 10),
  ]


def test_values_below_the_first_edge_are_refused():
  with pytest.raises(ValueError, match="below the first edge"):
    slices.by_value(np.array([0]), {"a": np.array([0])}, (1, 2))


def test_labels():
  assert slices.label(5, 5) == "5"
  assert slices.label(6, 7) == "6–7"
  assert slices.label(201, None) == "201+"
