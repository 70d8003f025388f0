"""Preference alignment: checkpoints/ of the headline system -> aligned/.

A stage of its own that starts from the best supervised checkpoint, of whatever
system generates codes. The supervised model is the first candidate, so what is
chosen by validation is never worse there; test metrics of both lie side by side
in aligned/results.json.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from holorec_jax import artifacts, config_fields, processes, sharding
from holorec_jax.catalog import Catalog
from holorec_jax.data.windows import TargetWindows
from holorec_jax.decode.engine import Engine, TreeEngine
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.errors import UserError
from holorec_jax.evaluate import intervals, metrics, targets
from holorec_jax.experiment import preparation, training
from holorec_jax.experiment.config import Config, defaults
from holorec_jax.experiment.meaning import find_meaning
from holorec_jax.experiment.preparation import Data
from holorec_jax.experiment.systems import System, make_system
from holorec_jax.experiment.target_ranks import TargetRanker
from holorec_jax.quantize.categories import leaf_categories
from holorec_jax.train import checkpoint, loop, preference_loop, seal
from holorec_jax.train.preference import (
  Ground,
  PreferenceConfig,
  PreferenceObjective,
)
from holorec_jax.train.preference_rewards import make_tables
from holorec_jax.train.preference_sampling import (
  Policy,
  SetPolicy,
  TreePolicy,
)

FOLDER = "aligned"
RESULTS = "results.json"


def make_policy(engine: Engine, name: str) -> Policy:
  """How a system draws paths; it follows from how it is searched.

  Raises:
    UserError: it generates no codes.
  """
  if isinstance(engine, TreeEngine):
    return TreePolicy(engine.model)
  if isinstance(engine, SetEngine):
    return SetPolicy(
      engine.model, "fixed" if engine.order == "fixed" else "confident"
    )
  raise UserError(
    f"config.systems[0] is {name!r}, which scores items and generates no codes:"
    " there are no paths to align. Name a generative system first."
  )


def align(
  config: Config, preference: PreferenceConfig, workdir: pathlib.Path
) -> None:
  """Aligns the headline system, from where it was stopped, and measures.

  Several processes may do so together.

  Raises:
    UserError: it is not trained, or generates no codes, or aligned/ was made
      with another config or from another checkpoint.
    Preempted: it was asked to stop, and has saved.
  """
  name = config.systems[0]
  config = dataclasses.replace(config, systems=(name,))
  data = processes.after_first(lambda: preparation.load_data(config, workdir))
  built, sids_content = processes.after_first(
    lambda: preparation.load_catalog(config, workdir, data)
  )
  step = processes.from_first(
    lambda: training.best_steps(config, workdir, data, sids_content)[name]
  )
  meaning = find_meaning(config, workdir, data, built, name)
  system = make_system(config, built, name, meaning)
  policy = make_policy(system.engine, name)
  supervised = training.system_folder(config, workdir, name) / "checkpoints"
  seal_file = supervised / str(step) / seal.SEAL
  made_from = {
    "preference": config_fields.resolved(dataclasses.asdict(preference)),
    "system": name,
    "dataset": data.content,
    "sids": sids_content,
    "checkpoint": {"step": step, "content": artifacts.hash_file(seal_file)},
  }
  folder = workdir / FOLDER
  measured_with = made_from | config.section("search")
  if processes.from_first(lambda: _claim(folder, made_from, measured_with)):
    logging.info("%s/%s is finished", FOLDER, RESULTS)
    return
  # Rows are single histories: no device has a share of one.
  mesh = sharding.make_mesh(
    shape=dataclasses.replace(config.mesh, data=-1, sequence=1)
  )
  params = _restore(system, supervised, step, mesh)
  ranker = TargetRanker(config, built, system, mesh)
  progress = _align(
    config,
    preference,
    data,
    built,
    system,
    policy,
    params,
    ranker,
    mesh,
    folder,
  )
  aligned = _restore(system, folder / "checkpoints", progress.best_step, mesh)
  table = {
    "system": name,
    "steps": {"supervised": step, "aligned": progress.best_step},
    "seconds": round(progress.seconds, 1),
    "valid": _compare(
      ranker, params, aligned, training.sample_valid(config, data), "valid"
    ),
    "test": _compare(
      ranker,
      params,
      aligned,
      targets.from_positions(data.dataset, data.split.test),
      "test",
    ),
    "made_from": measured_with,
  }
  processes.from_first(lambda: artifacts.write_json(folder / RESULTS, table))


def _claim(folder: pathlib.Path, made_from: dict, measured_with: dict) -> bool:
  """Holds aligned/ to what it is made from; whether all is done."""
  config_fields.check_same_config(folder / "checkpoints", made_from, defaults())
  path = folder / RESULTS
  if not path.exists():
    return False
  return artifacts.read_json(path)["made_from"] == measured_with


def best(workdir: pathlib.Path) -> tuple[pathlib.Path, int]:
  """Folder and step of the aligned checkpoint that validation chose.

  Raises:
    UserError: the run was not aligned, or not to its end.
  """
  path = workdir / FOLDER / RESULTS
  if not path.is_file():
    raise UserError(
      f"there is no {path}: run launch/align.py on this --workdir first"
    )
  step = artifacts.read_json(path)["steps"]["aligned"]
  return workdir / FOLDER / "checkpoints", step


def _restore(
  system: System, folder: pathlib.Path, step: int, mesh: Mesh
) -> dict:
  shapes = jax.eval_shape(lambda: system.objective.init_params(0))
  target = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    sharding.param_shardings(shapes, mesh),
  )
  return checkpoint.restore_params(folder, step, target, field="average")


def _align(
  config: Config,
  preference: PreferenceConfig,
  data: Data,
  built: Catalog,
  system: System,
  policy: Policy,
  params: dict,
  ranker: TargetRanker,
  mesh: Mesh,
  folder: pathlib.Path,
) -> loop.Progress:
  # The same for 1, 2, 4 and 8 devices, as in training.
  multiple = math.lcm(8, mesh.size)
  windows = TargetWindows(
    data.dataset,
    data.split,
    -(-preference.users // multiple) * multiple,
    config.input.max_history,
    preference.reward.window,
    preference.seed,
    processes.row_share(sharding.by_row(mesh)),
  )
  ground = Ground(
    system.codes(),
    system.engine.place(built)[1],
    make_tables(
      built.codes_IL, leaf_categories(data.dataset)[0], policy.ordered
    ),
  )
  valid = training.sample_valid(config, data)
  progress = preference_loop.align(
    preference_loop.AlignTask(
      PreferenceObjective(policy, system.objective, preference),
      params,
      windows,
      jax.device_put(ground, sharding.replicated(mesh)),
      lambda params: ranker.validate(params, valid),
      mesh,
      config.optim,
      config.train.dtype,
      folder,
      f"{config.systems[0]}, {FOLDER}",
    )
  )
  logging.info(
    "%s, aligned: best %s %.4f at step %d, %.0f s",
    config.systems[0],
    loop.METRIC,
    progress.best,
    progress.best_step,
    progress.seconds,
  )
  return progress


def _compare(
  ranker: TargetRanker,
  supervised: dict,
  aligned: dict,
  rows: targets.Targets,
  split: str,
) -> dict[str, Any]:
  """Metrics of both, and aligned minus supervised with 95 % intervals."""
  table: dict[str, Any] = {"users": len(rows)}
  for seen in ("kept", "removed"):
    rank_U, other_U = (
      ranker.ranks(params, rows, seen == "removed", f"{which}, {split}")
      for which, params in (("aligned", aligned), ("supervised", supervised))
    )
    table[seen] = {
      "supervised": metrics.summarise(other_U),
      "aligned": metrics.summarise(rank_U),
      "gain": intervals.paired_difference(rank_U, other_U),
    }
  return table


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
