"""Data and batches whose training and reading is measured.

Every case trains the same targets in two forms (`data.pipeline.SOURCES`):
all_position, where every position of packed histories opens a branch, and
one_target, a row per (history, target) pair in batches of like lengths.

  short         short histories as code tokens; all_position should be at least
                2 times as fast
  long          histories of 100 items, as code tokens; at least 10 times
  long_pooled   the same, pooled to one vector per item; at least 10 times
  transformers  the published network without thoughts, on histories of up to
                20 items of 4 codes; transformers' T5 trains on the very rows of
                one_target, and on those of a third side, one_target_padded,
                where every row is padded to 20 items
"""

import dataclasses

import numpy as np

from holorec_jax.data import prepare, schema, synthetic
from holorec_jax.data.config import DataConfig
from holorec_jax.data.pipeline import PipelineConfig
from holorec_jax.experiment.config import Config
from holorec_jax.models.config import History

NAMES = ("short", "long", "long_pooled", "transformers")
# Beauty's, whose catalogue is the size of many published ones.
ITEMS = 12_101
PAPER_HISTORY = 20
# Rows of 20 items, of which the faster number counts.
PAPER_BATCHES = (32, 128)


@dataclasses.dataclass(frozen=True)
class Case:
  """One comparison.

  Attributes:
    name: one of NAMES.
    config: network, loss, optimiser; its first system is trained.
    dataset: whose training targets are trained.
    sides: name -> batches; where there are several, the fastest count.
  """

  name: str
  config: Config
  dataset: schema.Dataset
  sides: dict[str, tuple[PipelineConfig, ...]]


def make_cases(
  names: list[str], config: Config, folder: str, users: int, length: int
) -> list[Case]:
  """The named cases.

  Args:
    names: some of NAMES.
    config: network, loss and optimiser of all but `transformers`.
    folder: with the sequences.txt of the cases `short` and `transformers`; ""
      for generated histories.
    users: of the generated histories.
    length: items of the long ones.
  """
  cases = [make_short_case(config, folder, users)] if "short" in names else []
  if "long" in names or "long_pooled" in names:
    dataset = make_histories(users, 10_000, length)
    cases += [
      make_long_case(name, config, dataset, length)
      for name in ("long", "long_pooled")
      if name in names
    ]
  if "transformers" in names:
    paper = Config(systems=("plain",))
    cases.append(make_paper_case(paper, folder, users))
  return cases


def make_short_case(config: Config, folder: str, users: int) -> Case:
  """Histories from a file, or those of the embedded data set."""
  generated = synthetic.SyntheticConfig(users=10 * users)
  source = (
    _read(folder)
    if folder
    else prepare.prepare(DataConfig(synthetic=generated))
  )
  batches = PipelineConfig(targets_per_batch=512)
  return Case(
    "short", with_history(config, "codes"), source, both_forms(batches)
  )


def _read(folder: str) -> schema.Dataset:
  return prepare.prepare(DataConfig(source="sequences", path=folder))


def make_long_case(
  name: str, config: Config, dataset: schema.Dataset, length: int
) -> Case:
  """Histories of `length` items, as code tokens or pooled."""
  # Twelve buckets, as many as a patient person would compile.
  buckets = sorted({-(-length * part // 12) for part in range(1, 13)})
  batches = PipelineConfig(
    max_history=length,
    targets_per_batch=128,
    length_buckets=tuple(buckets),
  )
  history: History = "pooled" if name == "long_pooled" else "codes"
  return Case(name, with_history(config, history), dataset, both_forms(batches))


def make_paper_case(config: Config, folder: str, users: int) -> Case:
  """The published batches; `config` decides on the network."""
  longest = PAPER_HISTORY
  packed = PipelineConfig(max_history=longest, targets_per_batch=320)
  single = dataclasses.replace(
    packed, rows="one_target", targets_per_batch=max(PAPER_BATCHES)
  )
  padded = tuple(
    dataclasses.replace(
      single, targets_per_batch=rows, length_buckets=(longest,)
    )
    for rows in PAPER_BATCHES
  )
  return Case(
    "transformers",
    config,
    _read(folder) if folder else make_histories(users, ITEMS, longest),
    {
      "all_position": (packed,),
      "one_target": (single,),
      "one_target_padded": padded,
    },
  )


def with_history(config: Config, history: History) -> Config:
  """The config with another form of history."""
  model = dataclasses.replace(config.model, history=history)
  return dataclasses.replace(config, model=model)


def with_batches(case: Case, targets: int) -> Case:
  """The case with so many targets in every batch."""
  sides = {
    name: tuple(
      dataclasses.replace(each, targets_per_batch=targets) for each in batches
    )
    for name, batches in case.sides.items()
  }
  return dataclasses.replace(case, sides=sides)


def both_forms(
  batches: PipelineConfig,
) -> dict[str, tuple[PipelineConfig, ...]]:
  """The two forms of the same targets, by the names that results bear."""
  return {
    "all_position": (dataclasses.replace(batches, rows="packed"),),
    "one_target": (dataclasses.replace(batches, rows="one_target"),),
  }


def make_histories(users: int, items: int, length: int) -> schema.Dataset:
  """Random data whose training histories all have `length` items."""
  rng = np.random.default_rng(0)
  events = length + 3  # Beside the targets of validation and test.
  names = np.array([str(i) for i in range(max(users, items))], object)
  return schema.Dataset(
    name=f"random histories of {length} items",
    item_ids=names[:items],
    item_text={},
    user_ids=names[:users],
    offsets=np.arange(users + 1) * events,
    items=rng.integers(0, items, users * events).astype(np.int32),
  )
