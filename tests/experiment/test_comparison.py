"""Comparisons: what is laid out, what runs again, a real one."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from finished_runs import write_aligned, write_checkpoint, write_run
from quick_xla import xla_flags

from holorec_jax.errors import UserError
from holorec_jax.evaluate import metrics
from holorec_jax.experiment import comparison

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CONFIG = """
from configs import synthetic

def get_config(variant="plain"):
  config = synthetic.get_config()
  config.systems = tuple(variant.split("+"))
  config.data.synthetic.users = 120
  config.data.synthetic.items = 80
  config.vectors.text_dims = 16
  config.sid.nested.dims = (4,)
  config.sid.nested.levels = 2
  config.sid.nested.codes = 8
  config.sid.nested.hidden = (16,)
  config.sid.nested.steps = 40
  config.sid.nested.warmup_steps = 10
  config.input.max_history = 8
  config.model.d_model = 8
  config.model.head_dim = 4
  config.model.d_ff = 8
  config.model.encoder_layers = 0
  config.train.epochs = 1
  config.search.batch = 128
  return config
"""
# In place of the launch scripts: copies what lies ready, fails where nothing
# does, and keeps a list of calls.
FAKE = """
import pathlib, shutil, sys
workdir = pathlib.Path(sys.argv[-1].removeprefix("--workdir="))
with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
  print(workdir.parent.name, workdir.name, file=calls)
print("a line before the end")
shutil.copytree(f"{workdir}.ready", workdir, dirs_exist_ok=True)
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "tiny.py"
  path.write_text(CONFIG)
  return str(path)


@pytest.fixture
def launcher(monkeypatch, tmp_path):
  """The module launch/compare.py with scripts that do nothing; their calls."""
  import compare

  fakes = tmp_path / "fakes"
  fakes.mkdir()
  for script in (*comparison.ARTEFACT_SCRIPTS, "run.py"):
    (fakes / script).write_text(FAKE)
  monkeypatch.setattr(compare, "LAUNCH", fakes)
  calls = fakes / "calls"

  def run(plan, at_once=1):
    calls.write_text("")
    plan.workdir.mkdir(exist_ok=True)
    with compare.locked(plan.workdir) as lock:
      failed = compare.execute(plan, at_once, lock)
    return [job.label for job in failed], calls.read_text().splitlines()

  return run


def make_ready(job):
  """Lets the fake script finish a job."""
  ready = job.folder.with_name(f"{job.folder.name}.ready")
  if job.makes != comparison.RESULTS:
    (ready / job.makes).mkdir(parents=True)
    (ready / "config.json").write_text(json.dumps(job.config.resolved()))
  else:
    write_run(ready, {}, job.config.resolved())


def test_plan(file, tmp_path):
  specs = [file, f"{file}:non_thinking+plain"]
  plan = comparison.make_plan(
    specs, 2, ["sid.nested.dims=(2,4)"], tmp_path / "w"
  )
  labels = [job.label for job in plan.jobs]
  dataset, sids = (label.rpartition("-")[0] for label in labels[:2])
  assert (dataset, sids) == ("artefacts/dataset", "artefacts/sids")
  assert labels[2:] == [
    "tiny/seed_0",
    "tiny-non_thinking+plain/seed_0",
    "tiny/seed_1",
    "tiny-non_thinking+plain/seed_1",
  ]
  last = plan.runs["tiny-non_thinking+plain"][1]
  assert last.config.systems == ("non_thinking", "plain")
  assert last.config.train.seed == last.config.input.seed == 1
  assert last.config.sid.nested.seed == 0
  assert last.config.sid.nested.dims == (2, 4)
  assert last.needs is plan.jobs[1]
  assert plan.to_do() == list(plan.jobs)
  assert not (tmp_path / "w").exists()


def test_refit_makes_codes_of_every_seed(file, tmp_path):
  plan = comparison.make_plan([file], 3, [], tmp_path, refit=True)
  folders = {job.needs.folder for job in plan.runs["tiny"]}
  assert len(folders) == 3
  assert [job.config.sid.nested.seed for job in plan.runs["tiny"]] == [0, 1, 2]
  # The data is the same.
  assert len(plan.jobs) == 1 + 3 + 3


def test_mistakes_are_told_before_anything_runs(file, tmp_path):
  def plan(*specs, overrides=()):
    return comparison.make_plan(specs, 1, overrides, tmp_path / "w")

  with pytest.raises(UserError, match=r"no config file nowhere\.py"):
    plan(file, "nowhere.py")
  with pytest.raises(UserError, match=r"did you mean config\.train\.epochs"):
    plan(file, overrides=["train.epoch=3"])
  with pytest.raises(UserError, match=r"train\.epochs is 0"):
    plan(file, overrides=["train.epochs=0"])
  with pytest.raises(UserError, match=r"should look like train\.epochs=3"):
    plan(file, overrides=["--train.epochs"])
  with pytest.raises(UserError, match=r"sets train\.seed, which follows"):
    plan(file, overrides=["train.seed=3"])
  with pytest.raises(UserError, match="2 would be called 'tiny'"):
    plan(file, file)
  other = tmp_path / "other.py"
  other.write_text(CONFIG.replace("users = 120", "users = 121"))
  with pytest.raises(
    UserError, match=r"different data(.|\n)*synthetic.users: 120 -> 121"
  ):
    plan(file, str(other))
  plan(file, str(other), overrides=["data.synthetic.users=50"])


def test_goes_on_where_it_stopped(file, tmp_path, launcher, capsys):
  plan = comparison.make_plan(
    [file, f"{file}:non_thinking"], 2, ["systems=('plain',)"], tmp_path / "w"
  )
  for job in plan.jobs:
    if job.label != "tiny/seed_1":
      make_ready(job)
  failed, calls = launcher(plan, at_once=2)
  assert failed == ["tiny/seed_1"]
  assert len(calls) == len(plan.jobs)
  told = capsys.readouterr().err
  assert "tiny/seed_1 failed (exit code 1)" in told
  assert "a line before the end" in told
  # Whatever is finished is not run again.
  make_ready(plan.runs["tiny"][1])
  (plan.runs["tiny-non_thinking"][0].folder / "results.json").unlink()
  failed, calls = launcher(plan)
  assert failed == []
  assert sorted(calls) == ["tiny seed_1", "tiny-non_thinking seed_0"]
  assert launcher(plan) == ([], [])
  # Runs hold links to what they share.
  link = plan.runs["tiny"][1].folder / "sids"
  assert link.is_symlink()
  assert link.resolve() == (plan.jobs[1].folder / "sids").resolve()


def test_what_needs_a_failed_job_is_not_started(file, tmp_path, launcher):
  plan = comparison.make_plan([file], 2, [], tmp_path / "w")
  make_ready(plan.jobs[0])
  failed, calls = launcher(plan)
  assert failed == [job.label for job in plan.jobs[1:]]
  assert len(calls) == 2


def test_a_change_of_search_is_run_again(file, tmp_path, launcher):
  plan = comparison.make_plan([file], 1, [], tmp_path / "w")
  for job in plan.jobs:
    make_ready(job)
  launcher(plan)
  wider = comparison.make_plan([file], 1, ["search.beam=30"], tmp_path / "w")
  assert [job.label for job in wider.to_do()] == ["tiny/seed_0"]
  other = comparison.make_plan([file], 1, ["train.epochs=2"], tmp_path / "w")
  with pytest.raises(UserError, match=r"train\.epochs: 1 -> 2"):
    comparison.check_folders(other)
  # To look is not to make it so.
  comparison.check_folders(wider)
  assert [job.label for job in wider.to_do()] == ["tiny/seed_0"]


def test_what_was_trained_again_is_measured_again(file, tmp_path):
  specs = [f"{file}:plain+sasrec"]
  (run,) = comparison.make_plan(specs, 1, [], tmp_path).runs[
    "tiny-plain+sasrec"
  ]
  write_run(run.folder, {}, run.config.resolved(), run.config.systems)
  assert run.done()
  folder = run.folder / "systems" / "sasrec" / "checkpoints"
  write_checkpoint(folder, metric=0.2)
  assert not run.done()
  shutil.rmtree(folder)
  assert not run.done()


def test_runs_end_with_alignment(file, tmp_path):
  specs, folder = [file, f"{file}:sasrec+plain"], tmp_path / "w"
  aligned = comparison.make_plan(specs, 1, [], folder, align=True)
  plain, sasrec = (runs[0] for runs in aligned.runs.values())
  assert "--align" in plain.arguments()
  seeds = comparison.make_plan(specs, 2, [], folder, align=True).runs["tiny"]
  assert [job.config.preference.seed for job in seeds] == [0, 1]
  assert "--align" not in sasrec.arguments()  # which generates no codes
  resolved = plain.config.resolved()
  write_run(plain.folder, {}, resolved)
  assert not plain.done()
  write_aligned(plain.folder, {}, resolved)
  assert plain.done()
  comparison.check_folders(aligned)
  other = comparison.make_plan(
    specs, 1, ["preference.clip=0.3"], folder, align=True
  )
  with pytest.raises(UserError, match=r"preference\.clip: 0\.2 -> 0\.3"):
    comparison.check_folders(other)
  resolved = other.runs["tiny"][0].config.resolved()
  (plain.folder / "config.json").write_text(json.dumps(resolved))
  assert not other.runs["tiny"][0].done()


def test_one_comparison_at_a_time(file, tmp_path, launcher):
  import compare

  plan = comparison.make_plan([file], 1, [], tmp_path / "w")
  plan.workdir.mkdir()
  with compare.locked(plan.workdir), pytest.raises(UserError, match="another"):
    launcher(plan)


def test_overrides_hold_commas(launcher):
  import compare

  texts = ["a.b=(1,2),systems=('x','y'),c=1", "d=2"]
  assert compare.split_overrides(texts) == [
    "a.b=(1,2)",
    "systems=('x','y')",
    "c=1",
    "d=2",
  ]


def test_a_real_comparison(file, tmp_path):
  """Two configs, two at a time, from nothing to the table."""
  workdir = tmp_path / "w"
  overrides = ["train.valid_users=20", "preference.steps=1"]
  overrides += ["preference.users=8", "preference.group=2"]
  env = os.environ | {
    "XLA_FLAGS": xla_flags(1),
    # What the processes have in common is compiled once.
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
  }
  args = [
    sys.executable,
    "launch/compare.py",
    f"--configs={file},{file}:sasrec",
    "--seeds=1",
    f"--workdir={workdir}",
    f"--overrides={','.join(overrides)}",
    "--jobs=2",
    "--align",
  ]
  done = subprocess.run(
    args, cwd=ROOT, env=env, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  text = (workdir / "comparison.md").read_text()
  assert text in done.stdout
  for name in ("tiny", "tiny/aligned", "tiny-sasrec", "popularity", "item-kNN"):
    assert text.count(f"| {name} |") == 3
  plan = comparison.make_plan(
    [file, f"{file}:sasrec"], 1, overrides, workdir, align=True
  )
  assert plan.to_do() == []
  run = plan.runs["tiny"][0].folder
  results = json.loads((run / "results.json").read_text())
  assert {"fit_sids", "train/plain"} <= results["seconds"].keys()
  assert results["parameters"]["plain"] > 1000
  assert results["search_ms_per_user"]["plain"] > 0
  stored = np.load(run / "ranks.npz")
  for split in ("test", "valid"):
    for protocol in ("item", "item_unseen", "sid"):
      found = metrics.summarise(stored[f"plain/{split}/{protocol}"])
      assert found == results[split][protocol]
  for floor, scores in results["baselines"].items():
    assert metrics.summarise(stored[f"{floor}/test/item"]) == scores["item"]
