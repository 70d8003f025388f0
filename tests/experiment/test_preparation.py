"""Stages notice when what they read outside the workdir is another."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from holorec_jax import artifacts
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError
from holorec_jax.experiment import preparation
from holorec_jax.experiment.config import Config, as_config_dict, load_config
from holorec_jax.vectors import assemble
from holorec_jax.vectors.assemble import VectorConfig

ITEMS = [f"i{row}" for row in range(6)]


def write(path, text):
  """Writes a file that was not changed for long."""
  path.write_text(text)
  os.utime(path, (0, 1_577_836_800))


def touch(path):
  """A later change than all that is cached."""
  os.utime(path, (0, 1_577_836_800 + 60))


@pytest.fixture
def config(tmp_path):
  """Small raw files, all of them outside the workdir."""
  raw = tmp_path / "raw"
  raw.mkdir()
  rng = np.random.default_rng(0)
  users = [[f"u{u}", *rng.permutation(ITEMS)] for u in range(5)]
  write(raw / "sequences.txt", "\n".join(map(" ".join, users)))
  rows = [{"item": item, "title": f"about {item}"} for item in ITEMS]
  write(tmp_path / "titles.jsonl", "\n".join(map(json.dumps, rows)))
  np.save(raw / "mine.npy", rng.normal(size=(6, 4)))
  touch(raw / "mine.npy")
  write(raw / "ids.txt", "\n".join(ITEMS))
  codes = {item: [row // 3, row % 3] for row, item in enumerate(ITEMS)}
  write(raw / "codes.json", json.dumps(codes))
  return Config(
    data=DataConfig(
      source="sequences",
      path=str(raw),
      items_path=str(tmp_path / "titles.jsonl"),
    ),
    vectors=VectorConfig(
      sources=("precomputed",), path="mine.npy", ids_path="ids.txt"
    ),
    sids_path="codes.json",
  )


def prepare(config, workdir):
  """What every later stage does first, behind the stages that make it."""
  preparation.prepare_data(config, workdir)
  preparation.fit_sids(config, workdir)
  load(config, workdir)


def load(config, workdir):
  data = preparation.load_data(config, workdir)
  preparation.load_catalog(config, workdir, data)


@pytest.mark.parametrize(
  ("file", "folder", "name"),
  [
    ("raw/sequences.txt", "dataset", "data.path/sequences.txt"),
    ("titles.jsonl", "dataset", "data.items_path"),
    ("raw/mine.npy", "vectors", "vectors.path"),
    ("raw/ids.txt", "vectors", "vectors.ids_path"),
    ("raw/codes.json", "sids", "sids_path"),
  ],
)
def test_an_edit_of_the_same_size_is_refused(
  config, tmp_path, file, folder, name
):
  workdir = tmp_path / "run"
  prepare(config, workdir)
  path = tmp_path / file
  content = bytearray(path.read_bytes())
  content[-2] ^= 1
  path.write_bytes(content)
  with pytest.raises(UserError, match=f"input {name} is not the one") as error:
    load(config, workdir)
  assert f"{workdir / folder} does not match" in str(error.value)
  assert "Delete that folder" in str(error.value)


def test_raw_files_may_lie_elsewhere(config, tmp_path):
  """Such as where a scheduler mounts them this time; others are refused."""
  workdir = tmp_path / "run"
  prepare(config, workdir)
  moved = tmp_path / "elsewhere"
  (tmp_path / "raw").rename(moved)
  data = dataclasses.replace(config.data, path=str(moved))
  config = dataclasses.replace(config, data=data)
  load_config(as_config_dict(config), workdir)
  prepare(config, workdir)
  # A typo; an address that nothing was copied of.
  for path in (str(tmp_path / "nowhere"), f"file://{moved}"):
    other = dataclasses.replace(data, path=path)
    with pytest.raises(UserError, match="which it was made from, is not read"):
      load(dataclasses.replace(config, data=other), workdir)
  with (moved / "sequences.txt").open("a") as file:
    file.write("7 1 2 3\n")
  with pytest.raises(
    UserError, match=r"input data\.path/sequences\.txt is not"
  ):
    load(config, workdir)


def test_neighbours_do_not_count_and_what_is_gone_is_trusted(config, tmp_path):
  workdir = tmp_path / "run"
  prepare(config, workdir)
  (tmp_path / "raw" / "further.npy").write_text("new")
  (tmp_path / "raw" / "items.jsonl").write_text("not read: items_path is set")
  prepare(config, workdir)
  (tmp_path / "titles.jsonl").unlink()
  prepare(config, workdir)
  shutil.rmtree(tmp_path / "raw")
  prepare(config, workdir)


def test_a_new_file_that_would_be_read_is_refused(config, tmp_path):
  data = dataclasses.replace(config.data, items_path="")
  config = dataclasses.replace(config, data=data)
  preparation.prepare_data(config, tmp_path / "run")
  shutil.copy(tmp_path / "titles.jsonl", tmp_path / "raw" / "items.jsonl")
  with pytest.raises(UserError, match=r"items\.jsonl was not there when"):
    preparation.load_data(config, tmp_path / "run")


def test_a_first_stage_that_fails_leaves_nothing(config, tmp_path):
  with pytest.raises(UserError, match="prepare_data"):
    load(config, tmp_path / "run")
  (tmp_path / "raw" / "sequences.txt").write_text("u1")
  with pytest.raises(UserError, match=r"sequences\.txt, line 1"):
    preparation.prepare_data(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_raw_files_are_read_once_for_their_hashes(
  config, tmp_path, monkeypatch
):
  read = []
  hash_file = artifacts.hash_file
  monkeypatch.setattr(
    artifacts, "hash_file", lambda path: read.append(path) or hash_file(path)
  )
  outside = [*(tmp_path / "raw").iterdir(), tmp_path / "titles.jsonl"]
  for _ in range(3):
    prepare(config, tmp_path / "run")
  assert sorted(p for p in read if p in outside) == sorted(outside)


def test_a_local_sentence_model_counts_by_its_files(
  config, tmp_path, monkeypatch
):
  monkeypatch.setitem(
    assemble.SOURCES,
    "sentence_transformers",
    lambda dataset, graph, config: assemble.Made(np.eye(dataset.num_items)),
  )
  model = tmp_path / "model"
  (model / "1_Pooling").mkdir(parents=True)
  write(model / "1_Pooling" / "config.json", "mean")
  vectors = VectorConfig(
    sources=("sentence_transformers",), sentence_model=str(model)
  )
  config = dataclasses.replace(config, vectors=vectors)
  prepare(config, tmp_path / "run")
  (model / "1_Pooling" / "config.json").write_text("last")
  match = r"input vectors\.sentence_model/1_Pooling/config\.json is not the one"
  with pytest.raises(UserError, match=match):
    load(config, tmp_path / "run")


def test_a_workdir_of_the_release_before_is_explained(config, tmp_path):
  preparation.prepare_data(config, tmp_path)
  path = tmp_path / "dataset" / "manifest.json"
  old = artifacts.read_json(path) | {"schema": 1, "inputs": {"raw": "abc"}}
  artifacts.write_json(path, old)
  with pytest.raises(UserError, match=r"another release made it: .* 1 -> 2"):
    preparation.load_data(config, tmp_path)
