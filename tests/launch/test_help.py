"""What a person sees who asks a script for help, or mistypes."""

import subprocess
import sys

import pytest
from forked import ROOT, call_all


def test_help_and_mistakes(tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  config = "--config=configs/synthetic.py"
  calls = [
    ("run.py", "--help"),
    ("align.py", "--help"),
    ("recommend.py", "--help"),
    ("run.py", workdir, config, "--config.train.epoch=3"),
    ("run.py", workdir, "--config=configs/nowhere.py"),
    ("run.py", workdir, config, "--config.search.beam=10"),
    (
      "run.py",
      workdir,
      config,
      "--config.data.source=events",
      "--config.data.path=nowhere.csv",
    ),
    ("run.py", config),
    ("recommend.py", workdir, config, "--all"),
    ("recommend.py", workdir, config, "--all", "--out=out", "--users=1"),
    ("recommend.py", workdir, config, "--out=out"),
    ("compare_quantizers.py", workdir, "--config=configs/s2gr_small.py"),
    (
      "train.py",
      f"--workdir={tmp_path / 'known'}",
      config,
      "--config.mesh.fsdp=2",
      "--plan=3",
    ),
  ]
  (tmp_path / "known").mkdir()
  (tmp_path / "known" / "config.json").write_text("{}")
  done = call_all(
    tmp_path,
    calls,
    ["stage"]
    + [f"holorec_jax.experiment.{name}" for name in ("bulk", "alignment")],
  )
  for answer in done[:3]:
    assert answer.returncode in (0, 1)
    assert "--config:" in answer.stdout
    assert "--workdir:" in answer.stdout
  for flag in ("users", "[no]all", "out", "users_per_shard", "deny"):
    assert f"--{flag}:" in done[2].stdout
  # A plan, refused or not, leaves the workdir alone.
  assert done[-1].returncode == 2 and "fsdp" in done[-1].stderr
  assert (tmp_path / "known" / "config.json").read_text() == "{}"
  for answer, words in zip(
    done[3:7] + done[8:-1],
    (
      "config field config.train.epoch does not exist; did you mean"
      " config.train.epochs?",
      "no config file configs/nowhere.py; in configs/ there are: ",
      "config.search.beam is 10, less than config.search.k = 20",
      "nowhere.csv: no such file; set data.path",
      "--all needs --out=DIR, the folder to write to",
      "--users and --all exclude each other: give one of them",
      "--out is where --all writes: give both, or neither",
      "--config is of s2gr: give HoloRec's, such as configs/beauty.py",
    ),
  ):
    assert answer.returncode == 2
    assert answer.stderr.startswith(f"error: {words}"), answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
  assert done[7].returncode != 0
  assert "Flag --workdir must have a value" in done[7].stderr
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", ["explore.py", "serve.py"])
def test_an_extra_that_is_not_installed_is_named(script):
  without = (
    "import runpy, sys; sys.modules['uvicorn'] = None; sys.path[0] = 'launch'"
    f"; runpy.run_path('launch/{script}', run_name='__main__')"
  )
  answer = subprocess.run(
    [sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True
  )
  assert answer.returncode == 2
  assert "pip install -e '.[serve]'" in answer.stderr
  assert "Traceback" not in answer.stderr
