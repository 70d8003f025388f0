"""Plots: whole images, and words that say what they show."""

import base64
import xml.etree.ElementTree

import numpy as np

from holorec_jax.evaluate import plots


def svg(plot: plots.Plot) -> bytes:
  kind, text = plot.src.split(",", 1)
  assert kind == "data:image/svg+xml;base64"
  return base64.b64decode(text)


def test_images_are_whole_and_repeatable(health):
  sids_IRL = np.array([[[0, 1], [0, 1]], [[0, 1], [1, 1]], [[2, 0], [3, 0]]])
  for make in (
    lambda: plots.code_usage(health),
    lambda: plots.collision_groups(sids_IRL, (2, 4)),
    lambda: plots.level_accuracy({"fine": [0.1, 0.5]}),
    lambda: plots.learning_curves([{"step": 1, "loss": 2.0}]),
  ):
    (first,), (second,) = make(), make()
    assert first == second
    assert xml.etree.ElementTree.fromstring(svg(first)).tag.endswith("svg")


def test_learning_curves_sort_by_kind_and_skip_what_is_missing():
  rows = [{"step": s, "loss": 9.0 - s, "lr": 0.1} for s in range(4)]
  rows[1]["loss"] = None
  rows[3]["valid/ndcg@10"] = 0.25
  loss, valid = plots.learning_curves(rows)
  assert "loss: from 9 at step 0 to 6 at step 3" in loss.alt
  assert "ndcg@10: from 0.25" in valid.alt
  assert plots.learning_curves([{"step": 0, "lr": 0.1}]) == []


def test_curves_are_named_as_the_rest_of_the_report_does():
  row = {
    "train/accuracy/level_0": 0.5,
    "train/accuracy/level_9 (plain)": 0.25,
    "train/accuracy/thought_1": 0.125,
    "valid/recall@20": 0.3,
    "valid/recall@5": 0.1,
  }
  levels, thoughts, recall = plots.learning_curves([{"step": 7} | row])
  assert "level 1: from 0.5" in levels.alt
  assert "level 10 (plain): from 0.25" in levels.alt
  assert "thought 2: from 0.125" in thoughts.alt
  assert recall.alt.index("recall@5") < recall.alt.index("recall@20")


def test_long_curves_are_averaged_without_bias():
  rows = [{"step": s, "loss": 2.0 * s} for s in range(1000)]
  curve = plots._curve(rows, "loss")
  assert len(curve) == plots._POINTS
  np.testing.assert_allclose(curve[:, 1], 2 * curve[:, 0])


def test_code_usage_in_words(health):
  (plot,) = plots.code_usage(health)
  assert "Codes used of 4" in plot.alt
  assert "4 dimensions: level 1 3 (2), level 2 4 (4)" in plot.alt


def test_group_sizes_count_items():
  codes = [[0]] * 1 + [[1]] * 2 + [[2]] * 7
  sids_IRL = np.array(codes)[:, None, :]
  (plot,) = plots.collision_groups(sids_IRL, (8,))
  assert "8 dimensions: 2: 20.0%, 5–9: 70.0%." in plot.alt


def test_slices_in_words():
  bins = [
    {
      "low": 1,
      "high": None,
      "users": 1500,
      "systems": {"a_b": {"recall@10": 0.5}},
      "intervals": {"a_b": {"recall@10": [0.4, 0.6]}},
    }
  ]
  plot = plots.slice_plot("Title", "length", bins, {"a_b": "A"})
  assert plot.alt == "Recall@10 by length. 1+ (1500 users): A 0.5000."
