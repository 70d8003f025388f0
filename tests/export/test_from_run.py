"""From a run's folder to a bundle that answers as the run does."""

import csv
import dataclasses
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_run import TINY

from holorec_jax import artifacts
from holorec_jax.catalog import remove_items
from holorec_jax.decode.requests import Filters
from holorec_jax.errors import UserError
from holorec_jax.experiment import (
  new_items,
  preparation,
  recommendation,
  training,
)
from holorec_jax.experiment.config import as_config_dict, load_config
from holorec_jax.export import bundle, delta, from_run, runtime, sealed
from holorec_jax.quantize import quantizers
from holorec_jax.vectors import encode

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPTIONS = bundle.Options(buckets=(4,), list_width=32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Trained, and as if evaluated."""
  workdir = tmp_path_factory.mktemp("run")
  train = dataclasses.replace(TINY.train, epochs=1)
  config = dataclasses.replace(TINY, systems=("non_thinking",), train=train)
  config = load_config(as_config_dict(config), workdir)
  preparation.prepare_data(config, workdir)
  preparation.fit_sids(config, workdir)
  training.train(config, workdir)
  made_from = recommendation.open_run(workdir).made_from
  checkpoints = {"non_thinking": made_from["checkpoint"]}
  results = {
    "headline": "non_thinking",
    "test": {"item": {"recall@10": 0.25}},
    "valid": {"item": {"recall@10": 0.5}},
    "modes": {},
    "made_from": made_from | {"checkpoints": checkpoints},
  }
  artifacts.write_json(workdir / "results.json", results)
  return workdir


@pytest.fixture(scope="module")
def made(workdir, tmp_path_factory):
  """The run's bundle and its manifest."""
  folder = tmp_path_factory.mktemp("made") / "b"
  manifest = from_run.export(workdir, folder, "", ["safetensors"], OPTIONS)
  return folder, manifest


def test_a_run_and_its_bundle_agree(workdir, made):
  folder, manifest = made
  exported = runtime.load(folder, replay=False)
  run = recommendation.open_run(workdir)
  data = run.dataset
  rows_U = np.arange(9)
  with jax.default_matmul_precision("highest"):
    theirs = run.recommender.recommend(run.histories(rows_U), Filters(True))
  histories = np.split(data.items, data.offsets[1:-1])[:9]
  item_UK, score_UK = exported.recommend(histories, exclude_seen=True)
  np.testing.assert_array_equal(item_UK, theirs.items_UK)
  np.testing.assert_allclose(score_UK, theirs.scores_UK, atol=1e-5)

  assert exported.item_ids == data.item_ids.tolist()
  assert exported.titles == data.item_text["title"].tolist()
  assert manifest["system"] == "non_thinking"
  assert manifest["made_from"] == run.made_from
  assert manifest["metrics"] == {
    "test": {"item": {"recall@10": 0.25}},
    "valid": {"item": {"recall@10": 0.5}},
  }

  vectors_IW = np.load(workdir / "vectors" / "vectors.npy")
  fitted = quantizers.load(workdir / "sids")
  np.testing.assert_array_equal(exported.encode(vectors_IW), fitted.sids_IRL)
  with pytest.raises(runtime.RequestError, match="expected finite ones of"):
    exported.encode(vectors_IW[:, 1:])

  name = "safetensors/params.safetensors"
  assert name in manifest["files"]
  arrays = sealed.read_tensors(folder / name)
  ours = jax.tree.leaves_with_path(run.recommender.params)
  assert len(ours) == len(arrays)
  for path, leaf in ours:
    key = jax.tree_util.keystr(path, simple=True, separator="/")
    np.testing.assert_array_equal(arrays[key], leaf)


def write_table(path, ids, rows):
  with open(path, "w", newline="") as file:
    table = csv.DictWriter(file, ["item", "title", "categories"])
    table.writeheader()
    table.writerows({"item": id_} | row for id_, row in zip(ids, rows))


def test_new_items_from_texts_to_recommendations(workdir, made, tmp_path):
  """A bundle and its run give the same vectors, codes and answers."""
  opened = runtime.load(made[0], replay=False)
  run = recommendation.open_run(workdir)
  catalog, text = run.recommender.catalog, run.dataset.item_text
  rows = [
    {name: text[name][item] for name in ("title", "categories")}
    for item in range(catalog.num_items)
  ]
  theirs_NW = encode.encode_items(workdir, rows)
  np.testing.assert_array_equal(opened.vectors_of(rows), theirs_NW)
  sids_NRL = new_items.quantize(workdir, theirs_NW)
  np.testing.assert_array_equal(opened.codes_of(rows), sids_NRL)
  assert opened.manifest["encoder"] == {"columns": sorted(text), "given": {}}

  # Room for 0.1 of the 80.
  new, ids = rows[20:26], [f"new{n}" for n in range(6)]
  write_table(tmp_path / "new.csv", ids, new)
  gone = run.dataset.item_ids[:2].tolist()
  for source, folder in ((workdir, "by_run"), (made[0], "by_bundle")):
    make = delta.from_run if folder == "by_run" else delta.from_bundle
    found = make(source, tmp_path / folder, str(tmp_path / "new.csv"), gone)
    assert (found["new"], found["removed"]) == (6, 2)
  files = [
    artifacts.read_json(tmp_path / folder / sealed.MANIFEST)["files"]
    for folder in ("by_run", "by_bundle")
  ]
  assert files[0] == files[1]
  changed = opened.apply_delta(tmp_path / "by_run")
  after = new_items.append(catalog, workdir, items=new)
  run.recommender.set_catalog(remove_items(after, [0, 1]))
  rows_U = np.arange(9)
  with jax.default_matmul_precision("highest"):
    want = run.recommender.recommend(run.histories(rows_U), Filters(True))
  histories = np.split(run.dataset.items, run.dataset.offsets[1:-1])[:9]
  item_UK, score_UK = changed.recommend(histories, exclude_seen=True)
  np.testing.assert_array_equal(item_UK, want.items_UK)
  np.testing.assert_allclose(score_UK, want.scores_UK, atol=1e-5)
  assert changed.titles[-6:] == [row["title"] for row in new]

  out = tmp_path / "out"
  for make, source in (
    (delta.from_run, workdir),
    (delta.from_bundle, made[0]),
  ):
    for removed, ids, words in (
      ([], None, "nothing to change"),
      (["nobody"], None, "'nobody' are to leave, but are not"),
      ([], [gone[0]], "are to join, but are in the catalogue already"),
    ):
      if ids:
        write_table(tmp_path / "new.csv", ids, new)
      with pytest.raises(UserError, match=words):
        make(source, out, str(tmp_path / "new.csv") if ids else "", removed)
  with pytest.raises(UserError, match="expected the --workdir of a run"):
    delta.from_run(tmp_path, out, "", gone)
  assert not out.exists()


def test_metrics_of_another_checkpoint_are_left_out(workdir, tmp_path):
  run = recommendation.open_run(workdir)
  assert from_run._metrics(run, workdir) is not None
  run.made_from["checkpoint"]["content"] = "of another"
  assert from_run._metrics(run, workdir) is None
  assert from_run._metrics(run, tmp_path) is None


def test_what_cannot_be_exported(workdir, tmp_path):
  for kind, words in (
    (dict(workdir=tmp_path), "there is no .*config.json: expected the"),
    (dict(formats=["onnx"]), "there is no onnx; choose among stablehlo"),
    (dict(system="sasrec"), "there is no system 'sasrec'"),
    (dict(formats=["hf"]), "no counterpart of this generator's config.model"),
  ):
    with pytest.raises(UserError, match=words):
      from_run.export(
        **{"workdir": workdir, "out": tmp_path / "b", "options": OPTIONS} | kind
      )
  assert not list(tmp_path.iterdir())


def test_the_script(workdir, tmp_path):
  """Its help, and a mistake, in a process each."""

  def call(*args):
    command = [sys.executable, str(ROOT / "launch" / "export.py"), *args]
    return subprocess.run(command, capture_output=True, text=True)

  helped = call("--help")
  for flag in (
    "workdir",
    "out",
    "system",
    "buckets",
    "list_width",
    "room",
    "formats",
  ):
    assert f"--{flag}:" in helped.stdout
  out = tmp_path / "b"
  answer = call(f"--workdir={workdir}", f"--out={out}", "--buckets=1,x")
  assert answer.returncode == 2
  assert answer.stderr == "error: --buckets=1,x: give whole numbers\n"
  assert not out.exists()
