"""results.json from tiny lists: schema, mirrored intervals, the table."""

import json

import numpy as np
import pytest

from holorec_jax.evaluate import metrics, results, targets

ITEMS = 6


def tiny():
  """Three users whose targets are items 1, 2, 3 and one list each."""
  events_E = np.array([0, 1, 4, 2, 5, 0, 3], np.int32)
  rows = targets.Targets(
    events_E=events_E,
    users_U=np.arange(3),
    starts_U=np.array([0, 2, 4]),
    ends_U=np.array([1, 3, 6]),
  )
  full = np.tile(np.arange(ITEMS, dtype=np.int32), (3, 1))
  best = np.stack([np.roll(full[0], -item) for item in (1, 2, 3)])
  right = targets.Lists(best, best)
  plain = targets.Lists(full, full)
  return rows, right, plain


def build(**overrides):
  rows, right, plain = tiny()
  arguments = {
    "systems": {
      "thinking": {"test": right, "valid": plain},
      "non_thinking": {"test": plain, "valid": plain},
    },
    "baselines": {"popularity": plain},
    "rows": {"test": rows, "valid": rows},
    "counts_I": np.array([9, 0, 3, 12, 1, 1]),
    "codes_IL": np.array([[0, 0], [0, 0], [1, 0], [1, 1], [2, 0], [2, 1]]),
    "seconds": {"train": 2.5},
  }
  return results.build(**(arguments | overrides))


def test_schema_and_values():
  tree = build()
  assert tree["headline"] == "thinking"
  assert tree["counts"] == {"items": 6, "test": 3, "valid": 3}
  assert tree["test"]["item"]["recall@1"] == 1.0
  assert set(tree["test"]) == {"item", "item_unseen", "sid"}
  assert set(tree["valid"]) == {"item", "item_unseen", "sid"}
  plain = tree["modes"]["non_thinking"]["test"]
  assert plain["item"]["recall@1"] == 0
  assert plain["item"]["recall@5"] == 1.0
  # Item 0 leads every list and shares its code with the first target.
  assert plain["sid"]["recall@1"] == pytest.approx(1 / 3)
  assert tree["baselines"]["popularity"]["item"] == plain["item"]
  assert tree["valid_fraction"] == tree["coverage"] == 1.0
  assert tree["seconds"] == {"train": 2.5}


def test_intervals_mirror_the_metrics():
  tree = build()
  for path in (
    ("test", "item"),
    ("valid", "sid"),
    ("modes", "non_thinking", "test", "item_unseen"),
    ("baselines", "popularity", "item"),
  ):
    score, bound = tree, tree["intervals"]
    for key in path:
      score, bound = score[key], bound[key]
    assert set(score) == set(bound) == set(metrics.names())
    for name, value in score.items():
      assert bound[name][0] <= value <= bound[name][1]


def test_differences_are_headline_minus_other():
  tree = build()
  difference, low, high = tree["differences"]["popularity"]["item"]["recall@1"]
  assert difference == low == high == 1.0
  assert "sid" in tree["differences"]["non_thinking"]
  assert "sid" not in tree["differences"]["popularity"]


def test_slices_hold_every_system():
  bins = build()["slices"]["target_frequency"]
  assert [b["low"] for b in bins] == [0, 1, 10]
  assert set(bins[0]["systems"]) == {"thinking", "non_thinking", "popularity"}


def test_survives_json():
  tree = build()
  again = json.loads(json.dumps(tree, allow_nan=False))
  assert again["test"] == tree["test"]
  assert results.metrics_table(again) == results.metrics_table(tree)


def test_table_names_each_system_and_protocol():
  table = results.metrics_table(build())
  assert max(map(len, table.splitlines())) <= 80
  for word in (*results.PROTOCOLS.values(), "popularity", "R@10", "1.0000"):
    assert word in table
  # Baselines have no code strings.
  assert table.count("popularity") == 2


def test_short_lists_are_refused():
  _, right, _ = tiny()
  short = targets.Lists(right.kept_UK[:, :3], right.unseen_UK)
  with pytest.raises(ValueError, match="lists of 3 items, 6 are needed"):
    build(baselines={"popularity": short})
