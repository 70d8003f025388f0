"""Metrics against numbers worked by hand."""

import math

import numpy as np
import pytest

from holorec_jax.evaluate import metrics

TOPK_UK = np.array(
  [[4, 2, 7], [4, 2, 7], [1, -1, -1], [0, 3, 5], [6, 3, 6]], np.int32
)
TARGETS_U = np.array([4, 7, 5, 9, 6])
MISSED = metrics.MISSED


def test_ranks_are_the_first_place_of_the_target():
  ranks = metrics.target_ranks(TOPK_UK, TARGETS_U)
  np.testing.assert_array_equal(ranks, [0, 2, MISSED, MISSED, 0])


def test_summary_by_hand():
  summary = metrics.summarise(np.array([0, 1, 2, MISSED]), (1, 2, 5))
  third = 1 / math.log2(3)
  assert summary == pytest.approx(
    {
      "recall@1": 0.25,
      "recall@2": 0.5,
      "recall@5": 0.75,
      "ndcg@1": 0.25,
      "ndcg@2": (1 + third) / 4,
      "ndcg@5": (1 + third + 0.5) / 4,
    }
  )


def test_a_miss_is_no_hit_at_cutoffs_beyond_the_list():
  ranks = metrics.target_ranks(TOPK_UK, TARGETS_U)
  assert metrics.summarise(ranks, (100,))["recall@100"] == 0.6


def test_an_empty_slot_is_not_a_target():
  with pytest.raises(ValueError, match="below 0"):
    metrics.target_ranks(TOPK_UK, np.array([4, 7, -1, 9, 6]))


def test_lists_and_targets_must_agree():
  with pytest.raises(ValueError, match="5 lists for 2 targets"):
    metrics.target_ranks(TOPK_UK, TARGETS_U[:2])


def test_code_hits_take_any_item_of_the_code():
  codes_IL = np.array([[0, 1], [0, 1], [1, 0], [1, 1]])
  topk_UK = np.array([[2, 0], [2, 0], [3, -1]])
  ranks = metrics.code_ranks(topk_UK, np.array([1, 3, 2]), codes_IL)
  np.testing.assert_array_equal(ranks, [1, MISSED, MISSED])


def test_coverage_and_validity():
  assert metrics.coverage(TOPK_UK, 10, k=2) == 0.6  # 4 2 1 0 3 6
  assert metrics.valid_fraction(TOPK_UK, 10) == pytest.approx(13 / 15)
  assert metrics.valid_fraction(TOPK_UK, 5) == pytest.approx(8 / 15)


def test_slots_beyond_a_tiny_catalogue_do_not_count():
  assert metrics.valid_fraction(np.array([[0, 1, -1, -1]]), 2) == 1.0
