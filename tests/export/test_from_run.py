"""From a run's folder to a bundle that answers as the run does."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from tiny_run import TINY

from holorec_jax import artifacts
from holorec_jax.decode.requests import Filters
from holorec_jax.errors import UserError
from holorec_jax.experiment import preparation, recommendation, training
from holorec_jax.experiment.config import as_config_dict, load_config
from holorec_jax.export import bundle, from_run, runtime, sealed
from holorec_jax.quantize import quantizers

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
  steps = {"non_thinking": made_from["checkpoint"]["step"]}
  results = {
    "headline": "non_thinking",
    "test": {"item": {"recall@10": 0.25}},
    "valid": {"item": {"recall@10": 0.5}},
    "modes": {},
    "made_from": made_from | {"checkpoints": steps},
  }
  artifacts.write_json(workdir / "results.json", results)
  return workdir


def test_a_run_and_its_bundle_agree(workdir, tmp_path):
  manifest = from_run.export(
    workdir, tmp_path / "b", "", ["safetensors"], OPTIONS
  )
  exported = runtime.load(tmp_path / "b", replay=False)
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
  arrays = sealed.read_tensors(tmp_path / "b" / name)
  ours = jax.tree.leaves_with_path(run.recommender.params)
  assert len(ours) == len(arrays)
  for path, leaf in ours:
    key = jax.tree_util.keystr(path, simple=True, separator="/")
    np.testing.assert_array_equal(arrays[key], leaf)


def test_metrics_of_another_checkpoint_are_left_out(workdir, tmp_path):
  run = recommendation.open_run(workdir)
  assert from_run._metrics(run, workdir) is not None
  run.made_from["checkpoint"]["step"] += 1
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
  for flag in ("workdir", "out", "system", "buckets", "list_width", "formats"):
    assert f"--{flag}:" in helped.stdout
  out = tmp_path / "b"
  answer = call(f"--workdir={workdir}", f"--out={out}", "--buckets=1,x")
  assert answer.returncode == 2
  assert answer.stderr == "error: --buckets=1,x: give whole numbers\n"
  assert not out.exists()
