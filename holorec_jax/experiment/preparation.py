"""The stages before training: raw files -> dataset/ -> vectors/ -> sids/.

Each reads sealed folders and writes one. A finished stage is not run again; a
folder made from anything else than what this run would make it from is refused.
What comes from outside the workdir counts by the bytes of the files that are
read, and by nothing that lies beside them.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging

from holorec_jax import artifacts, catalog, manifest, neighbours, processes
from holorec_jax.data import prepare, readers, schema, splits
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError
from holorec_jax.experiment import kept_tree, mirror, published
from holorec_jax.experiment.config import FREE, Config
from holorec_jax.quantize import collisions, health, quantizers
from holorec_jax.vectors import assemble, encode
from holorec_jax.vectors.assemble import VectorConfig

SCHEMA = 2
SIDS_SECTIONS = ("sid", "sids_path")


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


def missing(folder: pathlib.Path, stage: str) -> UserError:
  """What to say of a stage that must run first."""
  return UserError(
    f"{folder} is not there: run launch/{stage}.py with the same flags"
    " first, or launch/run.py for all stages"
  )


def needs(
  found: manifest.Manifest | None, folder: pathlib.Path, stage: str
) -> manifest.Manifest:
  """The manifest of a stage that must have run; else says which to run."""
  if found is None:
    raise missing(folder, stage)
  return found


def prepare_data(
  config: Config,
  workdir: pathlib.Path,
  execute: Callable[[DataConfig], schema.Dataset] = prepare.prepare,
) -> None:
  """Reads, filters and writes the canonical data set.

  Args:
    config: the run's.
    workdir: where dataset/ goes.
    execute: does the work; all executors give the same, so none is recorded.
  """
  folder = workdir / "dataset"
  if _sealed_dataset(config, workdir):
    logging.info("dataset/ is finished")
    return
  began = time.perf_counter()
  mirror.fetch_data(config, workdir)
  dataset = execute(mirror.near(config, workdir).data)
  # A data set that cannot be split shall fail before it is written.
  splits.split_dataset(dataset, config.data.split)
  inputs = _dataset_inputs(config, workdir)
  with artifacts.atomic_folder(folder) as partial:
    schema.save_dataset(dataset, partial)
    _seal(config, partial, ("data",), inputs, "prepare_data")
  record_seconds(workdir, "prepare_data", began)


def _dataset_inputs(
  config: Config, workdir: pathlib.Path, trusts: bool = True
) -> dict[str, str]:
  near = mirror.near(config, workdir)
  files = readers.raw_files(near.data)
  return _outside(workdir, "dataset", files, trusts)


def _sealed_dataset(
  config: Config, workdir: pathlib.Path
) -> manifest.Manifest | None:
  """The manifest of dataset/, None where there is none.

  Then nothing is hashed: a first run that fails leaves no hashes.json behind.
  """
  folder = workdir / "dataset"
  if not folder.exists():
    return None
  inputs = _dataset_inputs(config, workdir)
  made_from = manifest.read_manifest(folder).config["data"]
  now = config.section("data")["data"]
  if any(made_from.get(leaf) != now[leaf] for leaf in ("path", "items_path")):
    # What lies elsewhere has to be there, and the same.
    inputs = _dataset_inputs(config, workdir, trusts=False)
  return _sealed(config, folder, ("data",), inputs)


def _outside(
  workdir: pathlib.Path,
  artefact: str,
  paths: dict[str, pathlib.Path],
  trusts: bool = True,
) -> dict[str, str]:
  """Hashes, by name, of what an artefact reads from outside the workdir.

  Args:
    workdir: of the run.
    artefact: that reads it.
    paths: by name.
    trusts: what has gone since the artefact was made counts as it was then.
  """
  sealed = workdir / artefact
  recorded: dict[str, str] = {}
  if trusts and (sealed / manifest.MANIFEST).is_file():
    recorded = manifest.read_manifest(sealed).inputs
  return recorded | artifacts.hash_outside(
    paths, workdir / "hashes.json", keeps=processes.is_first()
  )


def _sealed(
  config: Config,
  folder: pathlib.Path,
  sections: tuple[str, ...],
  inputs: dict[str, str],
) -> manifest.Manifest | None:
  return manifest.check_manifest(
    folder,
    schema=SCHEMA,
    config=config.section(*sections),
    inputs=inputs,
    defaults=Config().section(*sections),
    free=FREE,
  )


def _seal(
  config: Config,
  folder: pathlib.Path,
  sections: tuple[str, ...],
  inputs: dict[str, str],
  stage: str,
  content: str | None = None,
) -> None:
  manifest.write_manifest(
    folder,
    stage=stage,
    schema=SCHEMA,
    config=config.section(*sections),
    inputs=inputs,
    content=content,
  )


def load_data(config: Config, workdir: pathlib.Path) -> Data:
  """The prepared data; UserError if the stage has not run."""
  folder = workdir / "dataset"
  sealed = _sealed_dataset(config, workdir)
  content = needs(sealed, folder, "prepare_data").content
  dataset = schema.load_dataset(folder)
  split = splits.split_dataset(dataset, config.data.split)
  return Data(dataset, split, content)


def fit_sids(config: Config, workdir: pathlib.Path) -> None:
  """Builds item vectors, fits the quantizer, writes the SID matrix."""
  data = load_data(config, workdir)
  began = time.perf_counter()
  vectors_ID = _vectors(config, workdir, data)
  folder = workdir / "sids"
  inputs = _sids_inputs(config, workdir, data)
  if _sealed(config, folder, SIDS_SECTIONS, inputs):
    logging.info("sids/ is finished")
    return
  with artifacts.atomic_folder(folder) as partial:
    mirror.fetch_sids(config, workdir)
    near = mirror.near(config, workdir)
    report = _write_sids(near, data, vectors_ID, partial)
    _seal(config, partial, SIDS_SECTIONS, inputs, "fit_sids")
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
    quantizer = quantizers.fit(vectors_ID, config.sid)
    quantizer.save(folder)
    sids_IRL = quantizer.sids_IRL
    report = health.report(
      sids_IRL,
      vectors_ID,
      quantizer.dims,
      quantizer.config.codes,
      quantizer.reconstruction,
    )
    health.check(report, len(sids_IRL))
  np.save(folder / "sids.npy", sids_IRL)
  artifacts.write_json(folder / "health.json", report)
  return report


def _vectors(config: Config, workdir: pathlib.Path, data: Data) -> np.ndarray:
  """Loads the item vectors, or builds and writes them first."""
  folder = workdir / "vectors"
  inputs = _vectors_inputs(config, workdir, data)
  if _sealed(config, folder, ("vectors",), inputs) is None:
    mirror.fetch_vectors(config, workdir)
    located = locate_vectors(config, workdir)
    vectors_ID, cold = assemble.fit_vectors(data.dataset, data.split, located)
    with artifacts.atomic_folder(folder) as partial:
      np.save(partial / "vectors.npy", vectors_ID)
      # What follows hangs on the vectors alone, so that an encoder can join
      # those of an older run.
      content = artifacts.hash_json(artifacts.hash_files(partial))
      encode.save(partial, cold)
      _seal(config, partial, ("vectors",), inputs, "fit_sids", content)
  return np.load(folder / "vectors.npy", mmap_mode="r")


def locate_vectors(config: Config, workdir: pathlib.Path) -> VectorConfig:
  """With the places of the files that they read."""
  near = mirror.near(config, workdir)
  return dataclasses.replace(
    near.vectors,
    path=near.beside_data(near.vectors.path),
    ids_path=near.beside_data(near.vectors.ids_path),
  )


def _vectors_inputs(
  config: Config, workdir: pathlib.Path, data: Data
) -> dict[str, str]:
  paths = _vector_files(locate_vectors(config, workdir))
  return _outside(workdir, "vectors", paths) | {"dataset": data.content}


def _vector_files(vectors: VectorConfig) -> dict[str, pathlib.Path]:
  """What the sources of item vectors read, by config field."""
  paths: dict[str, pathlib.Path] = {}
  if "precomputed" in vectors.sources:
    paths |= {
      "vectors.path": pathlib.Path(vectors.path),
      "vectors.ids_path": pathlib.Path(vectors.ids_path),
    }
  if "sentence_transformers" in vectors.sources:
    # A name on the hub is no folder here, and the name has to do.
    model = pathlib.Path(vectors.sentence_model)
    for path in sorted(model.rglob("*")):
      name = path.relative_to(model).as_posix()
      paths[f"vectors.sentence_model/{name}"] = path
  return paths


def _sids_inputs(
  config: Config, workdir: pathlib.Path, data: Data
) -> dict[str, str]:
  folder = workdir / "vectors"
  inputs = _vectors_inputs(config, workdir, data)
  vectors = needs(
    _sealed(config, folder, ("vectors",), inputs), folder, "fit_sids"
  )
  paths: dict[str, pathlib.Path] = {}
  if config.sids_path:
    near = mirror.near(config, workdir)
    paths["sids_path"] = pathlib.Path(near.beside_data(near.sids_path))
  return _outside(workdir, "sids", paths) | {"vectors": vectors.content}


def _reassigned(
  workdir: pathlib.Path, content: str, codes_IL: np.ndarray
) -> pathlib.Path:
  """The file of the distinct codes, which is made once.

  Which code is the nearest hangs on the last bits of distances, which other
  devices and releases round otherwise: codes stay as the first stage made them.

  Args:
    workdir: of the run; its sids/ are there.
    content: hash of sids/.
    codes_IL: fine codes.
  """
  path = workdir / "reassigned" / f"{content[:16]}.npy"
  if not path.exists():
    quantizer: Any = quantizers.load(workdir / "sids")
    vectors_ID = np.load(workdir / "vectors" / "vectors.npy", mmap_mode="r")
    moved_IL = quantizer.reassign(codes_IL, vectors_ID)
    path.parent.mkdir(exist_ok=True)
    with artifacts.atomic_file(path) as file:
      np.save(file, moved_IL)
  return path


def load_catalog(
  config: Config, workdir: pathlib.Path, data: Data
) -> tuple[catalog.Catalog, str]:
  """The catalogue with collisions handled, and a hash of its codes."""
  folder = workdir / "sids"
  inputs = _sids_inputs(config, workdir, data)
  sealed = _sealed(config, folder, SIDS_SECTIONS, inputs)
  content = needs(sealed, folder, "fit_sids").content
  sids_IRL = np.load(folder / "sids.npy")
  num_codes = config.sid.chosen.codes
  if config.sids_path:
    num_codes = published.count_codes(sids_IRL)
  if config.catalog.collisions == "reassign":
    path = _reassigned(workdir, content, sids_IRL[:, -1])
    codes_IL = np.load(path)
    content = artifacts.hash_json([content, artifacts.hash_file(path)])
  else:
    policy = config.catalog.collisions
    codes_IL = collisions.resolve(sids_IRL[:, -1], policy, num_codes)
  built = catalog.build_catalog(
    sids_IRL,
    codes_IL,
    splits.train_item_counts(data.dataset, data.split),
    num_codes,
    config.catalog.smoothing,
    functools.partial(
      kept_tree.find_tree,
      workdir / "tree",
      {"sids": content, "catalog": config.catalog.collisions},
    ),
  )
  if config.search.neighbours.strength:
    found = neighbours.find_neighbours(
      data.dataset, data.split, config.search.neighbours
    )
    built = dataclasses.replace(built, neighbours=found)
  return built, content
