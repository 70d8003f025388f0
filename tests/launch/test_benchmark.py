"""The suites of the benchmark at their smallest: no speed is asserted here."""

import json
import math
import os
import pathlib
import subprocess
import sys

from forked import ROOT, call_all
from quick_xla import xla_flags

TINY = (
  "--config=configs/synthetic.py",
  "--config.systems=('plain',)",
  "--config.sid.nested.dims=(4,)",
  "--config.sid.nested.levels=2",
  "--config.sid.nested.hidden=(16,)",
  "--users=20",
  "--length=2",
  "--repeats=1",
  "--width=16",
)
WITHOUT_TORCH = (
  "import sys; sys.path.insert(0, 'launch'); import benchmark\n"
  "sys.modules['torch'] = None; assert benchmark.find_rival() is None"
)
COSTS = ("gflops_per_second", "matmul_gflops_per_second", "matmul_share")


def read_rows(path: pathlib.Path, suite: str) -> tuple[list[dict], dict]:
  report = json.loads(path.read_text())
  assert set(report) == {"suite", "machine", "rows", "ratios"}
  assert report["suite"] == suite
  machine = report["machine"]
  assert {"jax", "numpy"} <= set(machine["versions"])
  assert_positive(machine, "cpus", "devices", "matmul_gflops_per_second")
  for row in report["rows"]:
    assert row["unit"].endswith("/s")
    assert row["repeats"] == 1 and row["spread"] == 0
    assert_positive(row, "median")
  return report["rows"], report["ratios"]


def assert_positive(values: dict, *names: str) -> None:
  for name in names:
    assert values[name] > 0, (name, values)
    assert math.isfinite(values[name]), (name, values)


def check_train(rows: list[dict], ratios: dict) -> None:
  assert [row["side"] for row in rows] == ["all_position", "one_target"]
  for row in rows:
    assert row["case"] == "long_pooled"
    assert (row["history"], row["system"]) == ("pooled", "plain")
    assert_positive(row, "flops_per_target", "bytes_per_target", *COSTS)
    assert_positive(row, "users_per_second", "batch_shapes")
    assert 0 <= row["padding"] < 1
    # The users' only training targets, the same in both forms.
    assert row["targets_per_epoch"] == 20 * 2
  assert set(ratios) == {
    "long_pooled/all_position_vs_one_target",
    "long_pooled/flops_saved",
  }
  assert_positive(ratios, *ratios)


def check_input(rows: list[dict]) -> None:
  assert [(row["case"], row["side"]) for row in rows] == [
    (case, side)
    for case in ("short", "long")
    for side in ("all_position", "one_target")
  ]
  for row in rows:
    assert row["unit"] == "histories/s"
    assert_positive(row, "bytes_per_second", "batches_per_second")
    assert 0 <= row["padding"] < 1
    rows = 8 if row["side"] == "all_position" else 64
    assert f"in batches of {rows} rows" in row["note"]
    # A row's one history asks for one item, a packed one for one per slot.
    per_history = row["targets_per_second"] / row["median"]
    if row["side"] == "one_target":
      assert math.isclose(per_history, 1)
    elif row["case"] == "long":
      assert math.isclose(per_history, 2)


def check_utilization(rows: list[dict]) -> None:
  [row] = rows
  assert row["side"] == "plain, float32"
  assert_positive(row, "flops_per_target", *COSTS)
  assert_positive(row, "parameters", "step_ms", "compile_seconds")
  # No CPU has its peak on a data sheet here.
  assert "mfu" not in row
  spent = [ms for _, ms in row["profile"]]
  assert spent == sorted(spent, reverse=True) and min(spent) > 0
  for way in ("forward", "backward", "again"):
    assert any(what.startswith(f"{way} ") for what, _ in row["profile"])


def check_quantize(rows: list[dict], ratios: dict) -> None:
  training, *whole = rows
  assert training["width"] == 16
  assert_positive(training, "flops_per_item", "bytes_per_item", *COSTS)
  assert [row["side"] for row in whole] == [
    f"{stage}, {size}" for size in (40, 80) for stage in ("fit", "codes")
  ]
  for row in whole:
    assert_positive(row, "seconds", "peak_bytes")
    assert math.isclose(row["median"] * row["seconds"], row["items"])
  assert set(ratios) == {
    "quantizer/fit_hours_of_1e8_items",
    "quantizer/code_hours_of_1e8_items",
    "quantizer/peak_gib_of_1e8_items",
    "quantizer/peak_bytes_per_item",
  }


def check_scaling(rows: list[dict], ratios: dict, plot: str) -> None:
  catalogues, histories = rows[:2], rows[2:]
  assert [row["items"] for row in catalogues] == [40, 80]
  # Pooled: a token an item, in rows of as many items as asked for.
  assert [row["tokens"] for row in histories] == [2 * 1, 2 * 16]
  for row in rows:
    assert_positive(row, "step_ms", "step_flops", *COSTS)
    assert math.isclose(
      row["flops_per_token"] * row["tokens"], row["step_flops"]
    )
  # The step reads rows of the tables of codes, whatever their length.
  assert ratios["catalogue/step_flops_of_largest_vs_smallest"] == 1
  # More tokens cost more, and not quite their square.
  assert 0 < ratios["history/step_flops_exponent"] < 2
  assert "items of the catalogue" in plot and "<svg" in plot


def check_search(rows: list[dict], ratios: dict) -> None:
  sides = [row["side"] for row in rows if row["case"] == "systems"]
  assert sides == [
    "plain",
    "non_thinking",
    "thinking",
    "pause",
    "s2gr",
    "reg4rec",
    "sasrec",
  ]
  sides = [row["side"] for row in rows if row["case"] == "catalogue"]
  assert sides == [
    f"{size}{kind}"
    for size in (40, 80)
    for kind in (", any code", " items", ", filtered")
  ]
  for row in rows:
    if row["side"] in ("non_thinking", "40 items"):
      assert_positive(row, "flops_per_user", "bytes_per_user", *COSTS)
    assert_positive(row, "ms_per_batch", "batch")
  assert_positive(
    ratios, "systems/thinking_vs_non_thinking", "systems/reg4rec_vs_plain"
  )
  overheads = [ratios[f"filters_overhead/{size}"] for size in (40, 80)]
  assert ratios["constraint_overhead"] == max(overheads)
  assert ratios["slowest_vs_fastest_catalogue"] >= 1


def test_suites_and_their_results(tmp_path):
  outs = {
    suite: tmp_path / "new" / f"{suite}.json"
    for suite in (
      "train",
      "utilization",
      "scaling",
      "quantize",
      "input",
      "prepare",
      "search",
    )
  }
  more = {
    "train": ["--case=long_pooled"],
    "scaling": ["--items=40", "--items=80"]
    + [f"--lengths={length}" for length in (1, 16)],
    "utilization": ["--items=40", "--config.model.remat=products"],
    "quantize": ["--items=40", "--items=80"],
    "input": ["--batch_targets=64"],
    "prepare": ["--events=5000"],
    "search": [
      "--search_case=systems",
      "--search_case=catalogue",
      "--items=40",
      "--items=80",
    ],
  }
  calls = [
    (
      "benchmark.py",
      *TINY,
      f"--suite={suite}",
      f"--out={out}",
      *more.get(suite, []),
    )
    for suite, out in outs.items()
  ]
  (tmp_path / "file").touch()
  out = f"--out={tmp_path}/file/x.json"
  calls.append(("benchmark.py", *TINY, "--suite=quantize", out))
  *measured, refused = call_all(
    tmp_path,
    calls,
    ["prelude"]
    + [
      f"holorec_jax.experiment.{name}"
      for name in ("search_scale", "training_scale", "quantizer_scale")
    ],
    # One device, as whoever measures has.
    os.environ | {"XLA_FLAGS": xla_flags(1)},
  )

  found = {}
  for answer, (suite, out) in zip(measured, outs.items()):
    assert answer.returncode == 0, answer.stderr
    found[suite] = read_rows(out, suite)
    for row in found[suite][0]:
      assert f"{row['median']:,.1f} {row['unit']}" in answer.stdout
  check_train(*found["train"])
  check_quantize(*found["quantize"])
  check_scaling(
    *found["scaling"], outs["scaling"].with_suffix(".svg").read_text()
  )
  check_utilization(found["utilization"][0])
  check_input(found["input"][0])
  check_search(*found["search"])
  [row] = found["prepare"][0]
  assert row["events"] == 5000 and 0 < row["kept"] <= 5000
  assert_positive(row, "seconds", "peak_bytes")

  assert refused.returncode == 2
  assert refused.stderr.startswith(f"error: --out={tmp_path}/file/x.json can")
  assert refused.stderr.count("\n") == 1, refused.stderr


def test_torch_that_is_not_installed_is_named():
  alone = subprocess.run(
    [sys.executable, "-c", WITHOUT_TORCH],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert alone.returncode == 0, alone.stderr
  assert alone.stdout.count("\n") == 1, alone.stdout
  assert "pip install -e '.[comparators]'" in alone.stdout
