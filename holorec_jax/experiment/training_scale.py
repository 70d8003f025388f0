"""What a training step costs as the catalogue and the histories grow.

catalogue  one batch over catalogues of growing size. Generators have no
           parameters per item: the step reads the codes of the batch's items,
           so it should take the same time over all of them.
history    a fixed number of histories of growing length, all positions trained
           at once, over the smallest catalogue. Layers and heads grow with the
           number of tokens, attention with its square.

Networks with a vector per item (SASRec) grow with the catalogue by design and
take no part.
"""

import dataclasses
import functools
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.evaluate.plots import COLOURS
from holorec_jax.experiment import ceiling, timing
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.made_up import full_rows
from holorec_jax.experiment.training_speed import Shape, Trainee

ROWS = 2
# Histories of the case `catalogue`: 512 targets, as many as Beauty's batches.
CATALOGUE_ROWS, CATALOGUE_LENGTH = 8, 64


@dataclasses.dataclass(frozen=True)
class Point:
  """A step at one size.

  Attributes:
    case: "catalogue" or "history".
    items: of the catalogue.
    length: history items of a row, each of them a target's position.
    trainee: what is trained.
    shape: its batch and compiled step.
  """

  case: str
  items: int
  length: int
  trainee: Trainee
  shape: Shape

  @property
  def tokens(self) -> int:
    """History tokens of the batch."""
    model = self.trainee.config
    per_item = 1
    if model.history == "codes":
      per_item = self.trainee.catalog.codes_IL.shape[1]
    return self.shape.batch["item_BT"].size * per_item

  def run(self) -> None:
    """One step; returns when it is done."""
    self.trainee.train(self.shape)


def measure(
  config: Config, items: Sequence[int], lengths: Sequence[int], repeats: int
) -> list[timing.Result]:
  """Times one step of every size, the sizes of a case in turns.

  Args:
    config: network, loss and optimiser; its first system is trained.
    items: catalogues, ascending.
    lengths: history items, ascending.
    repeats: timed steps of each, after one that is not timed.

  Returns:
    The cases `catalogue` and `history`, a row per size in tokens per second,
    with items, tokens, step_ms, step_flops and step_bytes.
  """
  mesh = sharding.make_mesh()
  catalogues = [
    _make_point("catalogue", Trainee(config, size, mesh), CATALOGUE_ROWS, mesh)
    for size in tqdm(items, desc="catalogue: compiling", unit="size")
  ]
  trainee = catalogues[0].trainee
  by_items = _time(catalogues, mesh, repeats)
  histories = [
    _make_point("history", trainee, ROWS, mesh, length)
    for length in tqdm(lengths, desc="history: compiling", unit="size")
  ]
  by_length = _time(histories, mesh, repeats)
  return [
    timing.Result(by_items, _compare_catalogues(by_items)),
    timing.Result(by_length, _fit_growth(by_length)),
  ]


def _make_point(
  case: str,
  trainee: Trainee,
  rows: int,
  mesh: jax.sharding.Mesh,
  length: int = CATALOGUE_LENGTH,
) -> Point:
  """Full rows of one history each, of which every position is a target."""
  rows = math.lcm(rows, mesh.size)
  items = trainee.catalog.num_items
  shape = Shape(full_rows(items, rows, length))
  trainee.compile(shape)
  return Point(case, items, length, trainee, shape)


def _time(
  points: Sequence[Point], mesh: jax.sharding.Mesh, repeats: int
) -> list[timing.Row]:
  product = ceiling.Product(mesh)
  turns: list[Callable[[], Any]] = [product.run, *(p.run for p in points)]
  product_seconds, *seconds = timing.take_turns(turns, repeats, points[0].case)
  limit = product.speed(product_seconds)
  make = functools.partial(_summarise, devices=mesh.size, limit=limit)
  return [make(point, taken) for point, taken in zip(points, seconds)]


def _summarise(
  point: Point, seconds: list[float], devices: int, limit: float
) -> timing.Row:
  tokens = point.tokens
  assert point.shape.step is not None
  flops, bytes_ = timing.count_costs(point.shape.step)
  flops, bytes_ = flops * devices, bytes_ * devices
  side = f"{point.items:,} items"
  if point.case == "history":
    side = f"histories of {point.length:,}"
  row = timing.make_row(point.case, side, "tokens", tokens, seconds)
  row = timing.add_costs(row, "token", flops / tokens, bytes_ / tokens, limit)
  ms = 1000 * statistics.median(seconds)
  return row | {
    "items": point.items,
    "length": point.length,
    "tokens": tokens,
    "step_ms": ms,
    "step_flops": flops,
    "step_bytes": bytes_,
    "note": f"{tokens:,} tokens: {ms:.1f} ms, {flops / 1e9:.2f} GFLOP",
  }


def _compare_catalogues(rows: list[timing.Row]) -> dict[str, float]:
  """The largest catalogue's step by the smallest's."""
  first, last = rows[0], rows[-1]
  return {
    f"catalogue/{name}_of_largest_vs_smallest": last[name] / first[name]
    for name in ("step_ms", "step_flops", "step_bytes")
  }


def _fit_growth(rows: list[timing.Row]) -> dict[str, float]:
  """Parts of the longest histories' step, and its growth to there.

  The parts are those of cost = start + linear tokens + square tokens^2, fitted
  with equal relative errors; the exponent is that of the last two lengths.
  """
  found: dict[str, float] = {}
  for name in ("step_ms", "step_flops"):
    cost_X = np.array([row[name] for row in rows])
    tokens_X = np.array([row["tokens"] for row in rows], float)
    shares = fit_parabola(tokens_X, cost_X)
    found |= {
      f"history/{name}_{part}_share": share
      for part, share in zip(("start", "linear", "square"), shares)
    }
    if len(rows) > 1:
      found[f"history/{name}_exponent"] = float(
        np.log(cost_X[-1] / cost_X[-2]) / np.log(tokens_X[-1] / tokens_X[-2])
      )
  return found


def fit_parabola(x_X: np.ndarray, y_X: np.ndarray) -> list[float]:
  """Shares of y's constant, linear and square part at the last x.

  Args:
    x_X: ascending, positive.
    y_X: positive; every one counts with its relative error.

  Returns:
    Three shares of the fitted value; none where there are fewer points.
  """
  if len(x_X) < 3:
    return []
  powers_XP = (x_X / x_X[-1])[:, None] ** np.arange(3) / y_X[:, None]
  part_P = np.linalg.lstsq(powers_XP, np.ones(len(x_X)), rcond=None)[0]
  return [float(part) for part in part_P / part_P.sum()]


def draw(rows: Sequence[timing.Row], path: pathlib.Path) -> None:
  """Milliseconds and GFLOP per step against each size, as an SVG file.

  Args:
    rows: of `measure`.
    path: of the file.
  """
  # Here, since it takes a second that most benchmarks need not wait.
  from matplotlib import figure

  sheet = figure.Figure(figsize=(9, 3.6), layout="constrained")
  panels = {"catalogue": "items", "history": "tokens"}
  for plane, (case, size) in zip(sheet.subplots(1, 2), panels.items()):
    chosen = [row for row in rows if row["case"] == case]
    x = [row[size] for row in chosen]
    ms = [row["step_ms"] for row in chosen]
    gflop = [row["step_flops"] / 1e9 for row in chosen]
    plane.loglog(x, ms, "o-", color=COLOURS[0], label="ms per step")
    plane.loglog(x, gflop, "s-", color=COLOURS[1], label="GFLOP per step")
    if case == "history":
      line = [gflop[-1] * each / x[-1] for each in x]
      plane.loglog(x, line, ":", color=COLOURS[4], label="linear")
      plane.set_xlabel("history tokens of the batch")
    else:
      plane.set_xlabel("items of the catalogue")
      plane.set_ylim(min(ms + gflop) / 10, max(ms + gflop) * 10)
    plane.grid(color="#e4e4e4")
    plane.legend(frameon=False)
  sheet.savefig(path, format="svg", metadata={"Date": None})
