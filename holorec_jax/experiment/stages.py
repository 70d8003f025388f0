"""The stages of a run: each reads sealed folders and writes one.

  prepare_data   raw files           -> dataset/
  fit_sids       dataset/            -> vectors/, sids/
  train          dataset/, sids/     -> checkpoints/, metrics.jsonl
  evaluate       all of them         -> results.json, report.html

A finished stage is not run again; a folder made from anything else than what
this run would make it from is refused.
"""

import dataclasses
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from holorec_jax import artifacts, catalog, config_fields, manifest, sharding
from holorec_jax.data import pipeline, prepare, schema, splits
from holorec_jax.decode.recommender import Histories, Recommender
from holorec_jax.errors import UserError
from holorec_jax.evaluate import metrics, targets
from holorec_jax.experiment import published
from holorec_jax.experiment.config import SYSTEMS, Config
from holorec_jax.models.generator import Generator
from holorec_jax.quantize import collisions, fit, fitted, health
from holorec_jax.train import checkpoint, loop, seal
from holorec_jax.train.step import Codes, init_params
from holorec_jax.vectors import assemble

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Data:
  """What every later stage knows of the data.

  Attributes:
    dataset: canonical interactions.
    split: which events train and which are targets.
    content: hash of dataset/.
  """

  dataset: schema.Dataset
  split: splits.Split
  content: str


def record_seconds(workdir: pathlib.Path, stage: str, began: float) -> None:
  """Adds a stage's wall time to seconds.json."""
  path = workdir / "seconds.json"
  seconds = artifacts.read_json(path) if path.exists() else {}
  seconds[stage] = round(time.perf_counter() - began, 1)
  artifacts.write_json(path, seconds)


def _sealed(
  folder: pathlib.Path, config: dict, inputs: dict[str, str]
) -> manifest.Manifest | None:
  return manifest.check_manifest(
    folder, schema=SCHEMA, config=config, inputs=inputs
  )


def _needs(found, folder: pathlib.Path, stage: str) -> manifest.Manifest:
  if found is None:
    raise UserError(
      f"{folder} is not there: run launch/{stage}.py with the same flags"
      " first, or launch/run.py for all stages"
    )
  return found


def prepare_data(config: Config, workdir: pathlib.Path) -> None:
  """Reads, filters and writes the canonical data set."""
  folder, section = workdir / "dataset", config.section("data")
  if _sealed(folder, section, {}):
    logging.info("dataset/ is finished")
    return
  began = time.perf_counter()
  dataset = prepare.prepare(config.data)
  # A data set that cannot be split shall fail before it is written.
  splits.split_dataset(dataset, config.data.split)
  with artifacts.atomic_folder(folder) as partial:
    schema.save_dataset(dataset, partial)
    manifest.write_manifest(
      partial, stage="prepare_data", schema=SCHEMA, config=section, inputs={}
    )
  record_seconds(workdir, "prepare_data", began)


def load_data(config: Config, workdir: pathlib.Path) -> Data:
  """The prepared data; UserError if the stage has not run."""
  folder = workdir / "dataset"
  found = _sealed(folder, config.section("data"), {})
  content = _needs(found, folder, "prepare_data").content
  dataset = schema.load_dataset(folder)
  split = splits.split_dataset(dataset, config.data.split)
  return Data(dataset, split, content)


def fit_sids(config: Config, workdir: pathlib.Path) -> None:
  """Builds item vectors, fits the quantizer, writes the SID matrix."""
  data = load_data(config, workdir)
  began = time.perf_counter()
  vectors_ID, content = _vectors(config, workdir, data)
  folder = workdir / "sids"
  section = config.section("sid", "sids_path")
  if _sealed(folder, section, {"vectors": content}):
    logging.info("sids/ is finished")
    return
  with artifacts.atomic_folder(folder) as partial:
    if config.sids_path:
      sids_IRL = published.read_sids(
        config.beside_data(config.sids_path), data.dataset.item_ids
      )
      reconstruction = None
    else:
      quantizer = fit.fit(vectors_ID, config.sid)
      quantizer.save(partial)
      sids_IRL, reconstruction = quantizer.sids_IRL, quantizer.reconstruction
    report = health.report(
      sids_IRL, vectors_ID, config.sid.dims, config.sid.codes, reconstruction
    )
    if not config.sids_path:
      health.check(report, len(sids_IRL))
    np.save(partial / "sids.npy", sids_IRL)
    artifacts.write_json(partial / "health.json", report)
    manifest.write_manifest(
      partial,
      stage="fit_sids",
      schema=SCHEMA,
      config=section,
      inputs={"vectors": content},
    )
  logging.info(
    "sids: fine row collides on %.2f %% of items",
    100 * report["granularities"][-1]["collision_rate"],
  )
  record_seconds(workdir, "fit_sids", began)


def _vectors(
  config: Config, workdir: pathlib.Path, data: Data
) -> tuple[np.ndarray, str]:
  """Loads or builds the item vectors; returns them and their hash."""
  folder = workdir / "vectors"
  section = config.section("vectors")
  inputs = {"dataset": data.content}
  found = _sealed(folder, section, inputs)
  if found is None:
    located = dataclasses.replace(
      config.vectors, path=config.beside_data(config.vectors.path)
    )
    vectors_ID = assemble.build_vectors(data.dataset, data.split, located)
    with artifacts.atomic_folder(folder) as partial:
      np.save(partial / "vectors.npy", vectors_ID)
      found = manifest.write_manifest(
        partial,
        stage="vectors",
        schema=SCHEMA,
        config=section,
        inputs=inputs,
      )
  return np.load(folder / "vectors.npy"), found.content


def load_catalog(
  config: Config, workdir: pathlib.Path, data: Data
) -> tuple[catalog.Catalog, str]:
  """The catalogue with collisions handled, and the hash of sids/."""
  folder = workdir / "sids"
  if not (folder / manifest.MANIFEST).is_file():
    _needs(None, folder, "fit_sids")
  vectors_content = manifest.read_manifest(workdir / "vectors").content
  found = _sealed(
    folder, config.section("sid", "sids_path"), {"vectors": vectors_content}
  )
  sids_IRL = np.load(folder / "sids.npy")
  residuals_ID = codebook_VD = None
  if config.catalog.collisions == "reassign":
    quantizer = fitted.load(folder)
    vectors_ID = np.load(workdir / "vectors" / "vectors.npy")
    residuals_ID = quantizer.last_residuals(vectors_ID)
    codebook_VD = quantizer.codebooks_LVD[-1]
  codes_IL = collisions.resolve(
    sids_IRL[:, -1],
    config.catalog.collisions,
    config.sid.codes,
    residuals_ID,
    codebook_VD,
  )
  built = catalog.build_catalog(
    sids_IRL,
    codes_IL,
    splits.train_item_counts(data.dataset, data.split),
    config.sid.codes,
    config.catalog.smoothing,
  )
  return built, _needs(found, folder, "fit_sids").content


def system_folder(
  config: Config, workdir: pathlib.Path, name: str
) -> pathlib.Path:
  """The headline system lies in the workdir, others in systems/NAME."""
  return workdir if name == config.systems[0] else workdir / "systems" / name


def make_generator(
  config: Config, built: catalog.Catalog, name: str
) -> Generator:
  """The generator of one system of SYSTEMS."""
  thought, aligned = SYSTEMS[name]
  return Generator(
    config=dataclasses.replace(config.model, thought=thought),
    num_levels=built.codes_IL.shape[1],
    num_codes=built.num_codes,
    num_aligned=built.sids_IRL.shape[1] - 1 if aligned else 0,
  )


def histories_of(rows: targets.Targets) -> Histories:
  """Evaluation rows as histories."""
  return Histories(rows.events_E, rows.starts_U, rows.ends_U)


def train(config: Config, workdir: pathlib.Path) -> None:
  """Trains every system from its newest checkpoint to the end."""
  data = load_data(config, workdir)
  built, sids_content = load_catalog(config, workdir, data)
  for name in config.systems:
    folder = system_folder(config, workdir, name)
    config_fields.check_same_config(
      folder / "checkpoints", _made_from(config, data, sids_content)
    )
    progress = seal.read_loop(folder / "checkpoints")
    if progress is not None and progress["finished"]:
      logging.info("%s is trained", name)
      continue
    _train_system(config, data, built, name, folder)


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


def _made_from(config: Config, data: Data, sids_content: str) -> dict:
  sections = ("catalog", "input", "model", "loss", "optim", "train")
  return config.section(*sections) | {
    "inputs": {"dataset": data.content, "sids": sids_content}
  }


def best_steps(
  config: Config, workdir: pathlib.Path, data: Data, sids_content: str
) -> dict[str, int]:
  """The step of every system's best checkpoint.

  Raises:
    UserError: a system is not trained, or on other data or codes.
  """
  steps = {}
  for name in config.systems:
    folder = system_folder(config, workdir, name) / "checkpoints"
    ranked = seal.rank_by_metric(seal.read_metrics(folder))
    if not ranked:
      _needs(None, folder, "train")
    config_fields.check_same_config(
      folder, _made_from(config, data, sids_content)
    )
    steps[name] = ranked[0]
  return steps


def _train_system(
  config: Config,
  data: Data,
  built: catalog.Catalog,
  name: str,
  folder: pathlib.Path,
) -> None:
  mesh = sharding.make_mesh()
  model = make_generator(config, built, name)
  source = pipeline.make_source(
    data.dataset, data.split, config.input, mesh.size
  )
  logging.info(
    "%s: %r, %d batches an epoch, padding %.1f %%",
    name,
    source,
    source.batches_per_epoch,
    100 * source.padding_share,
  )
  rows = targets.from_positions(data.dataset, data.split.valid)
  sample = np.random.default_rng(config.train.seed).permutation(len(rows))
  rows = rows.take(np.sort(sample[: config.train.valid_users]))
  recommender = Recommender(
    model,
    {},  # every validation brings its own parameters
    built,
    mesh,
    config.input.max_history,
    config.search,
  )

  def validate(params: dict) -> dict[str, float]:
    recommender.set_params(params)
    items_UK, _ = recommender.recommend(histories_of(rows), False)
    ranks_U = metrics.target_ranks(items_UK, rows.items_U)
    return {
      f"valid/{key}": value for key, value in metrics.summarise(ranks_U).items()
    }

  codes = jax.device_put(
    Codes(jnp.asarray(built.sids_IRL), jnp.asarray(built.codes_IL)),
    sharding.replicated(mesh),
  )
  progress = loop.train(
    model,
    source,
    codes,
    validate,
    mesh,
    config.loss,
    config.optim,
    config.train,
    folder,
    name,
  )
  logging.info(
    "%s: best %s %.4f at step %d, %.0f s",
    name,
    loop.METRIC,
    progress.best,
    progress.best_step,
    progress.seconds,
  )


def load_recommender(
  config: Config, workdir: pathlib.Path, built: catalog.Catalog, name: str
) -> Recommender:
  """The best checkpoint of one system, ready to answer."""
  model = make_generator(config, built, name)
  target = jax.eval_shape(lambda: init_params(model, 0))
  params = checkpoint.restore_params(
    system_folder(config, workdir, name) / "checkpoints",
    "best",
    target,
    field="average",
  )
  mesh = sharding.make_mesh()
  return Recommender(
    model, params, built, mesh, config.input.max_history, config.search
  )
