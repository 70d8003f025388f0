"""Beam's executor gives the local executor's data set, byte for byte."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holorec_jax import artifacts
from holorec_jax.data import filters, prepare, schema, shards
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError

pytest.importorskip("apache_beam", reason="needs the extra: holorec_jax[beam]")

from holorec_jax.data import beam

COLUMNS = ("user", "item", "timestamp", "rating")


def _write(folder, rows) -> DataConfig:
  """Three shards, one of each format, with every user in most of them."""
  path = folder / "shards"
  path.mkdir()
  first, second, third = (
    [dict(zip(COLUMNS, row)) for row in rows[part::3]] for part in range(3)
  )
  lines = [",".join(COLUMNS)]
  lines += [",".join(str(v) for v in row.values()) for row in first]
  (path / "a.csv").write_text("\n".join(lines))
  pq.write_table(pa.Table.from_pylist(second), path / "b.parquet")
  (path / "c.jsonl").write_text("\n".join(json.dumps(r) for r in third))
  return DataConfig(source="events", path=str(path))


def _random_rows(num_events=1500, num_users=90, num_items=120):
  """Few distinct times, so that they tie; popular items, often repeated."""
  rng = np.random.default_rng(3)
  users = (num_users * rng.random(num_events) ** 1.7).astype(int)
  items = (num_items * rng.random(num_events) ** 2.2).astype(int)
  repeat = rng.random(num_events) < 0.1
  items[1:][repeat[1:]] = items[:-1][repeat[1:]]
  times = rng.integers(100, 120, num_events)
  ratings = rng.integers(1, 6, num_events)
  rows = zip(users.tolist(), items.tolist(), times.tolist(), ratings.tolist())
  return [(f"u{u}", f"i{i}", t, float(r)) for u, i, t, r in rows]


def _prepare(config, folder) -> schema.Dataset:
  return beam.prepare(config, [], folder / "scratch", num_partitions=3)


def _assert_equal(config, tmp_path) -> schema.Dataset:
  """Equal arrays of equal types, and folders of equal bytes."""
  here, there = prepare.prepare(config), _prepare(config, tmp_path)
  for field in dataclasses.fields(schema.Dataset):
    a, b = getattr(here, field.name), getattr(there, field.name)
    if isinstance(a, np.ndarray):
      assert a.dtype == b.dtype, field.name
      np.testing.assert_array_equal(a, b, err_msg=field.name)
  schema.save_dataset(here, tmp_path / "here")
  schema.save_dataset(there, tmp_path / "there")
  assert artifacts.hash_files(tmp_path / "here") == artifacts.hash_files(
    tmp_path / "there"
  )
  assert not (tmp_path / "scratch").exists()
  return here


@pytest.mark.parametrize(
  "choice",
  [
    {"duplicates": "keep", "k_core": 5},
    {"duplicates": "first", "k_core": 5, "min_rating": 2.0},
    {"duplicates": "consecutive", "timestamp_column": "", "min_length": 7},
  ],
  ids=lambda choice: choice["duplicates"],
)
def test_equal_on_random_shards(choice, tmp_path):
  config = dataclasses.replace(_write(tmp_path, _random_rows()), **choice)
  parts = [shards.read(shard) for shard in shards.split(config)]
  events = filters.tidy(shards.concat(parts), config)
  found = _assert_equal(config, tmp_path)
  assert 0 < found.num_events < events.num_events
  if config.k_core:
    once = filters.core_round(
      events.users, events.items, np.bincount(events.items), 5, 5
    )
    assert found.num_events < once.sum(), "one round is not enough"


def test_more_rounds_than_a_pipeline_has(tmp_path, caplog):
  # A path of users and items loses only its two ends a round; a square stays.
  path = [(f"u{k}", f"i{k + d}") for k in range(6) for d in (0, 1)]
  square = [(user, item) for user in "ab" for item in "xy"]
  rows = [(u, i, 1, 1.0) for u, i in path[::-1] + square]
  config = dataclasses.replace(_write(tmp_path, rows), k_core=2, min_length=2)
  with caplog.at_level("INFO"):
    found = _assert_equal(config, tmp_path)
  assert found.num_events == 4
  assert "no change after 8 rounds" in caplog.text
  assert beam.ROUNDS == 4


def test_a_source_of_one_file_with_its_item_table(tmp_path):
  (tmp_path / "sequences.txt").write_text("v 3 1 2\nu 2 3 1 1\nw 1 2\n")
  items = [{"id": i, "title": f"t{i}"} for i in (2, 9, 1, 3)]
  lines = "\n".join(json.dumps(item) for item in items)
  (tmp_path / "items.jsonl").write_text(lines)
  found = _assert_equal(
    DataConfig(source="sequences", path=str(tmp_path)), tmp_path
  )
  assert found.user_ids.tolist() == ["v", "u"]
  assert found.item_text["title"].tolist() == ["t2", "t1", "t3"]
  np.testing.assert_array_equal(found.item_rows, [0, 2, 3])


def _message(executor, *args) -> str:
  with pytest.raises(UserError) as caught:
    executor(*args)
  return str(caught.value)


def test_the_same_refusals(tmp_path):
  config = _write(tmp_path, _random_rows(30))
  picky = dataclasses.replace(config, min_rating=6.0)
  message = _message(_prepare, picky, tmp_path)
  assert "leaves nothing of 30 events: the highest rating is 5" in message
  assert message == _message(prepare.prepare, picky)
  dense = dataclasses.replace(config, k_core=30)
  assert "k_core=30, min_length=3 leave nothing of 30 events of" in _message(
    _prepare, dense, tmp_path
  )
  with open(tmp_path / "shards" / "a.csv", "a") as file:
    file.write("\nu1,i1,never,3.0\n")
  message = _message(_prepare, config, tmp_path)
  assert "a.csv, line 12: timestamp is 'never'" in message
  assert message == _message(prepare.prepare, config)
  assert not (tmp_path / "scratch").exists()
