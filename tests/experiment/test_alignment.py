"""Alignment of a finished run: results side by side, and what is refused."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from pair import run_pair
from tiny_run import TINY

from holorec_jax import artifacts, sharding
from holorec_jax.errors import UserError
from holorec_jax.evaluate import metrics, targets
from holorec_jax.experiment import (
  alignment,
  preparation,
  recommendation,
)
from holorec_jax.train import preference_loop, seal, writers
from holorec_jax.train.preference import PreferenceConfig

PREFERENCE = PreferenceConfig(
  steps=4, users=16, group=4, validate_every=2, log_every=1
)


@pytest.fixture(scope="module")
def aligned(finished, tmp_path_factory):
  """Its config and a copy of the run, aligned on one device."""
  config = dataclasses.replace(finished[0], preference=PREFERENCE)
  workdir = tmp_path_factory.mktemp("aligned") / "run"
  shutil.copytree(finished[1], workdir)
  # It compiles sooner than on eight.
  mesh = sharding.make_mesh(jax.devices()[:1])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sharding, "make_mesh", lambda *_, **__: mesh)
    alignment.align(config, workdir)
    yield config, workdir


def test_aligned_beside_supervised(aligned, monkeypatch, capsys):
  config, workdir = aligned
  folder = workdir / "aligned"
  tree = artifacts.read_json(folder / "results.json")
  assert tree["system"] == TINY.systems[0]
  valid = tree["valid"]["kept"]
  assert valid["aligned"]["ndcg@10"] >= valid["supervised"]["ndcg@10"] - 1e-9
  assert valid["gain"]["ndcg@10"][0] == pytest.approx(
    valid["aligned"]["ndcg@10"] - valid["supervised"]["ndcg@10"]
  )
  best = seal.read_metrics(folder / "checkpoints")[tree["steps"]["aligned"]]
  assert best == pytest.approx(valid["aligned"]["ndcg@10"])
  # The supervised model is measured as training measured it.
  steps = seal.read_metrics(workdir / "checkpoints")
  assert valid["supervised"]["ndcg@10"] == pytest.approx(
    steps[tree["steps"]["supervised"]]
  )
  lines = writers.read_metrics(folder)
  for name in ("reward", "kl", "entropy"):
    assert [x["step"] for x in lines if f"train/{name}" in x] == [1, 2, 3, 4]
  assert [x["step"] for x in lines if "valid/ndcg@10" in x] == [0, 2, 4]
  run = recommendation.open_run(workdir, "aligned")
  data = preparation.load_data(run.config, workdir)
  rows = targets.from_positions(data.dataset, data.split.test)
  found = run.recommender.recommend(rows.histories)
  means = metrics.summarise(metrics.target_ranks(found.items_UK, rows.items_U))
  assert means == pytest.approx(tree["test"]["kept"]["aligned"])
  ranks = dict(np.load(folder / "ranks.npz"))
  assert metrics.summarise(ranks["aligned/test/item"]) == pytest.approx(means)
  assert metrics.summarise(ranks["aligned/test/item_unseen"]) == pytest.approx(
    tree["test"]["removed"]["aligned"]
  )
  page = (folder / "report.html").read_text()
  for title in ("Reward of the paths", "(KL)", "Entropy of", "NDCG while"):
    assert page.count(f"<figcaption>{title}") + page.count(f"{title}</fig") == 1
  assert f"{valid['aligned']['ndcg@10']:.4f}"[1:] in page
  alignment.summarise(workdir)
  assert "test  seen removed NDCG@10" in capsys.readouterr().out

  def fail(*args):
    raise AssertionError("it was finished")

  monkeypatch.setattr(preference_loop, "align", fail)
  alignment.align(config, workdir)
  other = dataclasses.replace(PREFERENCE, clip=0.3)
  with pytest.raises(UserError, match=r"preference\.clip: 0\.2 -> 0\.3"):
    alignment.align(dataclasses.replace(config, preference=other), workdir)


SCRIPT = """
import dataclasses, pathlib
sys.path.append(sys.argv[1])
import test_alignment as of
from holorec_jax.experiment.config import read_config
workdir = pathlib.Path(sys.argv[2])
config = read_config(workdir)
config = dataclasses.replace(config, preference=of.PREFERENCE)
of.alignment.align(config, workdir)
"""


def test_two_processes_find_the_same(finished, aligned, tmp_path):
  """Each has a share of the rows, of the users and of the checkpoint."""
  workdir = tmp_path / "pair"
  shutil.copytree(finished[1], workdir)
  run_pair(SCRIPT, 1, pathlib.Path(__file__).parent, workdir)
  alone, pair = (
    artifacts.read_json(folder / "aligned" / "results.json")
    for folder in (aligned[1], workdir)
  )
  assert pair["steps"] == alone["steps"]
  for split in ("valid", "test"):
    assert pair[split] == alone[split]


def test_what_it_started_from_must_be_there_still(aligned, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(aligned[1], workdir)
  assert recommendation.open_run(workdir, "aligned").made_from["sids"]
  path = workdir / "aligned" / "results.json"
  results = artifacts.read_json(path)
  results["made_from"]["checkpoint"]["content"] = "another"
  artifacts.write_json(path, results)
  with pytest.raises(UserError, match=r"no more:\n  checkpoint\.content: 'ano"):
    recommendation.open_run(workdir, "aligned")


def test_systems_without_codes_are_refused(finished, tmp_path):
  config = dataclasses.replace(finished[0], systems=("sasrec",))
  with pytest.raises(UserError, match="'sasrec', which scores items"):
    alignment.align(config, tmp_path)
