"""Inputs at an address: copied once, recorded by address, clear errors."""

import dataclasses
import errno
import json
import shutil

import fsspec
import numpy as np
import pytest

from holorec_jax import artifacts, manifest
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError
from holorec_jax.experiment import mirror, preparation
from holorec_jax.experiment.config import Config
from holorec_jax.vectors.assemble import VectorConfig

ITEMS = [f"i{row}" for row in range(6)]


@pytest.fixture
def bucket():
  """A file system that is reached by addresses alone."""
  files = fsspec.filesystem("memory")
  rng = np.random.default_rng(0)
  lines = [" ".join([f"u{u}", *rng.permutation(ITEMS)]) for u in range(5)]
  files.pipe("/shop/raw/sequences.txt", "\n".join(lines).encode())
  rows = [{"item": item, "title": f"about {item}"} for item in ITEMS]
  files.pipe("/shop/raw/items.jsonl", "\n".join(map(json.dumps, rows)).encode())
  with files.open("/shop/raw/deep/mine.npy", "wb") as file:
    np.save(file, rng.normal(size=(6, 4)))
  codes = {item: [row // 3, row % 3] for row, item in enumerate(ITEMS)}
  files.pipe("/codes/codes.json", json.dumps(codes).encode())
  yield files
  files.rm("/", recursive=True)


CONFIG = Config(
  data=DataConfig(source="sequences", path="memory://shop/raw"),
  vectors=VectorConfig(sources=("precomputed",), path="deep/mine.npy"),
  sids_path="memory://codes/codes.json",
)


def test_stages_read_copies_and_record_addresses(bucket, tmp_path):
  run = tmp_path / "run"
  preparation.prepare_data(CONFIG, run)
  preparation.fit_sids(CONFIG, run)
  sealed = manifest.read_manifest(run / "dataset")
  assert sealed.config["data"]["path"] == "memory://shop/raw"
  data = bucket.cat("/shop/raw/sequences.txt")
  (tmp_path / "same").write_bytes(data)
  same = artifacts.hash_file(tmp_path / "same")
  assert sealed.inputs["data.path/sequences.txt"] == same
  # Later stages, here or elsewhere, need neither the bucket nor the copies.
  bucket.rm("/", recursive=True)
  shutil.rmtree(run / "mirror")
  run = run.rename(tmp_path / "moved")
  found = preparation.load_data(CONFIG, run)
  assert sorted(found.dataset.item_ids) == ITEMS
  built, _ = preparation.load_catalog(CONFIG, run, found)
  assert built.num_items == 6
  preparation.prepare_data(CONFIG, run)
  preparation.fit_sids(CONFIG, run)
  assert not (run / "mirror").exists()


def test_each_is_copied_once(bucket, tmp_path):
  mirror.fetch_data(CONFIG, tmp_path)
  bucket.rm("/shop", recursive=True)
  mirror.fetch_data(CONFIG, tmp_path)
  mirror.fetch_vectors(CONFIG, tmp_path)
  near = mirror.near(CONFIG, tmp_path)
  assert np.load(near.beside_data(near.vectors.path)).shape == (6, 4)
  assert near.data.path.endswith("/raw")  # by which reports call the data
  here = dataclasses.replace(
    CONFIG, data=DataConfig(source="sequences", path="/a"), sids_path="b.json"
  )
  assert mirror.near(here, tmp_path) == here
  # Where the data is prepared, what is fitted does not need it again.
  elsewhere = tmp_path / "elsewhere"
  mirror.fetch_sids(CONFIG, elsewhere)
  assert len(list((elsewhere / "mirror").iterdir())) == 1


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("memory://shop/nothing", "config.data.path: memory://shop/nothing cannot"),
    ("nosuch://shop/raw", "cannot be read: Protocol not known: nosuch"),
    ("https://host/a.csv?sig=1", "config.data.path: https.*has a query"),
  ],
)
def test_what_cannot_be_read(tmp_path, path, message):
  config = dataclasses.replace(
    CONFIG, data=dataclasses.replace(CONFIG.data, path=path)
  )
  with pytest.raises(UserError, match=message):
    preparation.prepare_data(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_beside_one_file_there_is_nothing(bucket, tmp_path):
  one = dataclasses.replace(CONFIG.data, path="memory://shop/raw/sequences.txt")
  config = dataclasses.replace(CONFIG, data=one)
  with pytest.raises(
    UserError, match=r"config\.vectors\.path is 'deep/mine.npy', beside"
  ):
    mirror.fetch_vectors(config, tmp_path)


class Denied(Exception):
  """As clients of clouds raise them: no OSError."""


@pytest.mark.parametrize(
  ("error", "message"),
  [
    (Denied("no credentials"), "shop/raw cannot be read: no credentials"),
    (Denied(), "shop/raw cannot be read: Denied"),
  ],
)
def test_half_a_copy_is_none(bucket, tmp_path, monkeypatch, error, message):
  opened = []

  def open_(path, mode):
    opened.append(path)
    if len(opened) == 2:
      raise error
    return type(bucket).open(bucket, path, mode)

  monkeypatch.setattr(bucket, "open", open_)
  with pytest.raises(UserError, match=message):
    mirror.fetch_data(CONFIG, tmp_path)
  assert list((tmp_path / "mirror").iterdir()) == []


def test_a_full_disk_is_not_the_address(bucket, tmp_path, monkeypatch):
  def full(path, mode):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(mirror, "open", full, raising=False)
  with pytest.raises(UserError, match=r"^the disk is full"):
    mirror.fetch_data(CONFIG, tmp_path)


def test_workdirs_are_folders(tmp_path):
  with pytest.raises(UserError, match="--workdir=gs://b/run is an address"):
    mirror.local_folder("gs://b/run")
  assert mirror.local_folder(str(tmp_path)) == tmp_path
