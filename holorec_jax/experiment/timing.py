"""What every benchmark has in common: turns, rows, ratios.

Sides that are compared take turns, so that whatever else the machine does hits
them alike. Each gives one row, a flat dict that goes into a JSON file as it is:

  case, side   what was measured, and on what
  unit         of the median, such as "targets/s"
  median       speed of the median turn
  spread       (slowest - fastest) / median of the seconds of the timed turns
  repeats      timed turns, after one that is not timed

and, where operations were counted (`add_costs`), per target (item, user, ..):

  flops_per_target, bytes_per_target      as XLA counts the compiled step's
  gflops_per_second                       median times flops_per_target
  matmul_gflops_per_second, matmul_share  the machine's ceiling (`ceiling`) in
                                          the same turns, and the share reached
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from tqdm import tqdm

Row = dict[str, Any]
# A quiet machine stays far below.
WIDE_SPREAD = 0.25


@dataclasses.dataclass(frozen=True)
class Result:
  """What a suite found out about one of its cases.

  Attributes:
    rows: one per side, as the module describes.
    ratios: of speeds, A_vs_B = A's over B's.
  """

  rows: list[Row]
  ratios: dict[str, float] = dataclasses.field(default_factory=dict)


def take_turns(
  sides: Sequence[Callable[[], Any]], repeats: int, name: str
) -> list[list[float]]:
  """Seconds of every side's turns, without the first of each.

  Args:
    sides: each does its work and returns when that is done.
    repeats: timed turns of each.
    name: shown beside the progress bar.
  """
  seconds: list[list[float]] = [[] for _ in sides]
  turns = list(zip(sides, seconds)) * (repeats + 1)
  for side, taken in tqdm(turns, desc=name, unit="turn"):
    began = time.perf_counter()
    side()
    taken.append(time.perf_counter() - began)
  return [taken[1:] for taken in seconds]


def make_row(
  case: str,
  side: str,
  plural: str,
  count: float,
  seconds: Sequence[float],
  median_seconds: float | None = None,
) -> Row:
  """A side's row.

  Args:
    case: what was measured.
    side: on what.
    plural: what the speed counts, "targets".
    count: how many of them a turn did.
    seconds: of the timed turns.
    median_seconds: another estimate of the median turn.
  """
  median = median_seconds or statistics.median(seconds)
  return {
    "case": case,
    "side": side,
    "unit": f"{plural}/s",
    "median": count / median,
    "spread": (max(seconds) - min(seconds)) / median,
    "repeats": len(seconds),
  }


def count_costs(compiled: jax.stages.Compiled) -> tuple[float, float]:
  """FLOPs and bytes of one call on one device, NaN where XLA cannot tell."""
  cost: Any = compiled.cost_analysis() or {}
  return cost.get("flops", math.nan), cost.get("bytes accessed", math.nan)


def add_costs(
  row: Row, one: str, flops: float, bytes_: float, ceiling: float
) -> Row:
  """The row with its operations, as far as they could be counted.

  Args:
    row: a side's row.
    one: what the row's speed counts, "target".
    flops: of one of them.
    bytes_: likewise.
    ceiling: GFLOP/s of a plain matrix product in the same turns.
  """
  gflops = flops * row["median"] / 1e9
  costs = {
    f"flops_per_{one}": flops,
    f"bytes_per_{one}": bytes_,
    "gflops_per_second": gflops,
    "matmul_gflops_per_second": ceiling,
    "matmul_share": gflops / ceiling,
  }
  return row | {k: v for k, v in costs.items() if math.isfinite(v)}


def describe(result: Result) -> str:
  """The rows of one case and its ratios, for people."""
  lines = [f"\n{result.rows[0]['case']}"]
  for row in result.rows:
    words = [f"{row['median']:,.1f} {row['unit']} (spread {row['spread']:.0%})"]
    for name, value in row.items():
      if name.startswith("flops_per_"):
        words.append(f"{value / 1e6:.2f} MFLOP/{name[len('flops_per_') :]}")
      elif name.startswith("bytes_per_"):
        words.append(f"{value / 1e6:.2f} MB/{name[len('bytes_per_') :]}")
    if "matmul_share" in row:
      words.append(
        f"{row['gflops_per_second']:.0f} GFLOP/s,"
        f" {row['matmul_share']:.0%} of the matmul ceiling"
      )
    lines.append(f"  {row['side']:<18} {', '.join(words)}")
    lines += [f"  {'':<18} {row['note']}"] if "note" in row else []
  lines += [f"  {name}: {value:.2f}" for name, value in result.ratios.items()]
  if max(row["spread"] for row in result.rows) > WIDE_SPREAD:
    # They do not slow all sides alike: torch waits for its slowest thread.
    lines.append("  spreads this wide: other programs ran; measure again")
  return "\n".join(lines)
