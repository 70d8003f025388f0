"""The training stage: dataset/ and sids/ -> checkpoints/ of every system."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from holorec_jax import (
  artifacts,
  catalog,
  config_fields,
  processes,
  sharding,
)
from holorec_jax.data import pipeline
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.recommender import Recommender
from holorec_jax.errors import UserError
from holorec_jax.evaluate import targets
from holorec_jax.experiment import preparation
from holorec_jax.experiment.config import (
  MADE_FROM,
  SYSTEMS,
  Config,
  defaults,
  free,
)
from holorec_jax.experiment.meaning import (
  Meaning,
  find_categories,
  find_meaning,
)
from holorec_jax.experiment.preparation import Data
from holorec_jax.experiment.systems import System, make_system
from holorec_jax.experiment.target_ranks import TargetRanker
from holorec_jax.models import hf_qwen3
from holorec_jax.train import checkpoint, loop, seal


def system_folder(
  config: Config, workdir: pathlib.Path, name: str
) -> pathlib.Path:
  """The headline system lies in the workdir, others in systems/NAME."""
  return workdir if name == config.systems[0] else workdir / "systems" / name


def sample_valid(config: Config, data: Data) -> targets.Targets:
  """The validation users of training and alignment."""
  rows = targets.from_positions(data.dataset, data.split.valid)
  sample = np.random.default_rng(config.train.seed).permutation(len(rows))
  return rows.take(np.sort(sample[: config.train.valid_users]))


def train(
  config: Config,
  workdir: pathlib.Path,
  profile: tuple[int, int] | None = None,
) -> None:
  """Trains every system from its newest whole checkpoint to the end.

  Several processes may do so together.

  Args:
    config: of the run.
    workdir: of the run.
    profile: first and last step to trace; None: none is.
  """
  data = processes.after_first(lambda: preparation.load_data(config, workdir))
  # The first may have a large tree to keep, which the others then map.
  built, sids_content = processes.after_first(
    lambda: preparation.load_catalog(config, workdir, data)
  )
  for name in config.systems:
    folder = system_folder(config, workdir, name)
    made_from = _made_from(config, data, sids_content, name)
    progress = processes.from_first(
      functools.partial(_claim, folder / "checkpoints", made_from, name)
    )
    if progress is not None and progress["finished"]:
      no_trace = ", so --profile has no step to trace" if profile else ""
      logging.info("%s is trained%s", name, no_trace)
      continue
    meaning = find_meaning(config, workdir, data, built, name)
    system = make_system(config, built, name, meaning)
    _train_system(config, data, built, system, name, folder, profile)


def _claim(
  folder: pathlib.Path, made_from: dict, name: str
) -> Mapping[str, Any] | None:
  """Holds checkpoints to what they are made from; the loop's newest state."""
  if seal.read_metrics(folder):
    config_fields.check_same_config(folder, made_from, defaults(), free([name]))
  else:
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(folder / "config.json", made_from)
  return seal.read_loop(folder)


def train_seconds(config: Config, workdir: pathlib.Path) -> dict[str, float]:
  """Training time of every system, restarts included, and their sum."""
  seconds = {}
  for name in config.systems:
    folder = system_folder(config, workdir, name) / "checkpoints"
    progress = seal.read_loop(folder)
    seconds[f"train/{name}"] = (
      round(progress["seconds"], 1) if progress else 0.0
    )
  return {"train": sum(seconds.values()), **seconds}


def _made_from(
  config: Config, data: Data, sids_content: str, name: str
) -> dict:
  common = [part for part in MADE_FROM["checkpoints"] if part != "systems"]
  sections = (*common, *SYSTEMS[name])
  return config.section(*sections) | {
    "inputs": {"dataset": data.content, "sids": sids_content}
  }


def best_checkpoints(
  config: Config, workdir: pathlib.Path, data: Data, sids_content: str
) -> dict[str, dict[str, Any]]:
  """{"step", "content"} of every system's best whole checkpoint.

  Raises:
    UserError: a system is not trained, or on other data or codes, or none of
      its checkpoints is whole.
  """
  found = {}
  for name in config.systems:
    folder = system_folder(config, workdir, name) / "checkpoints"
    step = seal.best_whole(folder)
    progress = seal.read_loop(folder)
    if step is None or progress is None:
      raise preparation.missing(folder, "train")
    if not progress["finished"]:
      logging.warning(
        "%s is not trained to its end: launch/train.py goes on with it", name
      )
    made_from = _made_from(config, data, sids_content, name)
    config_fields.check_same_config(folder, made_from, defaults(), free([name]))
    found[name] = seal.identify(folder, step)
  return found


def _train_system(
  config: Config,
  data: Data,
  built: catalog.Catalog,
  system: System,
  name: str,
  folder: pathlib.Path,
  profile: tuple[int, int] | None,
) -> None:
  mesh = sharding.make_mesh(shape=config.mesh)
  share = processes.row_share(sharding.by_row(mesh))
  source = pipeline.make_source(
    data.dataset,
    data.split,
    config.input,
    sharding.row_shards(mesh) * config.optim.accumulate,
    share,
  )
  logging.info(
    "%s: %r, %d batches an epoch, padding %.1f %%",
    name,
    source,
    source.batches_per_epoch,
    100 * source.padding_share,
  )
  if advice := source.advise():
    logging.warning("%s: %s", name, advice)
  ranker = TargetRanker(config, built, system, mesh)
  valid = sample_valid(config, data)
  loop.train(
    loop.Task(
      system.objective,
      source,
      sharding.put(system.codes(), sharding.replicated(mesh)),
      lambda params: ranker.validate(params, valid),
      mesh,
      config.optim,
      config.train,
      folder,
      name,
      profile,
      _find_initial(config, system, name),
    )
  )


def _find_initial(
  config: Config, system: System, name: str
) -> Callable[[], dict[str, dict]] | None:
  """Reads what training starts from, if that is not random."""
  folder = config.train.init_from
  if not folder:
    return None
  if system.generator is None:
    raise UserError(
      f"config.train.init_from starts generators from Qwen3's layers, and"
      f" {name!r} has none: leave it empty, or take this system out of"
      " config.systems."
    )
  shape = system.generator.config
  # At once, also where a checkpoint makes reading unnecessary.
  hf_qwen3.check_shape(folder, shape)
  return lambda: {"decoder": hf_qwen3.load_qwen3(folder, shape)}


def load_recommender(
  config: Config,
  workdir: pathlib.Path,
  data: Data,
  built: catalog.Catalog,
  name: str,
  step: int,
  folder: pathlib.Path | None = None,
) -> tuple[Recommender, Probe | None]:
  """One system, ready to answer from a checkpoint.

  Args:
    config: of the run.
    workdir: of the run.
    data: of the run.
    built: its catalogue.
    name: the system's.
    step: of the checkpoint, such as `best_checkpoints` names.
    folder: of checkpoints; None: those of training.

  Returns:
    The recommender, and the probe of its levels where it has some.
  """
  folder = folder or system_folder(config, workdir, name) / "checkpoints"
  # Clusters are for training alone.
  category_LV = find_categories(config, data, built, name)
  system = make_system(config, built, name, Meaning(category_LV=category_LV))
  target = jax.eval_shape(lambda: system.objective.init_params(0))
  params = checkpoint.restore_params(folder, step, target, field="average")
  mesh, width = sharding.make_mesh(), config.input.max_history
  recommender = Recommender(
    system.engine, params, built, mesh, width, config.search
  )
  probe = None
  if system.generator is not None:
    probe = Probe(system.generator, params, built, mesh, width)
  return recommender, probe
