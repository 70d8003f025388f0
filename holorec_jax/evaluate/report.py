"""report.html: one self-contained page about one run, no network needed."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from holorec_jax.evaluate import metrics, plots, results, slices

_STAGES = ("prepare_data", "fit_sids", "train", "evaluate")
_SLICES = {
  "history_length": ("By length of the history", "events in the history"),
  "activity": ("Users of ten interactions and more", "interactions"),
  "target_frequency": (
    "By how often the target was trained on",
    "training events of the target",
  ),
}


@dataclasses.dataclass(frozen=True)
class Contents:
  """All that a report is made from.

  Attributes:
    title: such as "HoloRec on Beauty".
    facts: what was run, in the order shown: {"Data": .., "Model": .., "Date":
      .., "Commit": .., "Seed": .., "Machine": ..}.
    config: dotted field -> value, the resolved configuration.
    results: results.json; its `made_from` is not needed.
    curves: rows of metrics.jsonl.
    health: health.json.
    sids_IRL: codes before any handling of collisions.
    accuracy: label -> teacher-forced accuracy of each level.
    examples: [{"user", "history": [title], "target": title, "recommendations":
      [{"title", "score", "hit", "chain": [{"level", "thought": [(name,
      share)], "code", "name"}]}]}], scores as log-probabilities; the thought
      is empty for a mode that does not think.
    commands: shell lines that reproduce the run.
  """

  title: str
  facts: Mapping[str, str]
  config: Mapping[str, Any]
  results: Mapping[str, Any]
  curves: Sequence[Mapping[str, Any]]
  health: Mapping[str, Any]
  sids_IRL: np.ndarray
  accuracy: Mapping[str, Sequence[float]]
  examples: Sequence[Mapping[str, Any]]
  commands: Sequence[str]


def render(contents: Contents) -> str:
  """The page as HTML text."""
  tree = dict(contents.results)
  dims = [row["dims"] for row in contents.health["granularities"]]
  return _template("report.html.jinja").render(
    title=contents.title,
    contents=contents,
    results=tree,
    summary=summarise(tree),
    stages={
      stage.replace("_", " "): tree["seconds"][stage]
      for stage in _STAGES
      if stage in tree["seconds"]
    },
    tables=[_table(tree, protocol) for protocol in results.PROTOCOLS],
    columns=results.TABLE_COLUMNS,
    curves=plots.learning_curves(contents.curves),
    codes=plots.code_usage(contents.health)
    + plots.collision_groups(contents.sids_IRL, dims),
    accuracy=plots.level_accuracy(contents.accuracy),
    slices=_slices(tree),
    differences={
      name: [cells["item"][column] for column in results.TABLE_COLUMNS]
      for name, cells in tree["differences"].items()
    },
    validity={tree["headline"]: tree} | tree["modes"] | tree["baselines"],
  )


def render_aligned(
  title: str, tree: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]
) -> str:
  """The page of an alignment as HTML text.

  Args:
    title: of the page.
    tree: aligned/results.json, or what goes into it.
    curves: rows of aligned/metrics.jsonl.
  """
  return _template("aligned.html.jinja").render(
    title=title,
    tree=tree,
    columns=results.TABLE_COLUMNS,
    curves=plots.learning_curves(curves),
  )


def _template(name: str) -> jinja2.Template:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("holorec_jax.evaluate"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  environment.filters |= {
    "decimal": decimal,
    "duration": duration,
    "label": results.label,
    "metric": metrics.title,
    "score": lambda value: _minus(f"{value:.2f}"),
    "share": share,
  }
  return environment.get_template(name)


def summarise(tree: results.Tree) -> str:
  """The outcome in a sentence or two, beside the strongest baseline."""
  name = tree["headline"]
  score = tree["test"]["item"]["recall@10"]
  low, high = tree["intervals"]["test"]["item"]["recall@10"]
  text = (
    f"{results.label(name).capitalize()} finds a user’s next item among its "
    f"first ten for {score:.2%} of {tree['counts']['test']:,} users (95% "
    f"interval {low:.2%} to {high:.2%}), all {tree['counts']['items']:,} items "
    "ranked."
  )
  floors = tree["baselines"]
  if not floors:
    return text
  best = max(floors, key=lambda floor: floors[floor]["item"]["recall@10"])
  other = floors[best]["item"]["recall@10"]
  mean, low, high = tree["differences"][best]["item"]["recall@10"]
  if low <= 0 <= high:
    verdict = "not clearly different from"
  else:
    verdict = f"clearly {'better' if mean > 0 else 'worse'} than"
  return _minus(
    f"{text} That is {verdict} the strongest baseline, {results.label(best)}, "
    f"with {other:.2%}: {100 * mean:+.2f} points (interval {100 * low:+.2f} to "
    f"{100 * high:+.2f}, paired over users)."
  )


def _minus(text: str) -> str:
  """Hyphens that stand for a minus sign become one."""
  return re.sub(r"(?<!\w)-(?=[.\d])", "−", text)


def _table(tree: results.Tree, protocol: str) -> dict[str, Any]:
  """Cells of one metrics table; `best` marks each column's greatest."""
  rows = results.table_rows(tree, protocol)
  best = {
    column: max(score[column] for score, _ in rows.values())
    for column in results.TABLE_COLUMNS
  }
  return {
    "title": results.PROTOCOLS[protocol],
    "rows": {
      name: [
        {
          "value": score[column],
          "low": bound[column][0],
          "high": bound[column][1],
          "best": score[column] == best[column] and len(rows) > 1,
        }
        for column in results.TABLE_COLUMNS
      ]
      for name, (score, bound) in rows.items()
    },
  }


def _slices(tree: results.Tree) -> list[dict[str, Any]]:
  """Plots of the slices, and the numbers in them."""
  parts = []
  for key, (title, label) in _SLICES.items():
    bins = tree["slices"][key]
    if not bins:
      continue
    names = {name: results.label(name) for name in bins[0]["systems"]}
    parts.append(
      {
        "image": plots.slice_plot(title, label, bins, names),
        "label": label,
        "names": list(names.values()),
        "rows": [
          (
            slices.label(b["low"], b["high"]),
            b["users"],
            list(b["systems"].values()),
          )
          for b in bins
        ],
      }
    )
  return parts


def decimal(value: float, sign: bool = False) -> str:
  """Four digits without the zero before the point: ".0648", "−.0012"."""
  text = f"{value:+.4f}" if sign else f"{value:.4f}"
  return _minus(text.replace("0.", ".", 1) if abs(value) < 1 else text)


def share(value: float) -> str:
  """Whole per cents: "49%", "<1%"."""
  return "<1%" if 0 < value < 0.005 else f"{100 * value:.0f}%"


def duration(seconds: float) -> str:
  """ "3.2 s", "4 min 05 s", "2 h 03 min"."""
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"
