"""Several quantizers on one data set: what codes are worth before training.

Reconstruction is told on the vectors of the fit, "neighbours kept" (neighbours
with the same first code) on one set of vectors for all.
"""

import dataclasses
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from holorec_jax import artifacts, config_fields
from holorec_jax.experiment import mirror, preparation
from holorec_jax.experiment.config import Config
from holorec_jax.quantize import health, quantizers
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.vectors import assemble
from holorec_jax.vectors.assemble import VectorConfig

RESULTS = "quantizers.json"


class Case(NamedTuple):
  """One row: a quantizer and the vectors that it is fitted on."""

  sid: SidConfig
  vectors: VectorConfig


def compare(
  configs: dict[str, Config], config: Config, workdir: pathlib.Path
) -> None:
  """Fits what WORKDIR/quantizers.json lacks, and prints the table.

  Args:
    configs: of each row: its `sid` and `vectors` are read.
    config: the data, and the vectors that judge all rows.
    workdir: holds the data set.
  """
  data = preparation.load_data(config, workdir)
  path = workdir / RESULTS
  known = artifacts.read_json(path) if path.is_file() else {}
  built: dict[VectorConfig, np.ndarray] = {}

  def vectors_of(vectors: VectorConfig) -> np.ndarray:
    if vectors not in built:
      its = dataclasses.replace(config, vectors=vectors)
      mirror.fetch_vectors(its, workdir)
      located = preparation.locate_vectors(its, workdir)
      built[vectors] = assemble.build_vectors(data.dataset, data.split, located)
    return built[vectors]

  rows: dict[str, dict[str, Any]] = {}
  for name, its in configs.items():
    case = Case(its.sid, its.vectors)
    made_from = _made_from(case, config, data.content)
    row = known.get(name, {})
    if row.get("made_from") != made_from:
      logging.info("%s: fitting", name)
      # Judged by one set of vectors, whichever it was fitted on.
      row = measure(
        vectors_of(case.vectors), vectors_of(config.vectors), case.sid
      )
      row["made_from"] = made_from
    rows[name] = row
    artifacts.write_json(path, known | rows)
  print(markdown(rows))


def _made_from(case: Case, config: Config, content: str) -> dict[str, Any]:
  """What a row depends on, as JSON gives it back."""
  return config_fields.resolved(
    {
      "quantizer": case.sid.quantizer,
      "sid": dataclasses.asdict(case.sid.chosen),
      "vectors": dataclasses.asdict(case.vectors),
      "judged_by": dataclasses.asdict(config.vectors),
      "dataset": content,
    }
  )


def measure(
  vectors_IW: np.ndarray, judging_IW: np.ndarray, sid: SidConfig
) -> dict[str, Any]:
  """Fits one quantizer.

  Args:
    vectors_IW: what it is fitted on.
    judging_IW: vectors whose neighbours its first codes should keep together.
    sid: the quantizer.

  Returns:
    {"seconds", "health": health.report's}, its reconstruction on vectors_IW.
  """
  began = time.perf_counter()
  quantizer = quantizers.fit(vectors_IW, sid)
  seconds = time.perf_counter() - began
  report = health.report(
    quantizer.sids_IRL,
    judging_IW,
    quantizer.dims,
    sid.chosen.codes,
    quantizer.reconstruction,
  )
  return {"seconds": round(seconds, 1), "health": report}


def markdown(rows: dict[str, dict[str, Any]]) -> str:
  """The table; of several granularities the fine one counts.

  Use and perplexity are means over the levels, the first level's perplexity
  stands beside.
  """
  lines = [
    "| quantizer | levels | reconstruction | codes used | perplexity | of the"
    " first level | collisions | largest group | neighbours kept | seconds |",
    "|---|---|---|---|---|---|---|---|---|---|",
  ]
  for name, row in rows.items():
    report = row["health"]
    fine = report["granularities"][-1]
    levels = fine["levels"]
    used = np.mean(
      [level["used"] / (level["used"] + level["dead"]) for level in levels]
    )
    perplexity = np.mean([level["perplexity"] for level in levels])
    cells = (
      name,
      str(len(levels)),
      f"{report['reconstruction']:.3f}",
      f"{used:.2%}",
      f"{perplexity:.0f}",
      f"{levels[0]['perplexity']:.0f}",
      f"{fine['collision_rate']:.2%}",
      str(fine["largest_group"]),
      f"{report['neighbour_agreement']:.3f}",
      f"{row['seconds']:.0f}",
    )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)
