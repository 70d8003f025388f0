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


def test_whole_floats_are_the_ids_that_pandas_had(tmp_path):
  """Integers become floats where some are missing; also in the item table."""
  rows = [{"user": 7.0, "item": 12.0}, {"user": 8.0, "item": 12.0}]
  text = "\n".join(json.dumps(row) for row in rows)
  (tmp_path / "e.jsonl").write_text(text)
  table = pa.table({"user": [7.0, 8.0], "item": pa.array([12, 12], "float")})
  pq.write_table(table, tmp_path / "e.parquet")
  for suffix in ("jsonl", "parquet"):
    path = tmp_path / f"e.{suffix}"
    found = _read(path, timestamp_column="")
    assert found.user_ids.tolist() == ["7", "8"]
    assert found.item_ids.tolist() == ["12"]
  (tmp_path / "e.csv").write_text("user,item\n7.0,1.10\n")
  found = _read(tmp_path / "e.csv", timestamp_column="")
  assert (*found.user_ids, *found.item_ids) == ("7.0", "1.10")  # Text.


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
    ("\n \n", "no header"),
    (HEADER, "no rows"),
    (HEADER + "a,x,1\n\nb,y\n", "line 4: 2 columns, expected 3"),
    (HEADER + "a,x,1\nb,y,2,9\n", "line 3: 4 columns, expected 3"),
    (HEADER + "a,x,1\nb,y,noon\n", "line 3: timestamp is 'noon', expected a n"),
    (HEADER + "a,x,1\nb,y,\n", "line 3: no value for 'timestamp'"),
    (HEADER + "a,x,1\n\nb,y,-2\n", "line 4: timestamp is -2"),
    (HEADER + "a,x,1500000000000\n", "line 2: .*set data.time_unit"),
    (HEADER + "a,x,inf\n", "line 2: timestamp is inf"),
    (HEADER + "a,,1\n", "line 2: no value for 'item'"),
    ("\n" + HEADER + "a,x,1\nb,y,noon\n", "line 4: timestamp is 'noon'"),
    ("\n \n\n" + HEADER + "a,x,1\n\nb,,1\n", "line 7: no value for 'item'"),
    ("\ufeff\n" + HEADER + "a,x,1\nb\n", "line 4: 1 columns, expected 3"),
    (HEADER + "a,x,1\n \n", "line 3: 1 columns, expected 3"),
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
    (
      '{"user":1,"item":2.0,"timestamp":1}\n'
      '{"user":1,"item":2.5,"timestamp":1}',
      "line 2: item is 2.5, expected a string or a whole number",
    ),
    (
      '{"user":1,"item":2.0,"timestamp":1}\n'
      '{"user":1,"item":null,"timestamp":1}',
      "line 2: no value for 'item'",
    ),
    (
      '{"user":1,"item":2,"timestamp":1}\n\n'
      '{"user":1.0,"item":2,"timestamp":1}',
      "line 3: user is 1.0, expected an integer as in the first line",
    ),
    ('{"user":1e16,"item":2,"timestamp":1}', "line 1: .* write ids as strings"),
    ('\n{"user":null,"item":2,"timestamp":1}', "line 2: no value for 'user'"),
    ('{"user":[1],"item":2,"timestamp":1}', r"line 1: user is \[1\], expected"),
  ],
)
def test_bad_json_lines(tmp_path, lines, message):
  path = tmp_path / "e.jsonl"
  path.write_text(lines)
  with pytest.raises(UserError, match=message):
    _read(path)


def test_csv_after_blank_lines(tmp_path):
  (tmp_path / "e.csv").write_text("\n\n" + HEADER + "a,x,1\n")
  assert _read(tmp_path / "e.csv").item_ids.tolist() == ["x"]


def test_a_row_of_tabs_counts_as_a_line(tmp_path):
  text = (HEADER + "a,x,1\n,,\nb,y,1\n").replace(",", "\t")
  (tmp_path / "e.tsv").write_text(text)
  with pytest.raises(UserError, match="line 3: no value for 'user'"):
    _read(tmp_path / "e.tsv")


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
  table = pa.table({"user": ["a", "b"], "item": [float("nan"), 1.5]})
  pq.write_table(table, path)
  with pytest.raises(
    UserError, match=r"row 2: item is 1\.5, expected a string"
  ):
    _read(path, timestamp_column="")
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


def test_reviews_of_several_lines_in_a_large_file(tmp_path):
  """Arrow reads a megabyte at a time, and not beyond its last line's end."""
  review = '"good,\n' + "very " * 20 + '\ngood"'
  rows = (f"u{n % 90},{review},i{n % 70},{n}" for n in range(20_000))
  path = tmp_path / "e.csv"
  path.write_text("\n".join(["user,review,item,timestamp", *rows]))
  assert path.stat().st_size > 1 << 21
  found = _read(path)
  assert len(found.users) == 20_000
  assert (len(found.user_ids), len(found.item_ids)) == (90, 70)
