"""A whole run on a tiny synthetic data set, and what it refuses."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from finished_runs import write_checkpoint
from tiny_run import TINY, run_all

from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.evaluate import metrics
from holorec_jax.experiment import (
  evaluation,
  preparation,
  recommendation,
  training,
)
from holorec_jax.experiment.config import (
  FREE,
  as_config_dict,
  free,
  load_config,
)
from holorec_jax.models.sasrec import SasRecConfig


def test_workdir_holds_every_artefact(finished):
  _, workdir = finished
  for name in (
    "config.json",
    "dataset/manifest.json",
    "vectors/manifest.json",
    "sids/sids.npy",
    "sids/health.json",
    "checkpoints",
    "systems/non_thinking/checkpoints",
    "metrics.jsonl",
    "results.json",
    "report.html",
  ):
    assert (workdir / name).exists(), name
  sids_IRL = np.load(workdir / "sids" / "sids.npy")
  assert sids_IRL.dtype == np.int32
  assert sids_IRL.shape[1:] == (2, 2)


def test_results_have_the_promised_schema(finished):
  _, workdir = finished
  tree = json.loads((workdir / "results.json").read_text())
  names = set(metrics.names())
  for part in (tree["test"], tree["valid"]):
    assert set(part) == {"item", "item_unseen", "sid"}
    assert set(part["item"]) == names
  assert set(tree["baselines"]) == {"popularity", "item_knn"}
  assert tree["valid_fraction"] == 1.0
  assert {"fit_sids", "train", "evaluate"} <= set(tree["seconds"])
  # A code string that equals the target's holds the target item.
  assert tree["test"]["sid"]["recall@1"] >= tree["test"]["item"]["recall@1"]


def test_finished_stages_do_not_run_again(finished):
  config, workdir = finished
  kept = {
    path: path.stat().st_mtime_ns
    for path in workdir.rglob("*")
    if path.is_file()
  }
  run_all(config, workdir)
  assert kept == {
    path: path.stat().st_mtime_ns
    for path in workdir.rglob("*")
    if path.is_file()
  }


def test_another_config_is_refused_by_field(finished):
  config, workdir = finished
  other = dataclasses.replace(
    config, train=dataclasses.replace(config.train, epochs=3)
  )
  with pytest.raises(UserError, match=r"train.epochs: 2 -> 3"):
    load_config(as_config_dict(other), workdir)


def test_how_training_is_done_may_change(finished):
  """More devices or fewer may need it; nothing is made again."""
  config, workdir = finished
  other = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, remat="layers"),
    optim=dataclasses.replace(config.optim, accumulate=2),
    train=dataclasses.replace(config.train, log_every=7, checkpoint_every=3),
  )
  written = (workdir / "checkpoints" / "config.json").read_bytes()
  results = (workdir / "results.json").stat().st_mtime_ns
  run_all(load_config(as_config_dict(other), workdir), workdir)
  assert (workdir / "checkpoints" / "config.json").read_bytes() == written
  assert (workdir / "results.json").stat().st_mtime_ns == results
  load_config(as_config_dict(config), workdir)
  # In parts S2GR compares fewer targets with each other.
  assert free(["sasrec"]) == FREE
  assert free(["sasrec", "s2gr"]) == FREE - {"optim.accumulate"}
  assert config_fields.flatten(config.resolved()).keys() >= FREE


def test_what_other_systems_were_trained_with_is_held(finished, tmp_path):
  config, workdir = finished
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  both = dataclasses.replace(config, systems=(*config.systems, "sasrec"))
  load_config(as_config_dict(both), copy)
  wider = dataclasses.replace(both, sasrec=SasRecConfig(d_model=32))
  load_config(as_config_dict(wider), copy)  # It is not trained yet.
  write_checkpoint(copy / "systems" / "sasrec" / "checkpoints")
  with pytest.raises(UserError, match=r"sasrec\.d_model: 32 -> 128"):
    load_config(as_config_dict(both), copy)
  assert (
    json.loads((copy / "config.json").read_text())["sasrec"]["d_model"] == 32
  )


def test_a_checkpoint_trained_again_is_evaluated_again(
  finished, tmp_path, monkeypatch
):
  config, workdir = finished
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)

  def search(*args):
    raise InterruptedError

  monkeypatch.setattr(evaluation, "_search", search)
  evaluation.evaluate(config, copy)
  for path in copy.glob("checkpoints/*/seal.json"):
    held = json.loads(path.read_text())
    held["loop"]["seconds"] += 1
    path.write_text(json.dumps(held))
  with pytest.raises(InterruptedError):
    evaluation.evaluate(config, copy)


def test_a_finished_run_is_searched_with_neighbours(finished, tmp_path):
  config, workdir = finished
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  heeding = dataclasses.replace(
    config.search.neighbours, strength=1.5, floor=0.001
  )
  run_all(
    dataclasses.replace(
      config, search=dataclasses.replace(config.search, neighbours=heeding)
    ),
    copy,
  )
  before, after = (
    json.loads((folder / "results.json").read_text())
    for folder in (workdir, copy)
  )
  assert after["made_from"]["checkpoints"] == before["made_from"]["checkpoints"]
  assert after["baselines"] == before["baselines"]
  assert after["test"] != before["test"]
  opened = recommendation.open_run(copy).recommender.catalog.neighbours
  assert opened is not None and opened.floor == np.float32(0.001)


def test_changed_codes_are_refused(finished, tmp_path):
  config, workdir = finished
  copy = tmp_path / "copy"
  shutil.copytree(workdir, copy)
  sids_IRL = np.load(copy / "sids" / "sids.npy")
  np.save(copy / "sids" / "sids.npy", sids_IRL[::-1])
  with pytest.raises(UserError, match=r"sids\.npy was changed"):
    training.train(config, copy)


def test_stages_name_the_one_that_is_missing(tmp_path):
  config = load_config(as_config_dict(TINY), tmp_path)
  with pytest.raises(UserError, match="prepare_data"):
    preparation.fit_sids(config, tmp_path)
  preparation.prepare_data(config, tmp_path)
  with pytest.raises(UserError, match="fit_sids"):
    training.train(config, tmp_path)


def test_recommendations_show_titles_and_thoughts(finished, capsys):
  config, workdir = finished
  user = str(preparation.load_data(config, workdir).dataset.user_ids[5])
  recommendation.recommend(config, workdir, [user], "thinking", 2, False)
  printed = capsys.readouterr().out
  assert f"User {user}" in printed
  assert printed.count("thinks ") == 2 * 2
  recommendation.recommend(config, workdir, [user], "non_thinking", 2, True)
  assert "thinks " not in capsys.readouterr().out


def test_unknown_user_is_named(finished):
  config, workdir = finished
  with pytest.raises(UserError, match="nobody"):
    recommendation.recommend(config, workdir, ["nobody"], "thinking", 2, False)
