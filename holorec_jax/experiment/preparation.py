"""The stages before training: raw files -> dataset/ -> vectors/ -> sids/.

Each reads sealed folders and writes one. A finished stage is not run again; a
folder made from anything else than what this run would make it from is refused.
"""

import dataclasses
import pathlib
import time

import numpy as np
from absl import logging

from holorec_jax import artifacts, catalog, manifest
from holorec_jax.data import prepare, schema, splits
from holorec_jax.errors import UserError
from holorec_jax.experiment import published
from holorec_jax.experiment.config import Config
from holorec_jax.quantize import collisions, fit, fitted, health
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


def needs(
  found: manifest.Manifest | None, folder: pathlib.Path, stage: str
) -> manifest.Manifest:
  """The manifest of a stage that must have run; else says which to run."""
  if found is None:
    raise UserError(
      f"{folder} is not there: run launch/{stage}.py with the same flags"
      " first, or launch/run.py for all stages"
    )
  return found


def prepare_data(config: Config, workdir: pathlib.Path) -> None:
  """Reads, filters and writes the canonical data set."""
  folder = workdir / "dataset"
  if _sealed_dataset(config, folder):
    logging.info("dataset/ is finished")
    return
  began = time.perf_counter()
  dataset = prepare.prepare(config.data)
  # A data set that cannot be split shall fail before it is written.
  splits.split_dataset(dataset, config.data.split)
  with artifacts.atomic_folder(folder) as partial:
    schema.save_dataset(dataset, partial)
    manifest.write_manifest(
      partial,
      stage="prepare_data",
      schema=SCHEMA,
      config=config.section("data"),
      inputs=_outside_hash(folder, "raw", config.data.path),
    )
  record_seconds(workdir, "prepare_data", began)


def _sealed_dataset(
  config: Config, folder: pathlib.Path
) -> manifest.Manifest | None:
  return manifest.check_manifest(
    folder,
    schema=SCHEMA,
    config=config.section("data"),
    inputs=_outside_hash(folder, "raw", config.data.path),
  )


def _outside_hash(folder: pathlib.Path, name: str, path: str) -> dict[str, str]:
  """{name: hash} of an input from outside the workdir; {} without a path.

  A folder counts by the names and sizes of its files. What has gone since
  `folder` was made from it is taken on trust.
  """
  outside = pathlib.Path(path)
  if not path:
    return {}
  if outside.is_file():
    return {name: artifacts.hash_file(outside)}
  if outside.is_dir():
    sizes = {p.name: p.stat().st_size for p in outside.iterdir() if p.is_file()}
    return {name: artifacts.hash_json(sizes)}
  if (folder / manifest.MANIFEST).is_file():
    recorded = manifest.read_manifest(folder).inputs
    return {name: recorded[name]} if name in recorded else {}
  return {}


def load_data(config: Config, workdir: pathlib.Path) -> Data:
  """The prepared data; UserError if the stage has not run."""
  folder = workdir / "dataset"
  content = needs(
    _sealed_dataset(config, folder), folder, "prepare_data"
  ).content
  dataset = schema.load_dataset(folder)
  split = splits.split_dataset(dataset, config.data.split)
  return Data(dataset, split, content)


def fit_sids(config: Config, workdir: pathlib.Path) -> None:
  """Builds item vectors, fits the quantizer, writes the SID matrix."""
  data = load_data(config, workdir)
  began = time.perf_counter()
  vectors_ID = _vectors(config, workdir, data)
  folder = workdir / "sids"
  if _sealed_sids(config, workdir, data):
    logging.info("sids/ is finished")
    return
  with artifacts.atomic_folder(folder) as partial:
    report = _write_sids(config, data, vectors_ID, partial)
    manifest.write_manifest(
      partial,
      stage="fit_sids",
      schema=SCHEMA,
      config=config.section("sid", "sids_path"),
      inputs=_sids_inputs(config, workdir, data),
    )
  logging.info(
    "sids: fine row collides on %.2f %% of items",
    100 * report["granularities"][-1]["collision_rate"],
  )
  record_seconds(workdir, "fit_sids", began)


def _write_sids(
  config: Config, data: Data, vectors_ID: np.ndarray, folder: pathlib.Path
) -> dict:
  """Writes sids.npy, health.json and the quantizer; returns the health."""
  if config.sids_path:
    sids_IRL = published.read_sids(
      config.beside_data(config.sids_path), data.dataset.item_ids
    )
    report = published.report_health(sids_IRL, vectors_ID)
  else:
    quantizer = fit.fit(vectors_ID, config.sid)
    quantizer.save(folder)
    sids_IRL = quantizer.sids_IRL
    report = health.report(
      sids_IRL,
      vectors_ID,
      config.sid.dims,
      config.sid.codes,
      quantizer.reconstruction,
    )
    health.check(report, len(sids_IRL))
  np.save(folder / "sids.npy", sids_IRL)
  artifacts.write_json(folder / "health.json", report)
  return report


def _vectors(config: Config, workdir: pathlib.Path, data: Data) -> np.ndarray:
  """Loads the item vectors, or builds and writes them first."""
  folder = workdir / "vectors"
  if _sealed_vectors(config, workdir, data) is None:
    located = dataclasses.replace(
      config.vectors,
      path=config.beside_data(config.vectors.path),
      ids_path=config.beside_data(config.vectors.ids_path),
    )
    vectors_ID = assemble.build_vectors(data.dataset, data.split, located)
    with artifacts.atomic_folder(folder) as partial:
      np.save(partial / "vectors.npy", vectors_ID)
      manifest.write_manifest(
        partial,
        stage="fit_sids",
        schema=SCHEMA,
        config=config.section("vectors"),
        inputs=_vectors_inputs(config, folder, data),
      )
  return np.load(folder / "vectors.npy")


def _vectors_inputs(
  config: Config, folder: pathlib.Path, data: Data
) -> dict[str, str]:
  path = config.beside_data(config.vectors.path)
  return {"dataset": data.content} | _outside_hash(folder, "file", path)


def _sealed_vectors(
  config: Config, workdir: pathlib.Path, data: Data
) -> manifest.Manifest | None:
  folder = workdir / "vectors"
  return manifest.check_manifest(
    folder,
    schema=SCHEMA,
    config=config.section("vectors"),
    inputs=_vectors_inputs(config, folder, data),
  )


def _sids_inputs(
  config: Config, workdir: pathlib.Path, data: Data
) -> dict[str, str]:
  folder = workdir / "vectors"
  vectors = needs(_sealed_vectors(config, workdir, data), folder, "fit_sids")
  path = config.beside_data(config.sids_path)
  return {"vectors": vectors.content} | _outside_hash(
    workdir / "sids", "file", path
  )


def _sealed_sids(
  config: Config, workdir: pathlib.Path, data: Data
) -> manifest.Manifest | None:
  return manifest.check_manifest(
    workdir / "sids",
    schema=SCHEMA,
    config=config.section("sid", "sids_path"),
    inputs=_sids_inputs(config, workdir, data),
  )


def load_catalog(
  config: Config, workdir: pathlib.Path, data: Data
) -> tuple[catalog.Catalog, str]:
  """The catalogue with collisions handled, and the hash of sids/."""
  folder = workdir / "sids"
  content = needs(
    _sealed_sids(config, workdir, data), folder, "fit_sids"
  ).content
  sids_IRL = np.load(folder / "sids.npy")
  num_codes = config.sid.codes
  if config.sids_path:
    num_codes = published.count_codes(sids_IRL)
  residuals_ID = codebook_VD = None
  if config.catalog.collisions == "reassign":
    quantizer = fitted.load(folder)
    vectors_ID = np.load(workdir / "vectors" / "vectors.npy")
    residuals_ID = quantizer.last_residuals(vectors_ID)
    codebook_VD = quantizer.codebooks_LVD[-1]
  codes_IL = collisions.resolve(
    sids_IRL[:, -1],
    config.catalog.collisions,
    num_codes,
    residuals_ID,
    codebook_VD,
  )
  built = catalog.build_catalog(
    sids_IRL,
    codes_IL,
    splits.train_item_counts(data.dataset, data.split),
    num_codes,
    config.catalog.smoothing,
  )
  return built, content
