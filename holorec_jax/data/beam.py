"""Preparation by Apache Beam: equal, byte for byte, to `prepare.prepare`.

Both executors run the same columnar functions (`shards`, `filters`,
`prepare.finish`). The local one takes all users at once; here they are spread
over partitions by a hash of their ids (`partitions`), and a partition's events,
in columns, are one element of a collection.

A round of the core counts items within each partition, adds the counts up by
item and tells every partition the totals of its own items. How many rounds it
takes is known only afterwards: a pipeline has `ROUNDS` of them, and the driver
runs another one until a last round removes nothing. Between pipelines, and from
the workers to the driver, partitions lie in files of a scratch folder.

What is left is numbered, joined with the item table and written by the driver:
the finished data set has to fit its memory. A partition has to fit a worker's,
and so has a shard: give a folder of many files, since one worker reads a file.

On a cluster, the config's paths and the workdir lie on a file system that all
machines mount, and workers have this package installed with its extra `beam`.
What follows `--` goes to Beam as it is:

  python launch/prepare_data.py --config=CONFIG --workdir=/mnt/shared/run \
    --executor=beam --partitions=512 -- --runner=FlinkRunner \
    --flink_master=HOST:8081 --parallelism=64 --environment_type=DOCKER \
    --environment_config=IMAGE

or, after `--`: --runner=SparkRunner --spark_master_url=URL and the environment
as above, or --runner=DataflowRunner --project=P --region=R
--temp_location=gs://B/tmp --sdk_container_image=IMAGE. No test here runs any of
these three; what is tested is Beam's direct runner.
"""

import contextlib
import itertools
import pathlib
import pickle
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from absl import logging
from apache_beam.options.pipeline_options import PipelineOptions

from holorec_jax import artifacts
from holorec_jax.data import filters, partitions, schema, shards
from holorec_jax.data import prepare as local
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError

ROUNDS = 4
# What Beam's DirectRunner runs on unless it can fetch a binary from the net
# first, which nobody asked for.
HERE = (
  "--runner=apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
)

# (partition, its events)
Keyed = tuple[int, partitions.Part]


def prepare(
  config: DataConfig,
  options: Sequence[str],
  scratch: pathlib.Path,
  num_partitions: int = 16,
) -> schema.Dataset:
  """What `prepare.prepare` gives, computed by Beam.

  Args:
    config: source, filters, split.
    options: flags of Beam's runner, as on a command line; without --runner it
      is the direct runner in this process.
    scratch: a folder that driver and workers share; removed at the end.
    num_partitions: of the users.

  Raises:
    UserError: as `prepare.prepare`.
  """
  local.check(config)
  filters.check_policy(config)
  with _folder(scratch):
    for turn in itertools.count():
      with beam.Pipeline(options=_options(options)) as pipeline:
        if turn == 0:
          parts = pipeline | _Tidied(config, scratch, num_partitions)
        else:
          paths = _paths(scratch, turn - 1)
          parts = pipeline | beam.Create(paths) | beam.Map(_load)
        for number in range(ROUNDS):
          parts |= f"round {number}" >> _Round(config, num_partitions)
        _ = parts | beam.Map(_save, scratch, turn)
      if turn == 0:
        _check_tidied(config, scratch)
      if not sum(_records(scratch, f"{turn}-*", "removed")):
        break
    logging.info("core: no change after %d rounds", ROUNDS * (turn + 1))
    if not sum(_records(scratch, f"{turn}-*", "events")):
      raise filters.nothing_left(config, _before_core(scratch))
    left = [_load(path)[1] for path in _paths(scratch, turn)]
  return local.finish(partitions.number(left), config)


def _options(flags: Sequence[str]) -> PipelineOptions:
  named = any(flag.partition("=")[0] == "--runner" for flag in flags)
  return PipelineOptions([*flags] if named else [HERE, *flags])


@contextlib.contextmanager
def _folder(path: pathlib.Path) -> Iterator[None]:
  shutil.rmtree(path, ignore_errors=True)
  path.mkdir(parents=True)
  try:
    yield
  finally:
    shutil.rmtree(path, ignore_errors=True)


class _Tidied(beam.PTransform):
  """Every user's events, ordered and filtered."""

  def __init__(
    self, config: DataConfig, scratch: pathlib.Path, num_partitions: int
  ):
    self._config, self._scratch = config, scratch
    self._num_partitions = num_partitions

  def expand(self, pipeline):
    return (
      pipeline
      | beam.Create(list(enumerate(shards.split(self._config))))
      | beam.Reshuffle()  # Or a runner may read all shards in one worker.
      | beam.FlatMap(_read, self._scratch, self._num_partitions)
      | beam.GroupByKey()
      | beam.Map(_tidy, self._config, self._scratch)
    )


def _read(
  numbered: tuple[int, DataConfig], scratch: pathlib.Path, num_partitions: int
) -> Iterator[tuple[int, tuple[int, partitions.Part]]]:
  """A shard's events by partition: (partition, (shard, Part))."""
  shard, config = numbered
  events = _read_or_record(config, scratch / f"shard-{shard:06d}.json")
  if events is not None:
    for key, part in partitions.by_user(events, shard, num_partitions):
      yield key, (shard, part)


def _read_or_record(
  config: DataConfig, record: pathlib.Path
) -> schema.Events | None:
  """A shard's events, None if the driver has to refuse it; says so either way.

  Runners wrap what a worker raises, so the driver raises the UserError.
  """
  try:
    events = shards.read(config)
  except UserError as error:
    artifacts.write_json(record, {"error": str(error)})
    return None
  highest = filters.highest_rating(events)
  artifacts.write_json(
    record, {"events": events.num_events, "highest": highest}
  )
  return None if config.min_rating and highest is None else events


def _tidy(
  keyed: tuple[int, Iterable[tuple[int, partitions.Part]]],
  config: DataConfig,
  scratch: pathlib.Path,
) -> Keyed:
  """What all shards have of a partition, ordered and filtered."""
  key, pieces = keyed
  in_order = sorted(pieces, key=lambda piece: piece[0])
  joined = partitions.join([part for _, part in in_order])
  part = partitions.tidy(joined, config)
  artifacts.write_json(
    scratch / f"tidy-{key}.json",
    {"events": part.events.num_events, "users": len(part.seen)},
  )
  return key, part


class _Round(beam.PTransform):
  """One round of the core."""

  def __init__(self, config: DataConfig, num_partitions: int):
    self._bounds = filters.core_bounds(config)
    self._num_partitions = num_partitions

  def expand(self, parts):
    totals = (
      parts
      | beam.FlatMap(_count_items, self._num_partitions)
      | beam.GroupByKey()
      | beam.FlatMap(_add_up)
    )
    grouped = {"part": parts, "totals": totals} | beam.CoGroupByKey()
    return grouped | beam.Map(_drop, *self._bounds)


def _count_items(
  keyed: Keyed, num_partitions: int
) -> Iterator[tuple[int, partitions.Counts]]:
  key, part = keyed
  return partitions.count_items(part, key, num_partitions)


def _add_up(
  keyed: tuple[int, Iterable[partitions.Counts]],
) -> Iterator[tuple[int, partitions.Counts]]:
  for total in partitions.add_up(list(keyed[1])):
    yield total.partition, total


def _drop(
  keyed: tuple[int, dict[str, Iterable[Any]]], min_user: int, min_item: int
) -> Keyed:
  key, grouped = keyed
  [part] = grouped["part"]
  return key, partitions.drop(part, grouped["totals"], min_user, min_item)


def _save(keyed: Keyed, scratch: pathlib.Path, turn: int) -> None:
  key, part = keyed
  with artifacts.atomic_file(scratch / f"{turn}-{key}.part") as file:
    pickle.dump(keyed, file)
  artifacts.write_json(
    scratch / f"{turn}-{key}.json",
    {"removed": part.removed, "events": part.events.num_events},
  )


def _load(path: str) -> Keyed:
  with open(path, "rb") as file:
    return pickle.load(file)


def _paths(scratch: pathlib.Path, turn: int) -> list[str]:
  return sorted(map(str, scratch.glob(f"{turn}-*.part")))


def _records(scratch: pathlib.Path, pattern: str, field: str) -> list[Any]:
  """What workers wrote down under a field, in the order of file names."""
  paths = sorted(scratch.glob(f"{pattern}.json"))
  records = [artifacts.read_json(path) for path in paths]
  return [record[field] for record in records if field in record]


def _check_tidied(config: DataConfig, scratch: pathlib.Path) -> None:
  """Raises the UserError that the local executor would raise."""
  for message in _records(scratch, "shard-*", "error"):
    raise UserError(message)
  num_events = sum(_records(scratch, "shard-*", "events"))
  ratings = _records(scratch, "shard-*", "highest")
  highest = None if None in ratings else float(np.fmax.reduce(ratings))
  filters.check_read(num_events, highest, config)
  logging.info(
    "%s: read %d events in %d shards; ordered and filtered, %s",
    config.source,
    num_events,
    len(ratings),
    _before_core(scratch),
  )


def _before_core(scratch: pathlib.Path) -> str:
  num_events = sum(_records(scratch, "tidy-*", "events"))
  num_users = sum(_records(scratch, "tidy-*", "users"))
  return f"{num_events} events of {num_users} users"
