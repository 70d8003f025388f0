"""Comparisons: what is laid out, what runs again, the table, a real one."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from quick_xla import xla_flags

from holorec_jax.errors import UserError
from holorec_jax.evaluate import intervals, metrics
from holorec_jax.experiment import comparison, comparison_table

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
  monkeypatch.syspath_prepend(ROOT / "launch")
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


def write_run(folder, ranks, resolved=None, systems=("plain",), dataset="d"):
  """A finished run's files, as far as a comparison reads them."""
  folder.mkdir(parents=True)
  headline, *modes = systems
  results = {
    "headline": headline,
    "modes": {name: {} for name in modes},
    "baselines": {"item_knn": {}},
    "counts": {"items": 9, "test": 4, "valid": 2},
    "seconds": {f"train/{name}": 12.4 for name in systems},
    "parameters": dict.fromkeys(systems, 4321),
    "search_ms_per_user": dict.fromkeys(systems, 0.5),
    "made_from": {
      "dataset": dataset,
      "search": (resolved or {}).get("search"),
      "baselines": (resolved or {}).get("baselines"),
    },
  }
  (folder / "results.json").write_text(json.dumps(results))
  (folder / "config.json").write_text(json.dumps(resolved or {}))
  np.savez(folder / "ranks.npz", **ranks)


def make_ready(job):
  """Lets the fake script finish a job."""
  ready = job.folder.with_name(f"{job.folder.name}.ready")
  if job.makes != comparison.RESULTS:
    (ready / job.makes).mkdir(parents=True)
    (ready / "config.json").write_text(
      json.dumps(comparison._resolve(job.config))
    )
  else:
    write_run(ready, {}, comparison._resolve(job.config))


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
  seal = {"step": 1, "metric": 0.1, "data": {}, "loop": {}, "files": {}}
  checkpoint = plan.runs["tiny"][0].folder / "checkpoints" / "1"
  checkpoint.mkdir(parents=True)
  (checkpoint / "seal.json").write_text(json.dumps(seal))
  with pytest.raises(UserError, match=r"train\.epochs: 1 -> 2"):
    comparison.check_folders(other)


def write_aligned(folder, ranks, resolved):
  """What alignment leaves of a run, as far as a comparison reads it."""
  aligned = folder / "aligned"
  aligned.mkdir()
  made_from = {name: resolved[name] for name in ("preference", "search")}
  tree = {"seconds": 3.0, "made_from": made_from}
  (aligned / "results.json").write_text(json.dumps(tree))
  np.savez(aligned / "ranks.npz", **ranks)


def test_runs_end_with_alignment(file, tmp_path):
  specs, folder = [file, f"{file}:sasrec+plain"], tmp_path / "w"
  aligned = comparison.make_plan(specs, 1, [], folder, align=True)
  plain, sasrec = (runs[0] for runs in aligned.runs.values())
  assert "--align" in plain.arguments()
  assert "--align" not in sasrec.arguments()  # which generates no codes
  resolved = comparison._resolve(plain.config)
  write_run(plain.folder, {}, resolved)
  assert not plain.done()
  write_aligned(plain.folder, {}, resolved)
  assert plain.done()
  other = comparison.make_plan(
    specs, 1, ["preference.clip=0.3"], folder, align=True
  )
  resolved = comparison._resolve(other.runs["tiny"][0].config)
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


def ranks(name, test, unseen=None, valid=None):
  """As ranks.npz has them; `x` is a target that the list lacks."""
  x = metrics.MISSED
  parts = {"test/item": test, "test/item_unseen": unseen or test}
  parts |= {"valid/item": valid} if valid else {}
  return {
    f"{name}/{part}": np.array([x if r is None else r for r in values])
    for part, values in parts.items()
  }


@pytest.fixture
def runs(tmp_path):
  """Two configs of two seeds over four users, the second with two systems."""
  first, second = tmp_path / "a", tmp_path / "b"
  floor = ranks("item_knn", [None, None, 4, 0])
  x = None
  for seed, hits in enumerate(([0, x, x, x], [0, 0, x, x])):
    own = ranks("plain", hits, valid=[0, x])
    write_run(first / f"{seed}", own | floor)
  for seed, hits in enumerate(([0, 0, 0, x], [0, 0, 0, x])):
    own = ranks("thinking", hits, [0, 0, 0, 7], [0, 0])
    own |= ranks("non_thinking", [x, x, x, 15], valid=[x, x])
    write_run(
      second / f"{seed}", own | floor, systems=("thinking", "non_thinking")
    )
  return {
    "a": [first / "0", first / "1"],
    "b": [second / "0", second / "1"],
  }


def test_table_of_known_ranks(runs):
  found = comparison_table.read_rows(runs)
  table = comparison_table.tabulate(found.rows)
  text = comparison_table.as_markdown(table, found.counts)
  kept, unseen, costs = (
    [line for line in block.splitlines() if line.startswith("|")]
    for block in text.split("\n\n")[1::2]
  )
  assert kept[0] == (
    "| system | R@1 | R@5 | N@5 | R@10 | N@10 | R@20 | R@10 − a | N@10 − a |"
  )
  assert kept[2] == (
    "| a |"
    + " 0.3750 ± 0.1768 |" * 6  # of 0.25 and 0.5
    + " – | – |"
  )
  # Users gain 0, .5, 1 and 0: the interval is that of resampling four.
  assert kept[3] == (
    "| b |" + " 0.7500 |" * 6 + " +0.3750 [+0.0000, +0.7500] |" * 2
  )
  assert kept[4].startswith("| b/non-thinking | 0.0000 | 0.0000 | 0.0000 |")
  # 1 / log2(4 + 2) = 0.3869.
  assert kept[5].startswith("| item-kNN | 0.2500 | 0.5000 | 0.3467 | 0.5000 |")
  assert len(kept) == 6
  assert "| b | 0.7500 | 0.7500 | 0.7500 | 1.0000 | 0.8289 |" in unseen[3]
  assert costs[2:] == [
    "| a | 2 | 0.5000 | 12 | 0.500 | 4,321 |",
    "| b | 2 | 1.0000 | 12 | 0.500 | 4,321 |",
    "| b/non-thinking | 2 | 0.0000 | 12 | 0.500 | 4,321 |",
    "| item-kNN | 1 | – | – | – | – |",
  ]


def test_row_of_the_aligned(runs):
  settings = {"preference": {}, "search": {}}
  for folder, hits in zip(runs["b"], ([0, 0, 0, 0], [0, 0, 0, None])):
    write_aligned(folder, ranks("aligned", hits), settings)
  rows = comparison_table.read_rows(runs, aligned=True).rows
  assert list(rows) == ["a", "b", "b/aligned", "b/non-thinking", "item-kNN"]
  assert rows["b/aligned"].values("test/item", "recall@1").tolist() == [1, 0.75]
  assert rows["b/aligned"].costs["train_seconds"] == [3, 3]
  assert rows["b/aligned"].costs["parameters"] == [4321, 4321]
  assert "b/aligned" not in comparison_table.read_rows(runs).rows


def test_files_of_the_table(runs, tmp_path):
  rows = comparison_table.read_rows(runs)
  text = comparison_table.write(rows, tmp_path, ["a note"])
  assert (tmp_path / "comparison.md").read_text() == text
  assert text.endswith("a note\n")
  head, *lines = (tmp_path / "comparison.csv").read_text().splitlines()
  cells = dict(zip(head.split(","), lines[0].split(",")))
  assert cells["system"] == "a"
  assert cells["test/item/recall@10"] == "0.375"
  assert cells["test/item/ndcg@10/difference"] == ""
  assert len(lines) == 4
  assert "<svg" in (tmp_path / "comparison.svg").read_text()


def test_outdated_data_is_refused(runs, tmp_path):
  write_run(tmp_path / "old", {}, dataset="e")
  with pytest.raises(UserError, match="different data"):
    comparison_table.read_rows(runs | {"old": [tmp_path / "old"]})


def test_differences_agree_with_the_bootstrap_of_one_seed():
  rng = np.random.default_rng(0)
  ranks_U, other_U = rng.integers(0, 30, (2, 500))

  def row(values_U):
    gains = metrics.gains(values_U)[None]
    return comparison_table.Row({"test/item": gains}, {})

  found = comparison_table.paired_difference(
    row(ranks_U), row(other_U), "test/item"
  )
  expected = intervals.paired_difference(ranks_U, other_U)
  for metric in comparison_table.COMPARED:
    np.testing.assert_allclose(found[metric], expected[metric], atol=5e-3)
    assert found[metric][0] == pytest.approx(expected[metric][0])


def test_a_real_comparison(file, tmp_path):
  """Two configs, two at a time, from nothing to the table."""
  workdir = tmp_path / "w"
  env = os.environ | {
    "XLA_FLAGS": xla_flags(1),
    # What the processes have in common is compiled once.
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
  }
  args = [
    sys.executable,
    "launch/compare.py",
    f"--configs={file},{file}:pause",
    "--seeds=1",
    f"--workdir={workdir}",
    "--overrides=train.valid_users=20",
    "--jobs=2",
  ]
  done = subprocess.run(
    args, cwd=ROOT, env=env, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  text = (workdir / "comparison.md").read_text()
  assert text in done.stdout
  for name in ("| tiny |", "| tiny-pause |", "| popularity |", "| item-kNN |"):
    assert text.count(name) == 3
  plan = comparison.make_plan(
    [file, f"{file}:pause"], 1, ["train.valid_users=20"], workdir
  )
  assert plan.to_do() == []
  run = plan.runs["tiny-pause"][0].folder
  results = json.loads((run / "results.json").read_text())
  assert {"fit_sids", "train/pause"} <= results["seconds"].keys()
  assert results["parameters"]["pause"] > 1000
  assert results["search_ms_per_user"]["pause"] > 0
  stored = np.load(run / "ranks.npz")
  for split in ("test", "valid"):
    for protocol in ("item", "item_unseen", "sid"):
      found = metrics.summarise(stored[f"pause/{split}/{protocol}"])
      assert found == results[split][protocol]
  for floor, scores in results["baselines"].items():
    assert metrics.summarise(stored[f"{floor}/test/item"]) == scores["item"]
