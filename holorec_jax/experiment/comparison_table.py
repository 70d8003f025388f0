"""The table of a comparison: every system, over seeds, against the first one.

A metric's mean and standard deviation are over seeds. A difference from the
first row is taken user by user: the gains of each user are averaged over the
seeds of either row, and users are resampled for the 95 % interval. That is what
another choice of users would change; the standard deviations say what another
seed would.
"""

import base64
import csv
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.evaluate import intervals, metrics, plots
from holorec_jax.evaluate.results import PROTOCOLS, label
from holorec_jax.experiment.alignment import FOLDER as ALIGNED
from holorec_jax.experiment.evaluation import RANKS

COLUMNS = (
  "recall@1",
  "recall@5",
  "ndcg@5",
  "recall@10",
  "ndcg@10",
  "recall@20",
)
COMPARED = ("recall@10", "ndcg@10")
VALID = "ndcg@10"
COSTS = ("train_seconds", "search_ms_per_user", "parameters")
ITEM_LEVEL = ("item", "item_unseen")
# As PROTOCOLS has them, for a plot's legend.
SHORT = {"item": "seen items kept", "item_unseen": "seen items left out"}


@dataclasses.dataclass(frozen=True)
class Row:
  """One system of one config, over its finished runs.

  Attributes:
    gains: "test/item", "test/item_unseen" and, for a system, "valid/item" ->
      (seeds, U, metrics) with the columns of `metrics.names`.
    costs: of COSTS -> a value per seed; none of baselines.
  """

  gains: Mapping[str, np.ndarray]
  costs: Mapping[str, Sequence[float]]

  @property
  def seeds(self) -> int:
    """How many runs are behind it."""
    return len(self.gains["test/item"])

  def values(self, part: str, metric: str) -> np.ndarray:
    """(seeds,) means over users; none where the row lacks the part."""
    if part not in self.gains:
      return np.zeros(0)
    return self.gains[part][..., metrics.names().index(metric)].mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Rows:
  """What a table is made from.

  Attributes:
    counts: of items and of the users of each split.
    rows: name -> row; NAME of a config's headline, NAME/SYSTEM of others,
      NAME/aligned of the headline after preference alignment.
  """

  counts: Mapping[str, int]
  rows: Mapping[str, Row]


def read_rows(
  runs: Mapping[str, Sequence[pathlib.Path]], aligned: Sequence[str] = ()
) -> Rows:
  """Reads the results of finished runs.

  Args:
    runs: name of each config -> folders of its finished runs, at least one.
    aligned: names of those whose runs are all aligned with preferences.

  Raises:
    UserError: runs that are not of the same data.
  """
  folders = [folder for part in runs.values() for folder in part]
  trees = {
    folder: artifacts.read_json(folder / "results.json") for folder in folders
  }
  first = trees[folders[0]]
  for folder, tree in trees.items():
    if tree["made_from"]["dataset"] != first["made_from"]["dataset"]:
      raise UserError(
        f"{folder} and {folders[0]} are of different data: delete the one that"
        " is outdated, and run again"
      )
  ranks = {folder: dict(np.load(folder / RANKS)) for folder in folders}
  rows = {}
  for name, part in runs.items():
    headline, modes = trees[part[0]]["headline"], trees[part[0]]["modes"]
    for system in (headline, *modes):
      key = name if system == headline else f"{name}/{label(system)}"
      rows[key] = Row(
        _gains([ranks[folder] for folder in part], system),
        {
          "train_seconds": [
            trees[folder]["seconds"][f"train/{system}"] for folder in part
          ]
        }
        | {cost: [trees[f][cost][system] for f in part] for cost in COSTS[1:]},
      )
      if name in aligned and system == headline:
        rows[f"{name}/{ALIGNED}"] = _aligned_row(part, rows[name])
  for floor in first["baselines"]:
    rows[label(floor)] = Row(_gains([ranks[folders[0]]], floor), {})
  return Rows(first["counts"], rows)


def _aligned_row(folders: Sequence[pathlib.Path], supervised: Row) -> Row:
  folders = [folder / ALIGNED for folder in folders]
  trees = [artifacts.read_json(folder / "results.json") for folder in folders]
  return Row(
    _gains([dict(np.load(folder / RANKS)) for folder in folders], ALIGNED),
    {**supervised.costs, "train_seconds": [tree["seconds"] for tree in trees]},
  )


def _gains(
  ranks: Sequence[Mapping[str, np.ndarray]], system: str
) -> dict[str, np.ndarray]:
  parts = [f"test/{protocol}" for protocol in ITEM_LEVEL] + ["valid/item"]
  return {
    part: np.stack(
      [metrics.gains(found[f"{system}/{part}"]) for found in ranks]
    )
    for part in parts
    if f"{system}/{part}" in ranks[0]
  }


def paired_difference(
  row: Row, other: Row, part: str
) -> dict[str, list[float]]:
  """COMPARED -> [difference, low, high] of row minus other, users resampled."""
  gain_UM = row.gains[part].mean(axis=0) - other.gains[part].mean(axis=0)
  chosen = [metrics.names().index(metric) for metric in COMPARED]
  gain_VM, counts_V = np.unique(gain_UM[:, chosen], axis=0, return_counts=True)
  # Equal users are exchangeable, as in `intervals`.
  draws_SV = np.random.default_rng(0).multinomial(
    counts_V.sum(), counts_V / counts_V.sum(), size=intervals.RESAMPLES
  )
  means_SM = draws_SV @ gain_VM / counts_V.sum()
  low_M, high_M = np.percentile(means_SM, intervals.PERCENTILES, axis=0)
  mean_M = counts_V @ gain_VM / counts_V.sum()
  return {
    metric: [float(mean_M[m]), float(low_M[m]), float(high_M[m])]
    for m, metric in enumerate(COMPARED)
  }


def tabulate(rows: Mapping[str, Row]) -> list[dict[str, Any]]:
  """The flat table, as the CSV file has it; None where there is no value.

  Columns: system, seeds; PART/METRIC and PART/METRIC/std for the test's and
  validation's metrics; PART/METRIC/difference, ../low, ../high from the first
  row; COSTS, each with its std.
  """
  first, *_ = rows.values()
  table = []
  for name, row in rows.items():
    cells: dict[str, Any] = {"system": name, "seeds": row.seeds}
    for part in (f"test/{protocol}" for protocol in ITEM_LEVEL):
      for metric in COLUMNS:
        cells |= _spread(f"{part}/{metric}", row.values(part, metric))
      found = {} if row is first else paired_difference(row, first, part)
      for metric in COMPARED:
        for index, what in enumerate(("difference", "low", "high")):
          value = found[metric][index] if found else None
          cells[f"{part}/{metric}/{what}"] = value
    cells |= _spread(f"valid/item/{VALID}", row.values("valid/item", VALID))
    for cost in COSTS:
      cells |= _spread(cost, row.costs.get(cost, ()))
    table.append(cells)
  return table


def _spread(column: str, values: Any) -> dict[str, float | None]:
  """Mean and standard deviation over seeds."""
  count = len(values)
  return {
    column: float(np.mean(values)) if count else None,
    f"{column}/std": float(np.std(values, ddof=1)) if count > 1 else None,
  }


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
  """The table with all digits; empty cells where there is no value."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(table)
  return text.getvalue()


def as_markdown(
  table: Sequence[Mapping[str, Any]], counts: Mapping[str, int]
) -> str:
  """The table for people: a block for each protocol, and one of costs."""
  first = table[0]["system"]
  blocks = []
  for protocol in ITEM_LEVEL:
    part = f"test/{protocol}"
    columns = {_short(m): _mean(f"{part}/{m}", 4) for m in COLUMNS}
    for metric in COMPARED:
      columns[f"{_short(metric)} − {first}"] = _difference(f"{part}/{metric}")
    blocks += [
      f"Test, {counts['test']} users, {counts['items']} items,"
      f" {PROTOCOLS[protocol]}:",
      _block(table, columns),
    ]
  columns = {
    "seeds": lambda cells: str(cells["seeds"]),
    f"validation {_short(VALID)}": _mean(f"valid/item/{VALID}", 4),
    "training, s": _mean("train_seconds", 0),
    "search, ms per user": _mean("search_ms_per_user", 3),
    "parameters": _mean("parameters", 0),
  }
  blocks += [
    "Validation (all items ranked) and costs:",
    _block(table, columns),
    "± is the standard deviation over seeds. Differences are paired by user,"
    " gains averaged over seeds, with the 95 % interval of a bootstrap over"
    f" users. Training of NAME/{ALIGNED} is alignment alone. Times are wall"
    " times: runs that were made side by side (--jobs) slowed each other.",
  ]
  return "\n\n".join(blocks) + "\n"


def _short(metric: str) -> str:
  return metric.replace("recall", "R").replace("ndcg", "N")


def _mean(column: str, digits: int):
  def show(cells: Mapping[str, Any]) -> str:
    mean, std = cells[column], cells[f"{column}/std"]
    if mean is None:
      return "–"
    text = f"{mean:,.{digits}f}"
    # Equal networks have equally many parameters.
    return text if not std else f"{text} ± {std:,.{digits}f}"

  return show


def _difference(column: str):
  def show(cells: Mapping[str, Any]) -> str:
    mean, low, high = (
      cells[f"{column}/{what}"] for what in ("difference", "low", "high")
    )
    if mean is None:
      return "–"
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"

  return show


def _block(table: Sequence[Mapping[str, Any]], columns: Mapping) -> str:
  lines = ["| system | " + " | ".join(columns) + " |"]
  lines.append("|---|" + "---:|" * len(columns))
  for cells in table:
    shown = " | ".join(show(cells) for show in columns.values())
    lines.append(f"| {cells['system']} | {shown} |")
  return "\n".join(lines)


def write(rows: Rows, folder: pathlib.Path, notes: Sequence[str]) -> str:
  """Writes comparison.md, .csv and .svg into `folder`; returns the Markdown.

  Args:
    rows: as `read_rows` gives them.
    folder: is there.
    notes: lines below the Markdown table.
  """
  table = tabulate(rows.rows)
  text = as_markdown(table, rows.counts)
  text += "".join(f"\n{note}\n" for note in notes)
  plot = plots.seeds_plot(
    "Comparison",
    {
      name: {
        what: row.values(f"test/{protocol}", VALID).tolist()
        for protocol, what in SHORT.items()
      }
      for name, row in rows.rows.items()
    },
    VALID,
  )
  svg = base64.b64decode(plot.src.partition(",")[2]).decode()
  artifacts.write_text(folder / "comparison.md", text)
  artifacts.write_text(folder / "comparison.csv", as_csv(table))
  artifacts.write_text(folder / "comparison.svg", svg)
  return text
