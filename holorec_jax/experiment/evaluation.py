"""The last stage: lists of every system, their numbers and the report.

It writes report.html, examples.json, ranks.npz (`results.flat_ranks`) and, at
last, results.json.
"""

import dataclasses
import datetime
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import logging

from holorec_jax import artifacts, config_fields
from holorec_jax.catalog import Catalog
from holorec_jax.data import splits
from holorec_jax.decode.probe import Clusters, Probe
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Filters
from holorec_jax.evaluate import baselines, report, results, targets
from holorec_jax.experiment import examples, preparation, training
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.meaning import Meaning, find_meaning
from holorec_jax.experiment.preparation import Data
from holorec_jax.experiment.systems import make_system
from holorec_jax.train import s2gr_loss, writers

RANKS = "ranks.npz"
SHOWN_USERS = 3
SHOWN_ITEMS = 3


@dataclasses.dataclass
class _Answers:
  """What the systems say.

  Attributes:
    lists: system -> split -> lists.
    accuracy: system -> "codes", "prefixes", "clusters" -> accuracy of each
      level, on validation; of systems that have levels.
    search_ms: system -> milliseconds a test user.
    examples: of the first system.
  """

  lists: dict[str, dict[str, targets.Lists]] = dataclasses.field(
    default_factory=dict
  )
  accuracy: dict[str, dict[str, list[float]]] = dataclasses.field(
    default_factory=dict
  )
  search_ms: dict[str, float] = dataclasses.field(default_factory=dict)
  examples: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def evaluate(config: Config, workdir: pathlib.Path) -> None:
  """Searches for all users, measures, and writes the report."""
  data = preparation.load_data(config, workdir)
  built, sids_content = preparation.load_catalog(config, workdir, data)
  best = training.best_checkpoints(config, workdir, data, sids_content)
  made_from = {
    "dataset": data.content,
    "sids": sids_content,
    "checkpoints": best,
    "search": config.section("search")["search"],
    "baselines": config.baselines,
  }
  path, ranks_path = workdir / "results.json", workdir / RANKS
  known = path.exists() and ranks_path.exists()
  if known and artifacts.read_json(path)["made_from"] == made_from:
    logging.info("results.json is finished")
    return
  began = time.perf_counter()
  rows = {
    "test": targets.from_positions(data.dataset, data.split.test),
    "valid": targets.from_positions(data.dataset, data.split.valid),
  }
  answers = _Answers()
  for name in config.systems:
    recommender, probe = training.load_recommender(
      config, workdir, data, built, name, best[name]["step"]
    )
    answers.lists[name], answers.search_ms[name] = _search(
      recommender, rows, name, config.search.batch
    )
    if probe is not None:
      meaning = find_meaning(config, workdir, data, built, name)
      answers.accuracy[name] = probe.accuracy(
        rows["valid"].histories,
        rows["valid"].items_U,
        _clusters(meaning, recommender.params),
      )
    answers.examples = answers.examples or _examples(
      data, built, recommender, probe, rows["test"]
    )
  floors = {}
  if config.baselines:
    floors = baselines.baseline_lists(
      data.dataset, data.split, rows["test"], config.search.k
    )
  preparation.record_seconds(workdir, "evaluate", began)
  tree = results.build(
    answers.lists,
    floors,
    rows,
    splits.train_item_counts(data.dataset, data.split),
    built.codes_IL,
    artifacts.read_json(workdir / "seconds.json")
    | training.train_seconds(config, workdir),
  ) | {
    "parameters": {
      name: _count_parameters(config, built, name) for name in config.systems
    },
    "search_ms_per_user": answers.search_ms,
    "valid_accuracy": answers.accuracy,
  }
  _write_report(config, workdir, data, built, tree, answers)
  ranks = results.flat_ranks(answers.lists, floors, rows, built.codes_IL)
  with artifacts.atomic_file(ranks_path) as file:
    np.savez_compressed(file, **ranks)  # type: ignore[arg-type]
  # Last, since it says that the evaluation is finished.
  artifacts.write_json(path, tree | {"made_from": made_from})


def _clusters(meaning: Meaning, params: dict) -> Clusters | None:
  """Where S2GR's thoughts should point; None for other systems."""
  if meaning.cluster_LV is None:
    return None
  centre_LQD = [
    np.asarray(s2gr_loss.cluster_centres(embedding_VD, cluster_V))
    for embedding_VD, cluster_V in zip(
      params["code_embedding"], meaning.cluster_LV
    )
  ]
  return Clusters(meaning.cluster_LV, centre_LQD)


def _search(
  recommender: Recommender,
  rows: dict[str, targets.Targets],
  name: str,
  batch: int,
) -> tuple[dict[str, targets.Lists], float]:
  """The lists of every split, and milliseconds per user of the test's."""
  # One batch compiles, so that the time of the others is that of search.
  first = rows["test"].take(slice(batch))
  recommender.recommend(first.histories)
  lists, seconds = {}, {}
  for split, part in rows.items():
    lists[split], seconds[split] = _lists(recommender, part, f"{name}, {split}")
  return lists, 1000 * seconds["test"] / max(len(rows["test"]), 1)


def _lists(
  recommender: Recommender, rows: targets.Targets, label: str
) -> tuple[targets.Lists, float]:
  """Both lists of every row, and the seconds that those of all items took."""
  histories = rows.histories
  began = time.perf_counter()
  kept = recommender.recommend(histories, progress=label)
  seconds = time.perf_counter() - began
  unseen = recommender.recommend(
    histories, Filters(exclude_seen=True), progress=f"{label}, unseen"
  )
  return targets.Lists(kept.items_UK, unseen.items_UK), seconds


def _count_parameters(config: Config, built: Catalog, name: str) -> int:
  objective = make_system(config, built, name).objective
  shapes = jax.eval_shape(lambda: objective.init_params(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


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
    rows.histories,
    data.dataset.user_ids[rows.users_U],
    rows.items_U.tolist(),
    SHOWN_ITEMS,
  )


def _write_report(
  config: Config,
  workdir: pathlib.Path,
  data: Data,
  built: Catalog,
  tree: dict[str, Any],
  answers: _Answers,
) -> None:
  resolved = artifacts.read_json(workdir / "config.json")
  counts = tree["counts"]
  page = report.render(
    report.Contents(
      title=f"{config.systems[0]} on {config.data.name or config.data.source}",
      facts={
        "Data": f"{data.dataset.name}: {data.dataset.num_users:,} users,"
        f" {counts['items']:,} items, {data.dataset.num_events:,} events;"
        f" split {config.data.split.method}, {counts['test']:,} test users",
        "Vectors": ", ".join(config.vectors.sources),
        "Codes": f"{config.sids_path or config.sid.quantizer},"
        f" {built.codes_IL.shape[1]} levels of {built.num_codes}",
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
      accuracy={
        f"{kind}, {name}": values
        for name, kinds in answers.accuracy.items()
        for kind, values in kinds.items()
      },
      examples=answers.examples,
      commands=["python " + shlex.join(sys.argv)],
    )
  )
  artifacts.write_text(workdir / "report.html", page)
  artifacts.write_json(workdir / "examples.json", answers.examples)


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
