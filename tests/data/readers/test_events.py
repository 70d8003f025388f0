"""Own data in every format, and what is said about each kind of bad row."""

import gzip
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import events
from holorec_jax.errors import UserError

ROWS = [("ann", "01", 30), ("bob", "2", 10), ("ann", "2", 20)]


def _write(folder: pathlib.Path, name: str) -> pathlib.Path:
  path = folder / name
  lines = [f"{u},{i},{t}" for u, i, t in ROWS]
  if name == "e.csv":
    path.write_text("\n".join(["user,item,timestamp", *lines]) + "\n")
  elif name == "e.tsv.gz":
    text = "\n".join(["user_id,item_id,timestamp", *lines]).replace(",", "\t")
    path.write_bytes(gzip.compress(text.encode()))
  elif name == "e.jsonl":
    keys = ("user", "item", "timestamp")
    objects = [json.dumps(dict(zip(keys, row))) for row in ROWS]
    path.write_text("\n\n".join(objects))
  else:
    users, items, times = zip(*ROWS)
    columns = {"user": users, "item": items, "timestamp": times}
    pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), path)
  return path


def _read(path: pathlib.Path, **fields):
  return events.read_events(DataConfig(source="events", path=path, **fields))


@pytest.mark.parametrize("name", ["e.csv", "e.tsv.gz", "e.jsonl", "e.parquet"])
def test_every_format_gives_the_same_events(tmp_path, name):
  found = _read(_write(tmp_path, name))
  assert found.user_ids.tolist() == ["ann", "bob"]
  assert found.item_ids.tolist() == ["01", "2"]  # Not the number 1.
  np.testing.assert_array_equal(found.users, [0, 1, 0])
  np.testing.assert_array_equal(found.items, [0, 1, 1])
  np.testing.assert_array_equal(found.times_ms, [30000, 10000, 20000])


def test_integer_ids_agree_between_formats(tmp_path):
  (tmp_path / "e.csv").write_text("user,item,timestamp\n7,12,5\n")
  (tmp_path / "e.jsonl").write_text('{"user":7,"item":12,"timestamp":5.0}')
  table = pa.table({"user": [7], "item": [12], "timestamp": [5]})
  pq.write_table(table, tmp_path / "e.parquet")
  for suffix in ("csv", "jsonl", "parquet"):
    found = _read(tmp_path / f"e.{suffix}")
    assert (*found.user_ids, *found.item_ids) == ("7", "12")


def test_parquet_timestamps_and_units(tmp_path):
  path = tmp_path / "e.parquet"
  times = pa.array([1_500_000_000_123_456], pa.timestamp("us"))
  pq.write_table(pa.table({"user": ["a"], "item": ["x"], "when": times}), path)
  found = _read(path, timestamp_column="when")
  assert found.times_ms.tolist() == [1_500_000_000_123]
  (tmp_path / "e.csv").write_text("user,item,timestamp\na,x,1500000000123\n")
  found = _read(tmp_path / "e.csv", time_unit="ms")
  assert found.times_ms.tolist() == [1_500_000_000_123]


def test_ratings_are_read_only_when_asked_for(tmp_path):
  path = tmp_path / "e.csv"
  path.write_text("user,item,timestamp,rating\na,x,1,4.5\n")
  assert _read(path).ratings is None
  assert _read(path, min_rating=1.0).ratings.tolist() == [4.5]


def test_no_timestamps(tmp_path):
  path = tmp_path / "e.csv"
  path.write_text("user,item\na,x\n")
  assert _read(path, timestamp_column="").times_ms is None


HEADER = "user,item,timestamp\n"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "empty"),
    ("\n\n", "no header"),
    (HEADER, "no rows"),
    (HEADER + "a,x,1\n\nb,y\n", "line 4: 2 columns, expected 3"),
    (HEADER + "a,x,1\nb,y,2,9\n", "line 3: 4 columns, expected 3"),
    (HEADER + "a,x,1\nb,y,noon\n", "line 3: timestamp is 'noon', expected a n"),
    (HEADER + "a,x,1\nb,y,\n", "line 3: no value for 'timestamp'"),
    (HEADER + "a,x,1\n\nb,y,-2\n", "line 4: timestamp is -2"),
    (HEADER + "a,x,1500000000000\n", "line 2: .*set data.time_unit"),
    (HEADER + "a,x,inf\n", "line 2: timestamp is inf"),
    (HEADER + "a,,1\n", "line 2: no value for 'item'"),
    ("who,item,timestamp\na,x,1\n", r"no column 'user'.*set data.user_column"),
  ],
)
def test_bad_csv(tmp_path, text, message):
  path = tmp_path / "e.csv"
  path.write_text(text)
  with pytest.raises(UserError, match=message) as error:
    _read(path)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ("\n", "no rows"),
    ('{"user":"a","item":"x","timestamp":1}\n{"user":', "line 2: not JSON"),
    ('{"user":"a","item":"x","timestamp":1}\n[1]', "line 2: expected a JSON o"),
    (
      '{"user":"a","item":"x","timestamp":1}\n\n{"user":"a","timestamp":1}',
      "line 3: no value for 'item'",
    ),
    (
      '{"user":"a","item":"x","timestamp":1}\n'
      '{"user":"a","item":5,"timestamp":1}',
      "line 2: item is 5, expected a string",
    ),
    (
      '{"user":"a","item":"x","timestamp":1}\n'
      '{"user":"a","item":"x","timestamp":"1"}',
      "line 2: timestamp is '1', expected a number",
    ),
    ('{"user":"a","item":"x","timestamp":-1}', "line 1: timestamp is -1"),
  ],
)
def test_bad_json_lines(tmp_path, lines, message):
  path = tmp_path / "e.jsonl"
  path.write_text(lines)
  with pytest.raises(UserError, match=message):
    _read(path)


def test_bad_parquet_row(tmp_path):
  path = tmp_path / "e.parquet"
  table = pa.table({"user": ["a", "b"], "item": ["x", None]})
  pq.write_table(table, path)
  with pytest.raises(UserError, match="row 2: no value for 'item'"):
    _read(path, timestamp_column="")
  table = pa.table({"user": ["a"], "item": ["x"], "timestamp": ["noon"]})
  pq.write_table(table, path)
  with pytest.raises(UserError, match="row 1: timestamp is 'noon'"):
    _read(path)
  path.write_text("no parquet")
  with pytest.raises(UserError, match="not a Parquet file"):
    _read(path)


def test_unreadable_files(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    _read(tmp_path / "none.csv")
  (tmp_path / "e.xls").write_text("x")
  with pytest.raises(UserError, match=r"unknown format '.xls'"):
    _read(tmp_path / "e.xls")
  whole = gzip.compress((HEADER + "a,x,1\n" * 999).encode())
  (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match="cannot be read"):
    _read(tmp_path / "cut.csv.gz")
  (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match="cannot be read"):
    _read(tmp_path / "cut.jsonl.gz")
  (tmp_path / "e.csv").write_bytes(HEADER.encode() + b"\xff,x,1\n")
  with pytest.raises(UserError, match="utf-8"):
    _read(tmp_path / "e.csv")
