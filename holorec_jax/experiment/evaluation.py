"""The last stage: lists of every system, results.json and report.html."""

import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from typing import Any

import numpy as np
from absl import logging

from holorec_jax import artifacts, config_fields
from holorec_jax.catalog import Catalog
from holorec_jax.data import splits
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Filters
from holorec_jax.evaluate import baselines, report, results, targets
from holorec_jax.experiment import examples, preparation, training
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.preparation import Data
from holorec_jax.train import writers

SHOWN_USERS = 3
SHOWN_ITEMS = 3


def evaluate(config: Config, workdir: pathlib.Path) -> None:
  """Searches for all users, measures, and writes the report."""
  data = preparation.load_data(config, workdir)
  built, sids_content = preparation.load_catalog(config, workdir, data)
  steps = training.best_steps(config, workdir, data, sids_content)
  made_from = {
    "dataset": data.content,
    "sids": sids_content,
    "checkpoints": steps,
    "search": config.section("search")["search"],
  }
  path = workdir / "results.json"
  if path.exists() and artifacts.read_json(path)["made_from"] == made_from:
    logging.info("results.json is finished")
    return
  began = time.perf_counter()
  rows = {
    "test": targets.from_positions(data.dataset, data.split.test),
    "valid": targets.from_positions(data.dataset, data.split.valid),
  }
  systems, accuracy = {}, {}
  shown: list[dict[str, Any]] = []
  for name in config.systems:
    recommender, probe = training.load_recommender(
      config, workdir, built, name, steps[name]
    )
    systems[name] = {
      split: _lists(recommender, part, f"{name}, {split}")
      for split, part in rows.items()
    }
    if probe is not None:
      accuracy[f"fine codes, {name}"] = probe.level_accuracy(
        training.histories_of(rows["valid"]), rows["valid"].items_U
      )
    shown = shown or _examples(data, built, recommender, probe, rows["test"])
  floors = baselines.baseline_lists(
    data.dataset, data.split, rows["test"], config.search.k
  )
  preparation.record_seconds(workdir, "evaluate", began)
  tree = results.build(
    systems,
    floors,
    rows,
    splits.train_item_counts(data.dataset, data.split),
    built.codes_IL,
    artifacts.read_json(workdir / "seconds.json")
    | training.train_seconds(config, workdir),
  )
  _write_report(config, workdir, built, tree, accuracy, shown)
  # Last, since it says that the evaluation is finished.
  artifacts.write_json(path, tree | {"made_from": made_from})


def _lists(
  recommender: Recommender, rows: targets.Targets, label: str
) -> targets.Lists:
  histories = training.histories_of(rows)
  kept = recommender.recommend(histories, progress=label)
  unseen = recommender.recommend(
    histories, Filters(exclude_seen=True), progress=f"{label}, unseen"
  )
  return targets.Lists(kept.items_UK, unseen.items_UK)


def _examples(
  data: Data,
  built: Catalog,
  recommender: Recommender,
  probe: Probe | None,
  rows: targets.Targets,
) -> list[dict[str, Any]]:
  """Recommendations to a few test users, the same in every run."""
  chosen = np.random.default_rng(0).permutation(len(rows))[:SHOWN_USERS]
  rows = rows.take(np.sort(chosen))
  return examples.make_examples(
    data.dataset,
    built,
    examples.name_all(data.dataset, built),
    recommender,
    probe,
    training.histories_of(rows),
    data.dataset.user_ids[rows.users_U],
    rows.items_U.tolist(),
    SHOWN_ITEMS,
  )


def _write_report(
  config: Config,
  workdir: pathlib.Path,
  built: Catalog,
  tree: dict[str, Any],
  accuracy: dict[str, list[float]],
  shown: list[dict[str, Any]],
) -> None:
  resolved = artifacts.read_json(workdir / "config.json")
  counts = tree["counts"]
  page = report.render(
    report.Contents(
      title=f"HoloRec on {config.data.name or config.data.source}",
      facts={
        "Data": f"{counts['test']} test users, {counts['items']} items,"
        f" split {config.data.split.method}",
        "Systems": ", ".join(config.systems),
        "Date": datetime.date.today().isoformat(),
        "Commit": commit(),
        "Seed": str(config.train.seed),
        "Machine": f"{platform.machine()}, {os.cpu_count()} cores",
      },
      config=config_fields.flatten(resolved),
      results=tree,
      curves=_curves(config, workdir),
      health=artifacts.read_json(workdir / "sids" / "health.json"),
      sids_IRL=built.sids_IRL,
      accuracy=accuracy,
      examples=shown,
      commands=["python " + shlex.join(sys.argv)],
    )
  )
  artifacts.write_text(workdir / "report.html", page)
  artifacts.write_json(workdir / "examples.json", shown)


def _curves(config: Config, workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Rows of metrics.jsonl; those of further systems with their names."""
  headline, *others = config.systems
  rows = writers.read_metrics(training.system_folder(config, workdir, headline))
  for name in others:
    for row in writers.read_metrics(
      training.system_folder(config, workdir, name)
    ):
      named = {f"{key} ({name})": value for key, value in row.items()}
      rows.append({"step": named.pop(f"step ({name})"), **named})
  return rows


def commit() -> str:
  """The checkout's commit, with a mark for changed files."""
  command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
  folder = pathlib.Path(__file__).parent
  try:
    done = subprocess.run(
      command, cwd=folder, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return "not a git checkout"
  return done.stdout.strip()


def summarise(config: Config, workdir: pathlib.Path) -> None:
  """Prints the metrics table, the examples and where the report is."""
  del config
  tree = artifacts.read_json(workdir / "results.json")
  print(results.metrics_table(tree))
  print()
  print(examples.as_text(artifacts.read_json(workdir / "examples.json")))
  print(f"Report: {(workdir / 'report.html').resolve()}")
