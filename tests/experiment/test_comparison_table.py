"""The table of a comparison, from ranks that are known."""

import numpy as np
import pytest
from finished_runs import write_aligned, write_run

from holorec_jax.errors import UserError
from holorec_jax.evaluate import intervals, metrics
from holorec_jax.experiment import comparison_table


def ranks(name, test, unseen=None, valid=None):
  """As ranks.npz has them; `x` is a target that the list lacks."""
  x = metrics.MISSED
  parts = {"test/item": test, "test/item_unseen": unseen or test}
  parts |= {"valid/item": valid} if valid else {}
  return {
    f"{name}/{part}": np.array([x if r is None else r for r in values])
    for part, values in parts.items()
  }


@pytest.fixture
def runs(tmp_path):
  """Two configs of two seeds over four users, the second with two systems."""
  first, second = tmp_path / "a", tmp_path / "b"
  floor = ranks("item_knn", [None, None, 4, 0])
  x = None
  for seed, hits in enumerate(([0, x, x, x], [0, 0, x, x])):
    own = ranks("plain", hits, valid=[0, x])
    write_run(first / f"{seed}", own | floor)
  for seed, hits in enumerate(([0, 0, 0, x], [0, 0, 0, x])):
    own = ranks("thinking", hits, [0, 0, 0, 7], [0, 0])
    own |= ranks("non_thinking", [x, x, x, 15], valid=[x, x])
    write_run(
      second / f"{seed}", own | floor, systems=("thinking", "non_thinking")
    )
  return {
    "a": [first / "0", first / "1"],
    "b": [second / "0", second / "1"],
  }


def test_table_of_known_ranks(runs):
  found = comparison_table.read_rows(runs)
  table = comparison_table.tabulate(found.rows)
  text = comparison_table.as_markdown(table, found.counts)
  kept, unseen, costs = (
    [line for line in block.splitlines() if line.startswith("|")]
    for block in text.split("\n\n")[1::2]
  )
  assert kept[0] == (
    "| system | R@1 | R@5 | N@5 | R@10 | N@10 | R@20 | R@10 − a | N@10 − a |"
  )
  assert kept[2] == (
    "| a |"
    + " 0.3750 ± 0.1768 |" * 6  # of 0.25 and 0.5
    + " – | – |"
  )
  # Users gain 0, .5, 1 and 0: the interval is that of resampling four.
  assert kept[3] == (
    "| b |" + " 0.7500 |" * 6 + " +0.3750 [+0.0000, +0.7500] |" * 2
  )
  assert kept[4].startswith("| b/non-thinking | 0.0000 | 0.0000 | 0.0000 |")
  # 1 / log2(4 + 2) = 0.3869.
  assert kept[5].startswith("| item-kNN | 0.2500 | 0.5000 | 0.3467 | 0.5000 |")
  assert len(kept) == 6
  assert "| b | 0.7500 | 0.7500 | 0.7500 | 1.0000 | 0.8289 |" in unseen[3]
  assert costs[2:] == [
    "| a | 2 | 0.5000 | 12 | 0.500 | 4,321 |",
    "| b | 2 | 1.0000 | 12 | 0.500 | 4,321 |",
    "| b/non-thinking | 2 | 0.0000 | 12 | 0.500 | 4,321 |",
    "| item-kNN | 1 | – | – | – | – |",
  ]


def test_row_of_the_aligned(runs):
  settings = {"preference": {}, "search": {}}
  for folder, hits in zip(runs["b"], ([0, 0, 0, 0], [0, 0, 0, None])):
    write_aligned(folder, ranks("aligned", hits), settings)
  rows = comparison_table.read_rows(runs, aligned=["b"]).rows
  assert list(rows) == ["a", "b", "b/aligned", "b/non-thinking", "item-kNN"]
  assert rows["b/aligned"].values("test/item", "recall@1").tolist() == [1, 0.75]
  assert rows["b/aligned"].costs["train_seconds"] == [3, 3]
  assert rows["b/aligned"].costs["parameters"] == [4321, 4321]
  assert "b/aligned" not in comparison_table.read_rows(runs).rows


def test_files_of_the_table(runs, tmp_path):
  rows = comparison_table.read_rows(runs)
  text = comparison_table.write(rows, tmp_path, ["a note"])
  assert (tmp_path / "comparison.md").read_text() == text
  assert text.endswith("a note\n")
  head, *lines = (tmp_path / "comparison.csv").read_text().splitlines()
  cells = dict(zip(head.split(","), lines[0].split(",")))
  assert cells["system"] == "a"
  assert cells["test/item/recall@10"] == "0.375"
  assert cells["test/item/ndcg@10/difference"] == ""
  assert len(lines) == 4
  assert "<svg" in (tmp_path / "comparison.svg").read_text()


def test_outdated_data_is_refused(runs, tmp_path):
  write_run(tmp_path / "old", {}, dataset="e")
  with pytest.raises(UserError, match="different data"):
    comparison_table.read_rows(runs | {"old": [tmp_path / "old"]})


def test_differences_agree_with_the_bootstrap_of_one_seed():
  rng = np.random.default_rng(0)
  ranks_U, other_U = rng.integers(0, 30, (2, 500))

  def row(values_U):
    gains = metrics.gains(values_U)[None]
    return comparison_table.Row({"test/item": gains}, {})

  found = comparison_table.paired_difference(
    row(ranks_U), row(other_U), "test/item"
  )
  expected = intervals.paired_difference(ranks_U, other_U)
  for metric in comparison_table.COMPARED:
    np.testing.assert_allclose(found[metric], expected[metric], atol=5e-3)
    assert found[metric][0] == pytest.approx(expected[metric][0])
