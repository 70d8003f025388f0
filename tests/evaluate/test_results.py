"""results.json from tiny lists: schema, mirrored intervals, the table."""

import functools
import json

import pytest

from holorec_jax.evaluate import metrics, results, targets


def test_schema_and_values(build):
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
  assert tree["coverage"] == 1.0
  assert tree["valid_fraction"] == tree["valid_fraction_unseen"] == 1.0
  assert tree["seconds"] == {"train": 2.5}


def test_intervals_mirror_the_metrics(build):
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


def test_differences_are_headline_minus_other(build):
  tree = build()
  difference, low, high = tree["differences"]["popularity"]["item"]["recall@1"]
  assert difference == low == high == 1.0
  assert "sid" in tree["differences"]["non_thinking"]
  assert "sid" not in tree["differences"]["popularity"]


def test_slices_hold_every_system(build):
  bins = build()["slices"]["target_frequency"]
  assert [(b["low"], b["users"]) for b in bins] == [(0, 3)]
  assert set(bins[0]["systems"]) == {"thinking", "non_thinking", "popularity"}


def test_active_users_are_told_by_all_their_interactions(build, monkeypatch):
  """Histories of 1, 1 and 2 events, and a target each."""
  monkeypatch.setattr(results.slices, "ACTIVITY_EDGES", (1, 3))
  sliced = results.slices.by_value
  monkeypatch.setattr(
    results.slices, "by_value", functools.partial(sliced, fewest=1)
  )
  bins = build()["slices"]["activity"]
  assert [(b["low"], b["users"]) for b in bins] == [(1, 2), (3, 1)]


def test_survives_json(build):
  tree = build()
  again = json.loads(json.dumps(tree, allow_nan=False))
  assert again["test"] == tree["test"]
  assert results.metrics_table(again) == results.metrics_table(tree)


def test_table_names_each_system_and_protocol(build):
  table = results.metrics_table(build())
  assert max(map(len, table.splitlines())) <= 80
  for word in (*results.PROTOCOLS.values(), "popularity", "R@10", "1.0000"):
    assert word in table
  # Baselines have no code strings.
  assert table.count("popularity") == 2


def test_valid_fractions_of_both_lists(build, lists):
  _, right, _ = lists
  # The histories (0; 4; 5, 0) leave 5, 5 and 4 items.
  unseen_UK = right.unseen_UK.copy()
  unseen_UK[:, 4:] = -1
  unseen_UK[1, 4] = 1
  tree = build(
    systems={"thinking": {"test": targets.Lists(right.kept_UK, unseen_UK)}},
    baselines={"popularity": targets.Lists(unseen_UK, right.kept_UK)},
  )
  assert tree["valid_fraction"] == 1.0
  assert tree["valid_fraction_unseen"] == pytest.approx(13 / 14)
  floor = tree["baselines"]["popularity"]
  assert floor["valid_fraction"] == pytest.approx(13 / 18)
  assert floor["valid_fraction_unseen"] == 1.0


def test_short_lists_are_refused(build, lists):
  _, right, _ = lists
  short = targets.Lists(right.kept_UK[:, :3], right.unseen_UK)
  with pytest.raises(ValueError, match="lists of 3 items, 6 are needed"):
    build(baselines={"popularity": short})
