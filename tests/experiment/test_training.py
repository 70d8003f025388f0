"""What training and evaluation make of damaged checkpoints, by one choice."""

import json
import shutil

import pytest
from tiny_run import TINY

from holorec_jax.experiment import evaluation, preparation, training
from holorec_jax.train import seal

NAME = TINY.systems[0]


@pytest.fixture
def workdir(finished, tmp_path):
  """A finished run whose older checkpoint is the better one; no results yet."""
  shutil.copytree(finished[1], tmp_path / "run")
  (tmp_path / "run" / "results.json").unlink()  # whichever step they are of
  for step, metric in zip(steps(tmp_path / "run"), (0.5, 0.25)):
    path = tmp_path / "run" / "checkpoints" / str(step) / seal.SEAL
    host = json.loads(path.read_text()) | {"metric": metric}
    path.write_text(json.dumps(host))
  return tmp_path / "run"


def steps(workdir):
  return sorted(seal.read_metrics(workdir / "checkpoints"))


def damage(workdir, step):
  state = workdir / "checkpoints" / str(step) / seal.STATE
  file = max(state.rglob("*"), key=lambda path: path.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def choose(config, workdir):
  data = preparation.load_data(config, workdir)
  _, sids = preparation.load_catalog(config, workdir, data)
  best = training.best_checkpoints(config, workdir, data, sids)
  return {name: found["step"] for name, found in best.items()}


@pytest.fixture
def trained(monkeypatch):
  """Names of systems that `train` did not take for finished."""
  names = []
  monkeypatch.setattr(
    training, "_train_system", lambda *args: names.append(args[4])
  )
  return names


def test_whole_checkpoints(finished, workdir, trained, caplog):
  older, _ = steps(workdir)
  assert choose(finished[0], workdir)[NAME] == older
  training.train(finished[0], workdir)
  assert not trained
  assert "checkpoint" not in caplog.text


def test_a_damaged_best_is_replaced_in_name_and_in_deed(
  finished, workdir, trained, caplog, monkeypatch
):
  config = finished[0]
  older, newer = steps(workdir)
  damage(workdir, older)
  assert choose(config, workdir)[NAME] == newer
  assert f"step {newer} (metric 0.2500) is taken instead" in caplog.text
  training.train(config, workdir)
  assert not trained  # its end is whole
  loaded = []

  def load(config, workdir, data, built, name, step):
    loaded.append((name, step))
    raise InterruptedError

  monkeypatch.setattr(training, "load_recommender", load)
  with pytest.raises(InterruptedError):
    evaluation.evaluate(config, workdir)
  assert loaded == [(NAME, newer)]


def test_a_damaged_end_is_trained_again(finished, workdir, trained, caplog):
  config = finished[0]
  older, newer = steps(workdir)
  damage(workdir, newer)
  # The best is whole, so the evaluation may go on.
  assert choose(config, workdir)[NAME] == older
  assert f"{NAME} is not trained to its end" in caplog.text
  training.train(config, workdir)
  assert trained == [NAME]
