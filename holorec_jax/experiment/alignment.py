"""Preference alignment: checkpoints/ of the headline system -> aligned/.

A stage of its own that starts from the best supervised checkpoint, of whatever
system generates codes. The supervised model is the first candidate, so what is
chosen by validation is never worse there. Metrics of both lie side by side in
aligned/results.json and, with the learning curves, in aligned/report.html; the
aligned ranks are in aligned/ranks.npz.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import numpy as np
from absl import logging

from holorec_jax import artifacts, config_fields, processes, sharding
from holorec_jax.catalog import Catalog
from holorec_jax.data.windows import TargetWindows
from holorec_jax.decode.engine import Engine, TreeEngine
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.errors import UserError
from holorec_jax.evaluate import intervals, metrics, report, targets
from holorec_jax.experiment import preparation, training
from holorec_jax.experiment.config import Config, defaults
from holorec_jax.experiment.evaluation import RANKS
from holorec_jax.experiment.meaning import find_meaning
from holorec_jax.experiment.preparation import Data
from holorec_jax.experiment.systems import generates_codes, make_system
from holorec_jax.experiment.target_ranks import TargetRanker
from holorec_jax.quantize.categories import leaf_categories
from holorec_jax.train import checkpoint, loop, preference_loop, writers
from holorec_jax.train.preference import Ground, PreferenceObjective
from holorec_jax.train.preference_rewards import make_tables
from holorec_jax.train.preference_sampling import (
  Policy,
  SetPolicy,
  TreePolicy,
)

FOLDER = "aligned"
RESULTS = "results.json"
REPORT = "report.html"


def check_generates(name: str) -> None:
  """Raises UserError if the system of a name generates no codes."""
  if not generates_codes(name):
    raise UserError(
      f"config.systems[0] is {name!r}, which scores items and generates no"
      " codes: there are no paths to align. Name a generative system first."
    )


def make_policy(engine: Engine) -> Policy:
  """How a system draws paths; it follows from how it is searched."""
  if isinstance(engine, TreeEngine):
    return TreePolicy(engine.model)
  assert isinstance(engine, SetEngine), engine
  return SetPolicy(
    engine.model, "fixed" if engine.order == "fixed" else "confident"
  )


def align(config: Config, workdir: pathlib.Path) -> None:
  """Aligns the headline system, from where it was stopped, and measures.

  Several processes may do so together.

  Raises:
    UserError: it is not trained, or generates no codes, or aligned/ was made
      with another config or from another checkpoint.
    Preempted: it was asked to stop, and has saved.
  """
  name = config.systems[0]
  check_generates(name)
  config = dataclasses.replace(config, systems=(name,))
  data = processes.after_first(lambda: preparation.load_data(config, workdir))
  built, sids_content = processes.after_first(
    lambda: preparation.load_catalog(config, workdir, data)
  )
  supervised = training.system_folder(config, workdir, name) / "checkpoints"
  aligner = _Aligner(config, workdir, data, built)
  best = processes.from_first(
    lambda: training.best_checkpoints(config, workdir, data, sids_content)
  )
  start = _start(name, data, sids_content, best)
  preference = config_fields.resolved(dataclasses.asdict(config.preference))
  made_from = {"preference": preference} | start
  folder = workdir / FOLDER
  measured_with = made_from | config.section("search")
  if processes.from_first(lambda: _claim(folder, made_from, measured_with)):
    logging.info("%s/%s is finished", FOLDER, RESULTS)
    return
  params = aligner.restore(supervised, best[name]["step"])
  progress = aligner.align(params, folder)
  aligned = aligner.restore(folder / "checkpoints", progress.best_step)
  table, ranks = aligner.compare(params, aligned)
  results = {
    "system": name,
    "steps": {
      "supervised": best[name]["step"],
      "aligned": progress.best_step,
    },
    "seconds": round(progress.seconds, 1),
    **table,
    "made_from": measured_with,
  }

  def write() -> None:
    (folder / RESULTS).unlink(missing_ok=True)
    with artifacts.atomic_file(folder / RANKS) as file:
      np.savez_compressed(file, **ranks)  # type: ignore[arg-type]
    page = report.render_aligned(
      f"{config.data.name}: {name}, aligned",
      results,
      writers.read_metrics(folder),
    )
    artifacts.write_text(folder / REPORT, page)
    # Last, since it says that all is finished.
    artifacts.write_json(folder / RESULTS, results)

  processes.from_first(write)


def _start(
  name: str, data: Data, sids_content: str, best: dict[str, dict[str, Any]]
) -> dict[str, Any]:
  """What alignment of a system starts from, as JSON."""
  return {
    "system": name,
    "dataset": data.content,
    "sids": sids_content,
    "checkpoint": best[name],
  }


def _claim(folder: pathlib.Path, made_from: dict, measured_with: dict) -> bool:
  """Holds aligned/ to what it is made from; whether all is done."""
  config_fields.check_same_config(folder / "checkpoints", made_from, defaults())
  path = folder / RESULTS
  if not path.exists() or not (folder / RANKS).exists():
    return False
  return artifacts.read_json(path)["made_from"] == measured_with


def chosen(
  config: Config,
  workdir: pathlib.Path,
  data: Data,
  sids_content: str,
  best: dict[str, dict[str, Any]],
) -> tuple[pathlib.Path, int]:
  """Folder and step of the aligned checkpoint that validation chose.

  Args:
    config: of the run.
    workdir: of the run.
    data: of the run.
    sids_content: hash of its codes.
    best: its supervised checkpoints (`training.best_checkpoints`).

  Raises:
    UserError: the run was not aligned, or not to its end, or from another
      checkpoint than its best one, of other data or codes perhaps.
  """
  path = workdir / FOLDER / RESULTS
  if not path.is_file():
    raise UserError(
      f"there is no {path}: run launch/align.py on this --workdir first"
    )
  results = artifacts.read_json(path)
  start = _start(config.systems[0], data, sids_content, best)
  stored = {key: results["made_from"].get(key) for key in start}
  if lines := config_fields.diff(stored, start):
    raise UserError(
      f"{workdir / FOLDER} was aligned from what is there no more:\n  "
      + "\n  ".join(lines)
      + "\nDelete that folder and run launch/align.py again."
    )
  return workdir / FOLDER / "checkpoints", results["steps"]["aligned"]


class _Aligner:
  """The headline system on its mesh, with the users that it is judged by."""

  def __init__(
    self,
    config: Config,
    workdir: pathlib.Path,
    data: Data,
    built: Catalog,
  ):
    name = config.systems[0]
    meaning = find_meaning(config, workdir, data, built, name)
    self._system = make_system(config, built, name, meaning)
    self._policy = make_policy(self._system.engine)
    self._config = config
    self._data, self._built = data, built
    shape = config.mesh
    if shape.sequence > 1:
      # Rows are single histories: no device has a share of one.
      shape = dataclasses.replace(shape, data=-1, sequence=1)
    self._mesh = sharding.make_mesh(shape=shape)
    self._ranker = TargetRanker(config, built, self._system, self._mesh)
    self._rows = {
      # The sample that training validates on.
      "valid": training.sample_valid(config, data),
      "test": targets.from_positions(data.dataset, data.split.test),
    }

  def restore(self, folder: pathlib.Path, step: int) -> dict:
    """Averaged parameters of a checkpoint, stored as training stores them."""
    shapes = jax.eval_shape(lambda: self._system.objective.init_params(0))
    target = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes,
      sharding.param_shardings(shapes, self._mesh),
    )
    return checkpoint.restore_params(folder, step, target, field="average")

  def align(self, params: dict, folder: pathlib.Path) -> loop.Progress:
    """From the newest checkpoint in the folder, or from these parameters."""
    config, name = self._config, self._config.systems[0]
    progress = preference_loop.align(
      preference_loop.AlignTask(
        PreferenceObjective(
          self._policy, self._system.objective, self._config.preference
        ),
        params,
        self._windows(),
        sharding.put(self._ground(), sharding.replicated(self._mesh)),
        lambda params: self._ranker.validate(params, self._rows["valid"]),
        self._mesh,
        config.optim,
        config.train.dtype,
        folder,
        f"{name}, {FOLDER}",
      )
    )
    logging.info(
      "%s, aligned: best %s %.4f at step %d, %.0f s",
      name,
      loop.METRIC,
      progress.best,
      progress.best_step,
      progress.seconds,
    )
    return progress

  def _windows(self) -> TargetWindows:
    # The same for 1, 2, 4 and 8 devices, as in training.
    multiple = math.lcm(8, self._mesh.size)
    return TargetWindows(
      self._data.dataset,
      self._data.split,
      -(-self._config.preference.users // multiple) * multiple,
      self._config.input.max_history,
      self._config.preference.reward.window,
      self._config.preference.seed,
      processes.row_share(sharding.by_row(self._mesh)),
    )

  def _ground(self) -> Ground:
    category_I, names = leaf_categories(self._data.dataset)
    reward = self._config.preference.reward
    if not names and (reward.category_hit or reward.consistency):
      logging.warning(
        "no item has a category (config.data.text_columns names no column"
        " 'categories'): the rewards category_hit and consistency are 0"
      )
    return Ground(
      self._system.codes(),
      self._system.engine.place(self._built)[1],
      make_tables(self._built.codes_IL, category_I, self._policy.ordered),
    )

  def compare(
    self, supervised: dict, aligned: dict
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures both on each split.

    Returns:
      Metrics of both and aligned minus supervised, with 95 % intervals; and the
      aligned ranks of test, named as in `results.flat_ranks`.
    """
    both = {"supervised": supervised, "aligned": aligned}
    table: dict[str, Any] = {}
    test: dict[str, np.ndarray] = {}
    for split, rows in self._rows.items():
      table[split] = {"users": len(rows)}
      for seen in ("kept", "removed"):
        unseen = seen == "removed"
        ranks = {
          which: self._ranker.ranks(params, rows, unseen, f"{which}, {split}")
          for which, params in both.items()
        }
        table[split][seen] = {
          **{
            which: metrics.summarise(rank_U) for which, rank_U in ranks.items()
          },
          "gain": intervals.paired_difference(
            ranks["aligned"], ranks["supervised"]
          ),
        }
        if split == "test":
          protocol = "item_unseen" if unseen else "item"
          test[f"{FOLDER}/test/{protocol}"] = ranks["aligned"]
    return table, test


def summarise(workdir: pathlib.Path) -> None:
  """Prints supervised and aligned side by side."""
  tree = artifacts.read_json(workdir / FOLDER / RESULTS)
  steps = tree["steps"]
  print(
    f"{tree['system']}: aligned step {steps['aligned']} against the supervised"
    f" checkpoint {steps['supervised']}"
  )
  for split in ("valid", "test"):
    for seen in ("kept", "removed"):
      part = tree[split][seen]
      for name in ("recall@10", "ndcg@10"):
        gain, low, high = part["gain"][name]
        print(
          f"  {split:5s} seen {seen:7s} {metrics.title(name):9s}"
          f" {part['supervised'][name]:.4f} -> {part['aligned'][name]:.4f}"
          f"  ({gain:+.4f}, 95 % {low:+.4f} .. {high:+.4f})"
        )
  print(f"Report: {workdir / FOLDER / REPORT}")
