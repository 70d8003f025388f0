"""The suites of the benchmark at their smallest: no speed is asserted here."""

import json
import math
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TINY = (
  "--config=configs/synthetic.py",
  "--config.systems=('plain',)",
  "--config.sid.dims=(4,)",
  "--config.sid.levels=2",
  "--config.sid.hidden=(16,)",
  "--users=20",
  "--length=2",
  "--repeats=1",
  "--width=16",
)
FORM = ("targets_per_second", "flops_per_target", "targets_per_epoch")
QUANTIZER = (
  "items_per_second",
  "flops_per_item",
  "gflops_per_second",
  "matmul_gflops_per_second",
)


def call(*args: str) -> subprocess.CompletedProcess:
  # One device, as whoever measures has.
  flags = "--xla_backend_optimization_level=0"
  return subprocess.run(
    [sys.executable, str(ROOT / "launch" / "benchmark.py"), *TINY, *args],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": flags},
    capture_output=True,
    text=True,
  )


def read_case(path: pathlib.Path, suite: str) -> dict:
  report = json.loads(path.read_text())
  assert report["suite"] == suite
  assert set(report["machine"]) == {"device", "devices", "cpus", "jax"}
  [case] = report["cases"]
  return case


def assert_positive(values: dict, names: tuple[str, ...]) -> None:
  for name in names:
    assert values[name] > 0, (name, values)
    assert math.isfinite(values[name]), (name, values)


def test_suites_and_their_results(tmp_path):
  """One test, since importing JAX takes each process seconds."""
  train, quantizer = tmp_path / "new/train.json", tmp_path / "quantizer.json"
  prepare = tmp_path / "prepare.json"
  (tmp_path / "file").touch()
  calls = [
    ("--suite=train", "--case=long_pooled", f"--out={train}"),
    ("--suite=quantizer", f"--out={quantizer}"),
    ("--suite=prepare", "--events=5000", f"--out={prepare}"),
    ("--suite=quantizer", f"--out={tmp_path}/file/x.json"),
  ]
  with ThreadPoolExecutor(2) as pool:
    trained, quantized, prepared, refused = pool.map(
      lambda args: call(*args), calls
    )

  assert trained.returncode == 0, trained.stderr
  case = read_case(train, "train")
  assert case["case"] == "long_pooled"
  assert case["history"] == "pooled"
  assert case["system"] == "plain"
  assert_positive(case, ("speedup", "flops_saved", "wanted"))
  for form in ("packed", "one_target"):
    assert_positive(case[form], (*FORM, "batch_shapes"))
    assert 0 <= case[form]["padding"] < 1
  # The users' only training targets, the same in both forms.
  assert case["packed"]["targets_per_epoch"] == 20 * 2
  assert case["one_target"]["targets_per_epoch"] == 20 * 2
  rate = f"{case['packed']['targets_per_second']:.1f} targets/s"
  assert rate in trained.stdout

  assert quantized.returncode == 0, quantized.stderr
  case = read_case(quantizer, "quantizer")
  assert (case["case"], case["width"]) == ("quantizer", 16)
  assert_positive(case, QUANTIZER)
  assert case["spread"] >= 0
  assert f"{case['items_per_second']:.0f} items/s" in quantized.stdout

  assert prepared.returncode == 0, prepared.stderr
  case = read_case(prepare, "prepare")
  assert case["events"] == 5000 and 0 < case["kept"] <= 5000
  assert_positive(case, ("seconds", "events_per_second", "peak_bytes"))

  assert refused.returncode == 2
  assert refused.stderr.startswith(f"error: --out={tmp_path}/file/x.json can")
  assert refused.stderr.count("\n") == 1, refused.stderr
