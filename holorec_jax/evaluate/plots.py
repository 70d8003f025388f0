"""The report's plots as SVG data URIs, each with its content in words.

Drawn without pyplot, so nothing global changes and no display is needed.
"""

import base64
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from matplotlib import axes

from holorec_jax.evaluate import metrics, slices

# Okabe and Ito's colours: told apart by colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b6b6b", "#a9a9a9")
MARKERS = "osD^vX"
_STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": "#888888",
  "axes.grid": True,
  "axes.labelcolor": "#333333",
  "axes.spines.right": False,
  "axes.spines.top": False,
  "font.size": 9.5,
  "grid.color": "#e4e4e4",
  "legend.frameon": False,
  "legend.fontsize": 9,
  "svg.hashsalt": "holorec_jax",  # The same plot gives the same bytes.
  "xtick.color": "#333333",
  "ytick.color": "#333333",
}
# Steps drawn of a curve, at most: more are averaged.
_POINTS = 150
_GROUP_SIZES = (2, 3, 4, 5, 10, 20)


@dataclasses.dataclass(frozen=True)
class Plot:
  """An image for the report.

  Attributes:
    title: shown above.
    src: data URI.
    alt: what the image says, in words.
  """

  title: str
  src: str
  alt: str


@contextmanager
def _axes(
  images: list[Plot],
  title: str,
  alt: str,
  size: tuple[float, float] = (4.5, 3.1),
) -> "Iterator[axes.Axes]":
  """Axes to draw on; the finished plot is put at the end of `images`."""
  # Here, since it takes a second that most stages need not wait.
  import matplotlib
  from matplotlib import figure, rcsetup

  # Beyond six curves the colours come again, dashed.
  lines = rcsetup.cycler("linestyle", ("-", "--", ":"))
  colours = lines * rcsetup.cycler("color", COLOURS)
  style = _STYLE | {"axes.prop_cycle": colours}
  with matplotlib.rc_context(style):  # type: ignore[arg-type]
    sheet = figure.Figure(figsize=size, layout="constrained")
    plane = sheet.add_subplot()
    yield plane
    labels = plane.get_legend_handles_labels()[1]
    if len(labels) > 1:
      # Inches: a line and its space, and a letter of the legend.
      column = 0.6 + 0.07 * max(map(len, labels))
      ncols = max(1, min(4, int(size[0] / column)))
      sheet.legend(loc="outside upper left", ncols=ncols)
    buffer = io.BytesIO()
    sheet.savefig(buffer, format="svg", metadata={"Date": None})
  text = base64.b64encode(buffer.getvalue()).decode()
  images.append(Plot(title, f"data:image/svg+xml;base64,{text}", alt))


# Panel -> what the names of its curves begin with, behind "train/" or "valid/".
_PANELS = {
  "Loss": "loss",
  "Accuracy of each code, the ones before given": "accuracy/level",
  "Accuracy of whole prefixes": "accuracy/prefix",
  "Accuracy of thoughts": "accuracy/thought",
  "Accuracy of the clusters thought of": "accuracy/cluster",
  "Accuracy of each step": "accuracy/step",
  "Accuracy of each codebook": "accuracy/codebook",
  "Reward of the paths drawn": "reward",
  "Distance from the supervised model (KL)": "kl",
  "Entropy of the paths": "entropy",
  "Recall while training": "recall@",
  "NDCG while training": "ndcg@",
}


def learning_curves(rows: Sequence[Mapping[str, Any]]) -> list[Plot]:
  """One plot for each kind of curve that metrics.jsonl has.

  Args:
    rows: {"step": .., name: value or None, ..}, in order of steps.
  """
  names = sorted({name for row in rows for name in row} - {"step"}, key=_order)
  images: list[Plot] = []
  for title, start in _PANELS.items():
    chosen = [n for n in names if _bare(n).startswith(start)]
    curves = {_words(name): _curve(rows, name) for name in chosen}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if not curves:
      continue
    alt = f"{title}, by step. " + " ".join(
      f"{name}: from {c[0, 1]:.4g} at step {c[0, 0]:.0f} to {c[-1, 1]:.4g} at "
      f"step {c[-1, 0]:.0f}."
      for name, c in curves.items()
    )
    with _axes(images, title, alt) as plane:
      for name, curve in curves.items():
        marker = "o" if len(curve) < 30 else ""
        plane.plot(*curve.T, marker=marker, markersize=3, label=name)
      plane.set_xlabel("step")
      if len(curves) == 1:
        plane.set_ylabel(next(iter(curves)))
  return images


def _bare(name: str) -> str:
  return re.sub("^(train|valid)/", "", name)


def _words(name: str) -> str:
  """ "level 1" of "train/accuracy/level_0", as levels are counted elsewhere."""
  text = re.sub("^accuracy/", "", _bare(name))
  return re.sub(r"_(\d+)\b", lambda level: f" {int(level[1]) + 1}", text)


def _order(name: str) -> list[str]:
  """Sorts by name, numbers by size."""
  return [part.zfill(4) for part in re.split(r"(\d+)", name)]


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
  """(points, 2): step and value, averaged where there are too many."""
  values = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
  if not values:
    return np.zeros((0, 2))
  parts = np.array_split(np.array(values, float), min(len(values), _POINTS))
  return np.stack([part.mean(axis=0) for part in parts])


def code_usage(health: Mapping[str, Any]) -> list[Plot]:
  """Codes used and perplexity for each level of each granularity.

  Args:
    health: health.json.
  """
  rows = health["granularities"]
  codes = max(v["used"] + v["dead"] for row in rows for v in row["levels"])
  alt = f"Codes used of {codes}, and their perplexity. " + " ".join(
    f"Granularity of {row['dims']} dimensions: "
    + ", ".join(
      f"level {n} {level['used']} ({level['perplexity']:.0f})"
      for n, level in enumerate(row["levels"], 1)
    )
    + "."
    for row in rows
  )
  images: list[Plot] = []
  with _axes(images, "Codes used, and perplexity (dots)", alt) as plane:
    width = 0.8 / len(rows)
    for index, row in enumerate(rows):
      levels = row["levels"]
      x = np.arange(len(levels)) + (index - (len(rows) - 1) / 2) * width
      used = [level["used"] for level in levels]
      plane.bar(x, used, width * 0.9, label=f"{row['dims']} dimensions")
      plane.plot(
        x,
        [level["perplexity"] for level in levels],
        "o",
        color="#1a1a1a",
        markersize=3.5,
      )
    plane.axhline(codes, color="#888888", linewidth=0.8, linestyle="--")
    plane.set_xticks(
      range(len(levels)), [f"{n + 1}" for n in range(len(levels))]
    )
    plane.set_xlabel("level")
    plane.set_ylabel(f"codes, of {codes}")
    plane.grid(visible=False, axis="x")
  return images


def collision_groups(sids_IRL: np.ndarray, dims: Sequence[int]) -> list[Plot]:
  """Share of items whose code string is shared by so many items.

  Args:
    sids_IRL: codes before any handling of collisions.
    dims: latent dimensions of each granularity.
  """
  labels = [
    slices.label(low, high - 1 if high else None)
    for low, high in zip(_GROUP_SIZES, (*_GROUP_SIZES[1:], None))
  ]
  shares = [_group_shares(sids_IRL[:, r]) for r in range(len(dims))]
  alt = "Items that share their code string, by how many have it. " + " ".join(
    f"Granularity of {dim} dimensions: "
    + (", ".join(f"{x}: {s:.1%}" for x, s in zip(labels, share) if s) or "none")
    + "."
    for dim, share in zip(dims, shares)
  )
  images: list[Plot] = []
  with _axes(images, "Items that share a code string", alt) as plane:
    width = 0.8 / len(dims)
    for index, (dim, share) in enumerate(zip(dims, shares)):
      x = np.arange(len(labels)) + (index - (len(dims) - 1) / 2) * width
      plane.bar(x, share, width * 0.9, label=f"{dim} dimensions")
    plane.set_xticks(range(len(labels)), labels)
    plane.set_xlabel("items with the same code string")
    plane.set_ylabel("share of items")
    plane.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    plane.grid(visible=False, axis="x")
  return images


def _group_shares(codes_IL: np.ndarray) -> np.ndarray:
  _, group_I, size_G = np.unique(
    codes_IL, axis=0, return_inverse=True, return_counts=True
  )
  size_I = size_G[group_I.reshape(-1)]
  bin_I = np.searchsorted(_GROUP_SIZES, size_I, side="right")
  # Bin 0 holds the items that share with none.
  return np.bincount(bin_I, minlength=len(_GROUP_SIZES) + 1)[1:] / len(size_I)


def level_accuracy(accuracy: Mapping[str, Sequence[float]]) -> list[Plot]:
  """Teacher-forced accuracy by level.

  Args:
    accuracy: label -> accuracy of each level; empty gives no plot.
  """
  if not accuracy:
    return []
  alt = "Share predicted right, given the right codes before. "
  alt += " ".join(
    f"{name}: "
    + ", ".join(f"level {n} {v:.1%}" for n, v in enumerate(values, 1))
    + "."
    for name, values in accuracy.items()
  )
  images: list[Plot] = []
  with _axes(images, "Teacher-forced accuracy by level", alt) as plane:
    for (name, values), marker in zip(accuracy.items(), MARKERS * 9):
      x = np.arange(1, len(values) + 1)
      plane.plot(x, values, marker=marker, markersize=4.5, label=name)
    plane.set_xticks(x)
    plane.set_xlabel("level")
    plane.set_ylabel("predicted right")
    plane.set_ylim(bottom=0)
    plane.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
  return images


def slice_plot(
  title: str,
  label: str,
  bins: Sequence[Mapping[str, Any]],
  names: Mapping[str, str],
  metric: str = "recall@10",
) -> Plot:
  """One metric of every system by slice, with intervals.

  Args:
    title: of the plot.
    label: what the slices are made by.
    bins: as from slices.by_value.
    names: system -> what readers call it.
    metric: which one.
  """
  ticks = [slices.label(b["low"], b["high"]) for b in bins]
  alt = f"{metrics.title(metric)} by {label}. " + " ".join(
    f"{tick} ({b['users']} users): "
    + ", ".join(f"{names[s]} {v[metric]:.4f}" for s, v in b["systems"].items())
    + "."
    for tick, b in zip(ticks, bins)
  )
  images: list[Plot] = []
  with _axes(images, title, alt) as plane:
    systems = list(bins[0]["systems"])
    for index, system in enumerate(systems):
      x = np.arange(len(bins)) + (index - (len(systems) - 1) / 2) * 0.14
      y = np.array([b["systems"][system][metric] for b in bins])
      bounds = np.array([b["intervals"][system][metric] for b in bins]).T
      plane.errorbar(
        x,
        y,
        np.abs(bounds - y),
        fmt=MARKERS[index % 6],
        markersize=4.5,
        elinewidth=1.2,
        label=names[system],
      )
    plane.set_xticks(
      range(len(bins)),
      [f"{tick}\n{_short(b['users'])}" for tick, b in zip(ticks, bins)],
    )
    plane.set_xlabel(f"{label} (below: users)")
    plane.set_ylabel(metrics.title(metric))
    plane.set_ylim(bottom=0)
    plane.grid(visible=False, axis="x")
  return images[0]


def seeds_plot(
  title: str,
  rows: Mapping[str, Mapping[str, Sequence[float]]],
  metric: str = "ndcg@10",
) -> Plot:
  """One metric of every row: each seed a dot, and the mean with its spread.

  Args:
    title: of the plot.
    rows: name -> what was asked -> a value per seed; the first row's means are
      drawn through all others.
    metric: which one.
  """
  alt = f"{metrics.title(metric)}, mean over seeds. " + " ".join(
    f"{name}: "
    + ", ".join(f"{kind} {np.mean(v):.4f}" for kind, v in kinds.items())
    + "."
    for name, kinds in rows.items()
  )
  images: list[Plot] = []
  with _axes(images, title, alt, (6.5, 1.2 + 0.34 * len(rows))) as plane:
    kinds = list(next(iter(rows.values())))
    for index, kind in enumerate(kinds):
      y = np.arange(len(rows)) + (index - (len(kinds) - 1) / 2) * 0.3
      values = [row[kind] for row in rows.values()]
      plane.errorbar(
        [np.mean(v) for v in values],
        y,
        xerr=[float(np.std(v, ddof=len(v) > 1)) for v in values],
        fmt=MARKERS[index],
        markersize=4.5,
        elinewidth=1.2,
        label=kind,
      )
      colour = COLOURS[index]
      for height, v in zip(y, values):
        plane.plot(v, [height] * len(v), "|", color=colour, markersize=7)
      plane.axvline(
        float(np.mean(values[0])), color=colour, linewidth=0.8, linestyle="--"
      )
    plane.set_yticks(range(len(rows)), list(rows))
    plane.invert_yaxis()
    plane.set_xlabel(metrics.title(metric))
    plane.grid(visible=False, axis="y")
  return images[0]


def _short(count: int) -> str:
  return f"{count / 1000:.1f}k" if count >= 1000 else str(count)
