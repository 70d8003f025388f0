r"""Benchmarks, each as a comparison side by side in one run.

  python launch/benchmark.py --suite=train --out=train.json
  python launch/benchmark.py --suite=train --data=PATH/amazon14_beauty
  python launch/benchmark.py --suite=search --out=search.json
  python launch/benchmark.py --suite=quantize --width=768

Suite `train`: targets per second of all-position (packed) training against one
target per row in length buckets, of the same network on the same targets:
  short         short histories as code tokens (--data, else the embedded data)
  long          generated histories of --length items, as code tokens
  long_pooled   the same, pooled to one vector per item
  transformers  the paper's network beside T5 of the package transformers, which
                pip install -e '.[comparators]' brings (--data, else generated)
Suite `search`: users per second of search at --config's beam:
  systems       --config's network in every system, on histories of 50 items
  comparison    the paper's network on 20 items of 4 code tokens, in all modes
                and pooled, beside transformers' `generate` and a plain torch
                form of our algorithm, on the same weights
  catalogue     the paper's network over catalogues of --items, without
                constraint, with it, and with every filter
  evaluation    22,363 users (Beauty's) by the evaluating recommender, once
  large         a wide network with 200 beams, for accelerators; not by default
Suite `utilization`: what share of the device's matrix products a whole training
step of --config reaches, on its mesh and in its dtype, with its memory and what
its time goes to, by a profile; over --items items (else a million):
  --config=configs/pod/holorec_1b.py:non_thinking --config.mesh.fsdp=1
  --config.model.remat=products --config.input.targets_per_batch=4096
Suite `scaling`: what a training step of --config's network costs by the size of
the catalogue (--items, else 10^3 to 10^6) and by the length of the histories
(--lengths, else 1 to 1,000 items); an SVG plot of both is put beside --out.
Suite `quantize`: items per second of quantizer training on --width-dimensional
vectors; with --items also seconds and memory of fitting and coding so many.
Suite `input`: histories per second that the input pipeline assembles, for the
data of the cases `short` and `long` in both forms; no model, no device.
Suite `prepare`: events per second and peak memory of preparing a CSV of
--events events.

--out gets {"suite", "machine", "rows", "ratios"}; what a row holds is told in
holorec_jax/experiment/timing.py.

Suites `train` and `search` at full size take some 15 minutes each on two cores.
For a look at how it works:
  --config=configs/synthetic.py --users=20 --length=12 --repeats=1
"""

import dataclasses
import functools
import importlib.util
import logging as python_logging
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import prelude  # noqa: F401
import jax
from absl import app, flags
from ml_collections import config_flags

from holorec_jax import artifacts, config_fields
from holorec_jax.errors import UserError
from holorec_jax.experiment import (
  ceiling,
  input_speed,
  preparation_speed,
  quantizer_scale,
  quantizer_speed,
  search_scale,
  search_speed,
  speed_cases,
  timing,
  training_scale,
  training_speed,
  utilization,
)
from holorec_jax.experiment.config import Config
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
  ["train", "utilization", "scaling", "search", "quantize", "input", "prepare"],
  "What to compare or measure.",
)
DATA = flags.DEFINE_string(
  "data", "", "Folder with sequences.txt for the cases of real histories."
)
CASES = flags.DEFINE_multi_enum(
  "case",
  list(speed_cases.NAMES),
  list(speed_cases.NAMES),
  "Which cases of `train` and `input`; may be given more than once.",
)
SEARCH_CASES = flags.DEFINE_multi_enum(
  "search_case",
  ["systems", "comparison", "catalogue", "evaluation"],
  ["systems", "comparison", "catalogue", "evaluation", "large"],
  "Which cases of `search`; may be given more than once.",
)
ITEMS = flags.DEFINE_multi_integer(
  "items",
  None,
  "Catalogues of the suites `search` (else 12,101, 1 million and 10 million,"
  " which takes some 3 GB; all cases but `catalogue` take the first), `scaling`"
  " and `quantize`, in ascending order; `utilization` takes the first, else a"
  " million.",
  lower_bound=2,
)
LENGTHS = flags.DEFINE_multi_integer(
  "lengths",
  [1, 4, 16, 64, 250, 1000],
  "History items of a row in the suite `scaling`, in ascending order.",
  lower_bound=1,
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
BATCH_TARGETS = flags.DEFINE_integer(
  "batch_targets",
  None,
  "Targets of a batch in the suite `input`, instead of those of each case.",
  lower_bound=1,
)
REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Timed turns of everything measured.", lower_bound=1
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


def make_cases(
  config: Config, names: tuple[str, ...]
) -> Iterator[speed_cases.Case]:
  """Those of the named cases that --case chooses."""
  chosen = [name for name in names if name in CASES.value]
  yield from speed_cases.make_cases(
    chosen, config, DATA.value, USERS.value, LENGTH.value
  )


def has_comparators() -> bool:
  """Whether torch and transformers are there; says so where not."""
  for package in ("torch", "transformers"):
    if importlib.util.find_spec(package) is None:
      print(
        f"{package} is not installed, so transformers and torch do not take"
        " part: pip install -e '.[comparators]'"
      )
      return False
  return True


def find_rival() -> training_speed.MakeRival | None:
  """Training steps of transformers' T5, where it is installed."""
  if not has_comparators():
    return None
  import torch

  from third_party import transformers_training

  on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
  return functools.partial(
    transformers_training.make_train_step, device="cuda" if on_gpu else "cpu"
  )


def run_train(config: Config) -> Iterator[timing.Result]:
  """Every case of the suite `train`."""
  for case in make_cases(config, speed_cases.NAMES):
    rival = find_rival() if case.name == "transformers" else None
    yield training_speed.compare(case, REPEATS.value, rival)


def run_utilization(config: Config) -> Iterator[timing.Result]:
  """The one case of the suite `utilization`."""
  items = ITEMS.value[0] if ITEMS.value else 10**6
  yield utilization.measure(config, items, REPEATS.value)


def run_scaling(config: Config) -> Iterator[timing.Result]:
  """Both cases of the suite `scaling`, and their plot."""
  items = ITEMS.value or [10**3, 10**4, 10**5, 10**6]
  results = training_scale.measure(config, items, LENGTHS.value, REPEATS.value)
  if OUT.value:
    rows = [row for result in results for row in result.rows]
    training_scale.draw(rows, pathlib.Path(OUT.value).with_suffix(".svg"))
  yield from results


def find_search_rivals() -> search_speed.Rivals:
  """Searches of other packages, where these are installed."""
  if not has_comparators():
    return {}
  from third_party import (
    torch_generator,
    torch_plain,
    torch_search,
    transformers_search,
  )

  def make_torch(network, params, config, built, beam):
    return torch_search.TorchSearch(
      params,
      config,
      built,
      beam,
      beam,
      search_speed.PAPER_HISTORY,
      network=network,
    )

  def make_transformers(params, config, built, beam):
    return transformers_search.make_search(params, config, built, beam, beam)

  return {
    "transformers": (make_transformers, (8, 32, 96)),
    "torch_shared": (
      functools.partial(make_torch, torch_plain.PlainGenerator),
      (8, 16, 32, 64, 256),
    ),
    "torch_merged": (
      functools.partial(make_torch, torch_generator.TorchGenerator),
      (8, 16, 32, 64, 256),
    ),
  }


def run_search(config: Config) -> Iterator[timing.Result]:
  """Every case of the suite `search`."""
  items = ITEMS.value or [12_101, 1_000_000, 10_000_000]
  repeats = REPEATS.value
  if "systems" in SEARCH_CASES.value:
    yield search_speed.compare_systems(config, items[0], 50, 128, repeats)
  # T5 reads a history in both directions.
  model = GeneratorConfig(causal_history=False, softmax="tree")
  one_target = dataclasses.replace(config.input, rows="one_target")
  paper = dataclasses.replace(config, model=model, input=one_target)
  if "comparison" in SEARCH_CASES.value:
    yield search_speed.compare_rivals(
      paper, items[0], (8, 16, 64), repeats, find_search_rivals()
    )
  model = GeneratorConfig(causal_history=False)
  paper = dataclasses.replace(paper, model=model)
  if "catalogue" in SEARCH_CASES.value:
    yield search_scale.compare_catalogues(paper, items, 64, repeats)
  if "evaluation" in SEARCH_CASES.value:
    yield search_scale.time_evaluation(
      "evaluation", config, config.systems[0], config.input.max_history
    )
    yield search_scale.time_evaluation(
      "evaluation, paper's network",
      paper,
      "non_thinking",
      search_speed.PAPER_HISTORY,
    )

  if "large" in SEARCH_CASES.value:
    yield search_scale.time_large(large_config(config), items[0], repeats)


def large_config(config: Config) -> Config:
  """The case `large`: a network for an accelerator."""
  on_cpu = jax.default_backend() == "cpu"
  return dataclasses.replace(
    config,
    model=GeneratorConfig(
      d_model=1024,
      num_heads=16,
      head_dim=64,
      d_ff=4096,
      encoder_layers=8,
      decoder_layers=8,
    ),
    search=dataclasses.replace(
      config.search, beam=200, dtype="float32" if on_cpu else "bfloat16"
    ),
  )


def run_quantize(config: Config) -> Iterator[timing.Result]:
  """A few batches of the suite `quantize`, and whole catalogues."""
  nested = config.sid.nested
  yield quantizer_speed.measure(nested, WIDTH.value, REPEATS.value)
  if ITEMS.value:
    yield quantizer_scale.measure(nested, WIDTH.value, ITEMS.value)


def run_input(config: Config) -> Iterator[timing.Result]:
  """Every case of the suite `input`."""
  for case in make_cases(config, ("short", "long")):
    if BATCH_TARGETS.value:
      case = speed_cases.with_batches(case, BATCH_TARGETS.value)
    yield input_speed.compare(case, REPEATS.value)


def run_prepare(config: Config) -> Iterator[timing.Result]:
  """The one case of the suite `prepare`."""
  del config  # the source is always `events`, filtered to its 5-core
  yield preparation_speed.measure(EVENTS.value, REPEATS.value)


SUITES = {
  "train": run_train,
  "utilization": run_utilization,
  "scaling": run_scaling,
  "search": run_search,
  "quantize": run_quantize,
  "input": run_input,
  "prepare": run_prepare,
}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  python_logging.getLogger("jax").setLevel(python_logging.WARNING)
  config = config_fields.to_dataclass(Config, CONFIG.value)
  if OUT.value:
    check_out(pathlib.Path(OUT.value))
  machine = ceiling.describe_machine(REPEATS.value)
  print(
    f"{machine['cpus']} CPUs ({machine['cpu']}), load {machine['load']:.1f},"
    f" {machine['devices']} device(s) ({machine['device']}), jax"
    f" {jax.__version__}; a matrix product does"
    f" {machine['matmul_gflops_per_second']:.0f} GFLOP/s",
    flush=True,
  )
  rows: list[timing.Row] = []
  ratios: dict[str, float] = {}
  for result in SUITES[SUITE.value](config):
    print(timing.describe(result), flush=True)
    rows += result.rows
    ratios |= result.ratios
    if OUT.value:
      report = {"rows": rows, "ratios": ratios}
      artifacts.write_json(
        pathlib.Path(OUT.value),
        {"suite": SUITE.value, "machine": machine} | report,
      )


if __name__ == "__main__":
  try:
    app.run(main, flags_parser=config_fields.parse_flags)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
