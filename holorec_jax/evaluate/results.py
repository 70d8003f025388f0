"""results.json: every number of an evaluation, and its table for a terminal.

  {"headline": "thinking", "counts": {"items": I, "test": U, "valid": U},
   "test": {"item": {"recall@1": .., "ndcg@10": ..}, "item_unseen": {..},
            "sid": {..}},
   "valid": {..},
   "valid_fraction": 1.0, "valid_fraction_unseen": 1.0, "coverage": .4,
   "modes": {name: {"test": .., "valid": .., "valid_fraction": ..,
                    "valid_fraction_unseen": .., "coverage": ..}},
   "baselines": {name: {"item": .., "item_unseen": .., "coverage": ..}},
   "intervals": {..}, "differences": {..}, "slices": {..}, "seconds": {..},
   "parameters": {name: 123456}, "search_ms_per_user": {name: 1.5},
   "valid_accuracy": {name: {"codes": [..], ..}}, "made_from": {..}}

item ranks all items, item_unseen leaves out those of the history, sid counts a
code string that equals the target's as a hit. valid_fraction is the share of
the lists' slots that hold an item of the catalogue, over the lists of all items
or (_unseen) of those that the user has left. The top level is the headline
system; `modes` holds the others. Baselines are on test. `intervals` mirrors the
tree: the interval of results[a][b][c] is results["intervals"][a][b][c], [low,
high]. `differences` is the headline minus each other system, paired on test:
{name: {"item": {"recall@10": [difference, low, high]}}}. `parameters` are those
that were trained, with what training alone needs. `search_ms_per_user` is wall
time of the lists of all items for the test users, in batches of search.batch,
compilation left out. `valid_accuracy` has shares of validation targets by
level, the codes before it given: whose code is predicted right, whose codes up
to there all are ("prefixes"), and for S2GR whose cluster is nearest to the
thought ("clusters"). The evaluation adds these three, and `made_from`, the
hashes and settings that tell whether the results are still those of the run.

ranks.npz beside it holds what the means hide, for paired comparisons with other
runs: `flat_ranks`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from holorec_jax.evaluate import intervals, metrics, slices
from holorec_jax.evaluate.targets import Lists, Targets

TABLE_COLUMNS = (
  "recall@1",
  "recall@5",
  "ndcg@5",
  "recall@10",
  "ndcg@10",
  "recall@20",
  "ndcg@20",
)
PROTOCOLS = {
  "item": "all items ranked",
  "item_unseen": "items of the history left out",
  "sid": "hits of the code string, all items ranked",
}
Tree = dict[str, Any]


def build(
  systems: Mapping[str, Mapping[str, Lists]],
  baselines: Mapping[str, Lists],
  rows: Mapping[str, Targets],
  counts_I: np.ndarray,
  codes_IL: np.ndarray,
  seconds: Mapping[str, float],
) -> Tree:
  """Builds the tree of the module's docstring from lists alone.

  Args:
    systems: name -> split ("test", "valid") -> lists; the first is the
      headline.
    baselines: name -> lists for the rows of test.
    rows: split -> the rows that the lists answer.
    counts_I: training events of each item.
    codes_IL: fine codes of each item, as its identifier.
    seconds: stage -> seconds.

  Raises:
    ValueError: not one list per row, or lists too short for the cutoffs.
  """
  headline, *modes = systems
  lists: Tree = {
    **systems[headline],
    "modes": {name: systems[name] for name in modes},
    "baselines": dict(baselines),
  }
  _check_lengths(lists, len(counts_I))
  ranks = _rank_tree(lists, rows, codes_IL)
  on_test = _on_test(ranks, headline)
  tree = {
    "headline": headline,
    "counts": {"items": len(counts_I)}
    | {split: len(rows[split]) for split in systems[headline]},
    **_map(metrics.summarise, ranks),
    "intervals": _map(intervals.bootstrap, ranks),
    "differences": _differences(on_test),
    "slices": _slices(on_test, rows["test"], counts_I),
    "seconds": dict(seconds),
  }
  _add_validity(tree, lists, rows["test"], len(counts_I))
  return tree


def flat_ranks(
  systems: Mapping[str, Mapping[str, Lists]],
  baselines: Mapping[str, Lists],
  rows: Mapping[str, Targets],
  codes_IL: np.ndarray,
) -> dict[str, np.ndarray]:
  """The target's rank in every list: {"thinking/test/item_unseen": rank_U}.

  Takes what `build` takes. Ranks are `metrics.target_ranks`', in the order of
  the rows; baselines have those of test, and none of "sid".
  """
  return {
    f"{name}/{split}/{protocol}": rank_U
    for name, parts in systems.items()
    for split, part in parts.items()
    for protocol, rank_U in _ranks(part, rows[split], codes_IL).items()
  } | {
    f"{name}/test/{protocol}": rank_U
    for name, part in baselines.items()
    for protocol, rank_U in _ranks(part, rows["test"]).items()
  }


def _rank_tree(
  lists: Tree, rows: Mapping[str, Targets], codes_IL: np.ndarray
) -> Tree:
  """Ranks in place of the lists."""
  tree: Tree = {
    split: _ranks(part, rows[split], codes_IL)
    for split, part in lists.items()
    if isinstance(part, Lists)
  }
  if "modes" in lists:
    tree["modes"] = {
      name: _rank_tree(mode, rows, codes_IL)
      for name, mode in lists["modes"].items()
    }
    tree["baselines"] = {
      name: _ranks(part, rows["test"])
      for name, part in lists["baselines"].items()
    }
  return tree


def _ranks(
  lists: Lists, rows: Targets, codes_IL: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """Protocol -> ranks; "sid" only with codes."""
  ranks = {
    "item": metrics.target_ranks(lists.kept_UK, rows.items_U),
    "item_unseen": metrics.target_ranks(lists.unseen_UK, rows.items_U),
  }
  if codes_IL is not None:
    ranks["sid"] = metrics.code_ranks(lists.kept_UK, rows.items_U, codes_IL)
  return ranks


def _map(function: Callable[[Any], Any], tree: Tree) -> Tree:
  """The tree with `function` of each leaf."""
  return {
    key: _map(function, leaf) if isinstance(leaf, dict) else function(leaf)
    for key, leaf in tree.items()
  }


def _on_test(ranks: Tree, headline: str) -> Tree:
  """System -> protocol -> ranks of test, the headline first."""
  return (
    {headline: ranks["test"]}
    | {name: mode["test"] for name, mode in ranks["modes"].items()}
    | ranks["baselines"]
  )


def _differences(on_test: Tree) -> Tree:
  """The headline minus each other system."""
  headline, *others = on_test
  return {
    other: {
      protocol: intervals.paired_difference(
        on_test[headline][protocol], on_test[other][protocol]
      )
      for protocol in on_test[other]
    }
    for other in others
  }


def _slices(on_test: Tree, rows: Targets, counts_I: np.ndarray) -> Tree:
  ranks = {name: protocols["item"] for name, protocols in on_test.items()}
  return {
    "history_length": slices.by_value(
      rows.lengths_U, ranks, slices.HISTORY_EDGES
    ),
    # The target is an interaction, too.
    "activity": slices.by_value(
      rows.lengths_U + 1, ranks, slices.ACTIVITY_EDGES
    ),
    "target_frequency": slices.by_value(
      counts_I[rows.items_U], ranks, slices.FREQUENCY_EDGES
    ),
  }


def _add_validity(
  tree: Tree, lists: Tree, rows: Targets, num_items: int
) -> None:
  """Adds coverage and valid fractions of test to every system."""
  row, item, _ = rows.flat_histories()
  seen = np.unique(row * num_items + item) // num_items
  left_U = num_items - np.bincount(seen, minlength=len(rows))
  systems = [(tree, lists["test"])]
  systems += [
    (tree["modes"][name], mode["test"]) for name, mode in lists["modes"].items()
  ]
  systems += [
    (tree["baselines"][name], part) for name, part in lists["baselines"].items()
  ]
  for entry, part in systems:
    entry["coverage"] = metrics.coverage(part.kept_UK, num_items)
    entry["valid_fraction"] = metrics.valid_fraction(part.kept_UK, num_items)
    # An unseen list cannot be longer than what the user has left.
    slots_UK = np.arange(part.unseen_UK.shape[1]) < left_U[:, None]
    entry["valid_fraction_unseen"] = metrics.valid_fraction(
      part.unseen_UK[slots_UK][:, None], num_items
    )


def _check_lengths(lists: Tree, num_items: int) -> None:
  needed = min(max(metrics.CUTOFFS), num_items)

  def check(part: Lists) -> None:
    for topk_UK in (part.kept_UK, part.unseen_UK):
      if topk_UK.shape[1] < needed:
        raise ValueError(
          f"lists of {topk_UK.shape[1]} items, {needed} are needed for "
          f"recall@{max(metrics.CUTOFFS)} over {num_items} items"
        )

  _map(check, lists)


def table_rows(
  results: Tree, protocol: str = "item"
) -> dict[str, tuple[dict[str, float], dict[str, Sequence[float]]]]:
  """System -> (metrics, intervals) on test; those without the protocol lack."""
  bounds = results["intervals"]
  pairs = {results["headline"]: (results["test"], bounds["test"])}
  for name, mode in results["modes"].items():
    pairs[name] = (mode["test"], bounds["modes"][name]["test"])
  for name, floor in results["baselines"].items():
    pairs[name] = (floor, bounds["baselines"][name])
  return {
    name: (score[protocol], bound[protocol])
    for name, (score, bound) in pairs.items()
    if protocol in score
  }


def label(name: str) -> str:
  """A system's name as readers see it."""
  return name.replace("_", "-").replace("knn", "kNN")


def metrics_table(results: Tree) -> str:
  """Plain text, a block for each protocol, systems in rows."""
  heads = [
    name.replace("recall", "R").replace("ndcg", "N") for name in TABLE_COLUMNS
  ]
  blocks = []
  for protocol, meaning in PROTOCOLS.items():
    rows = table_rows(results, protocol)
    width = max(map(len, map(label, rows)), default=0)
    lines = [
      f"test, {results['counts']['test']} users, {meaning}",
      " " * width + "".join(f"{head:>8}" for head in heads),
    ]
    for name, (score, _) in rows.items():
      cells = "".join(f"{score[column]:8.4f}" for column in TABLE_COLUMNS)
      lines.append(f"{label(name):<{width}}{cells}")
    blocks.append("\n".join(lines))
  return "\n\n".join(blocks)
