r"""Benchmarks, each as a comparison side by side in one run.

  python launch/benchmark.py --suite=train --out=train.json
  python launch/benchmark.py --suite=train --data=PATH/amazon14_beauty
  python launch/benchmark.py --suite=search --out=search.json
  python launch/benchmark.py --suite=quantizer --width=768

Suite `train`: targets per second of all-position (packed) training against one
target per row in length buckets, of the same network on the same targets:
  short        short histories as code tokens (--data, else the embedded data)
  long         generated histories of --length items, as code tokens
  long_pooled  the same, pooled to one vector per item
Suite `search`: users per second of thinking against non-thinking search, with
--config's network on pooled histories of 50 items and with the paper's network
on 20 items of 4 code tokens; 12,101 items, the config's beam.
Suite `quantizer`: items per second of quantizer training on --width-dimensional
vectors, beside the speed of a plain matrix product.
Suite `prepare`: seconds and peak memory of preparing a CSV of --events events.

Suites `train` and `search` at full size take some 15 minutes each on two cores.
For a look at how it works:
  --config=configs/synthetic.py --users=20 --length=12 --repeats=1
"""

import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
from absl import app, flags
from ml_collections import config_flags

from holorec_jax import artifacts, config_fields
from holorec_jax.data import prepare, synthetic
from holorec_jax.data.config import DataConfig
from holorec_jax.data.pipeline import PipelineConfig
from holorec_jax.errors import UserError
from holorec_jax.experiment import preparation_speed, quantizer_speed
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.search_speed import (
  MODES,
  SearchCase,
  compare_modes,
)
from holorec_jax.experiment.training_speed import (
  Case,
  compare,
  make_long_histories,
)
from holorec_jax.models.config import GeneratorConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = config_flags.DEFINE_config_file(
  "config",
  str(ROOT / "configs" / "beauty.py"),
  "Config file of the network, loss and optimiser; its first system is taken."
  " Leaves can be overridden where the file is named.",
)
SUITE = flags.DEFINE_enum(
  "suite",
  "train",
  ["train", "search", "quantizer", "prepare"],
  "What to compare or measure.",
)
DATA = flags.DEFINE_string(
  "data", "", "Folder with sequences.txt for the short histories."
)
CASES = flags.DEFINE_multi_enum(
  "case",
  ["short", "long", "long_pooled"],
  ["short", "long", "long_pooled"],
  "Which cases; may be given more than once.",
)
USERS = flags.DEFINE_integer(
  "users", 200, "Users of the generated histories.", lower_bound=1
)
LENGTH = flags.DEFINE_integer(
  "length", 100, "Items of the generated histories.", lower_bound=2
)
WIDTH = flags.DEFINE_integer(
  "width", 768, "Dimensions of the quantizer's vectors.", lower_bound=1
)
EVENTS = flags.DEFINE_integer(
  "events", 1_000_000, "Events of the suite `prepare`.", lower_bound=1000
)
REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Timed steps of every batch shape.", lower_bound=1
)
OUT = flags.DEFINE_string(
  "out", "", "JSON file for the results; its folder is made if need be."
)


def check_out(path: pathlib.Path) -> None:
  """Makes the folder of --out; UserError if no file can be written there."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()
  except OSError as error:
    raise UserError(
      f"--out={path} cannot be written ({error}): name a file in a folder that"
      " can be written to"
    ) from error
  if path.is_dir():
    raise UserError(f"--out={path} is a folder: name a file")


def make_cases() -> list[Case]:
  """Data and batches of the chosen cases."""
  cases = []
  if "short" in CASES.value:
    source = (
      DataConfig(source="sequences", path=DATA.value)
      if DATA.value
      else DataConfig(
        synthetic=synthetic.SyntheticConfig(users=10 * USERS.value)
      )
    )
    batches = PipelineConfig(targets_per_batch=512)
    cases.append(Case("short", prepare.prepare(source), "codes", batches, 2.0))
  longest = LENGTH.value
  # Twelve buckets, as many as a patient person would compile.
  buckets = sorted({-(-longest * part // 12) for part in range(1, 13)})
  batches = PipelineConfig(
    max_history=longest,
    targets_per_batch=128,
    length_buckets=tuple(buckets),
  )
  dataset = make_long_histories(USERS.value, 10_000, longest)
  if "long" in CASES.value:
    cases.append(Case("long", dataset, "codes", batches, 10.0))
  if "long_pooled" in CASES.value:
    cases.append(Case("long_pooled", dataset, "pooled", batches, 10.0))
  return cases


def describe(result: dict) -> str:
  """A few lines for people."""
  lines = [
    f"\n{result['case']}: {result['data']}, {result['history']},"
    f" {result['system']}"
  ]
  for rows in ("packed", "one_target"):
    form = result[rows]
    lines.append(
      f"  {rows:<10} {form['targets_per_second']:9.1f} targets/s"
      f" {form['flops_per_target'] / 1e6:9.2f} MFLOP/target"
      f"  padding {form['padding']:.1%}, {form['batch_shapes']} shapes"
    )
  lines.append(
    f"  packed is {result['speedup']:.1f} times as fast (wanted:"
    f" {result['wanted']:.0f}) on {result['flops_saved']:.1f} times fewer FLOPs"
  )
  return "\n".join(lines)


def run_train(config: Config) -> Iterator[dict]:
  """Prints and yields the result of every case of the suite `train`."""
  for case in make_cases():
    result = compare(case, config, REPEATS.value)
    print(describe(result), flush=True)
    yield result


def run_search(config: Config) -> Iterator[dict]:
  """Prints and yields the result of every case of the suite `search`."""
  paper = dataclasses.replace(config, model=GeneratorConfig())
  cases = [
    SearchCase("config's network", config, 12_101, 50, 128),
    SearchCase("paper's network", paper, 12_101, 20, 64),
  ]
  for case in cases:
    result = {"case": case.name} | compare_modes(case, REPEATS.value)
    print(f"\n{case.name}, beam {config.search.beam}")
    for mode in MODES:
      row = result[mode]
      print(
        f"  {mode:<13} {row['users_per_second']:9.1f} users/s"
        f"  (spread {row['spread']:.0%})"
      )
    ratio = result["thinking_vs_non_thinking"]
    print(f"  thinking takes {ratio:.2f} times as long", flush=True)
    yield result


def run_quantizer(config: Config) -> Iterator[dict]:
  """Prints and yields the result of the suite `quantizer`."""
  result = quantizer_speed.measure(config.sid, WIDTH.value, REPEATS.value)
  print(
    f"\nquantizer, {WIDTH.value} dimensions, batch {config.sid.batch_size}:"
    f" {result['items_per_second']:.0f} items/s (spread"
    f" {result['spread']:.0%}), {result['flops_per_item'] / 1e6:.2f}"
    f" MFLOP/item, {result['gflops_per_second']:.0f} GFLOP/s where a plain"
    f" product does {result['matmul_gflops_per_second']:.0f}",
    flush=True,
  )
  yield {"case": "quantizer", "width": WIDTH.value} | result


def run_prepare(config: Config) -> Iterator[dict]:
  """Prints and yields the result of the suite `prepare`."""
  del config  # the source is always `events`, filtered to its 5-core
  result = preparation_speed.measure(EVENTS.value)
  print(
    f"\n{result['events']} events (CSV), {result['kept']} left in the 5-core:"
    f" {result['seconds']:.1f} s, peak memory"
    f" {result['peak_bytes'] / 2**30:.2f} GiB",
    flush=True,
  )
  yield {"case": "prepare"} | result


SUITES = {
  "train": run_train,
  "search": run_search,
  "quantizer": run_quantizer,
  "prepare": run_prepare,
}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  config = config_fields.to_dataclass(Config, CONFIG.value)
  if OUT.value:
    check_out(pathlib.Path(OUT.value))
  results = []
  for result in SUITES[SUITE.value](config):
    results.append(result)
    if OUT.value:
      machine = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.local_device_count(),
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
      }
      report = {"suite": SUITE.value, "machine": machine, "cases": results}
      artifacts.write_json(pathlib.Path(OUT.value), report)


if __name__ == "__main__":
  try:
    app.run(main, flags_parser=config_fields.parse_flags)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
