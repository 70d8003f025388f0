"""A folder of event files counts as one file."""

import dataclasses

import numpy as np
import pytest

from holorec_jax.data import prepare, readers, schema, shards
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError

# Two shards, cut at the empty row: user b and item y are in both, times tie.
ROWS = ["b,y,5", "a,x,5", "b,x,5", "", "c,y,1", "b,z,5", "a,z,4", "a,y,5"]


def _write(folder) -> tuple[DataConfig, DataConfig]:
  """Configs of one file, and of a folder of two."""
  header = "user,item,timestamp\n"
  cut = ROWS.index("")
  (folder / "one.csv").write_text(header + "\n".join(filter(None, ROWS)))
  (folder / "many").mkdir()
  (folder / "many" / "_SUCCESS").write_text("")
  for name, rows in (("1.csv", ROWS[:cut]), ("2.csv", ROWS[cut + 1 :])):
    (folder / "many" / name).write_text(header + "\n".join(rows))
  one = DataConfig(
    source="events", path=str(folder / "one.csv"), name="x", min_length=1
  )
  return one, dataclasses.replace(one, path=str(folder / "many"))


def test_a_folder_is_read_as_one_file(tmp_path):
  one, many = _write(tmp_path)
  whole = shards.read(one)
  parts = [shards.read(shard) for shard in shards.split(many)]
  assert [part.num_events for part in parts] == [3, 4]
  merged = shards.concat(parts)
  assert merged.user_ids.tolist() == ["b", "a", "c"]
  assert merged.item_ids.tolist() == ["y", "x", "z"]
  for field in ("user_ids", "item_ids", "users", "items", "times_ms"):
    np.testing.assert_array_equal(getattr(merged, field), getattr(whole, field))
  assert merged.users.dtype == merged.items.dtype == np.int32
  assert merged.ratings is None
  first, second = prepare.prepare(one), prepare.prepare(many)
  np.testing.assert_array_equal(first.items, second.items)
  np.testing.assert_array_equal(first.user_ids, second.user_ids)


def test_every_shard_counts_as_an_input(tmp_path):
  one, many = _write(tmp_path)
  assert list(readers.raw_files(many)) == ["data.path/1.csv", "data.path/2.csv"]
  assert list(readers.raw_files(one)) == ["data.path"]


def test_an_empty_folder_is_refused(tmp_path):
  config = DataConfig(source="events", path=str(tmp_path))
  with pytest.raises(UserError, match="no files in it"):
    prepare.prepare(config)


def test_a_source_of_several_files_is_one_shard(tmp_path):
  config = DataConfig(source="sequences", path=str(tmp_path))
  assert shards.split(config) == [config]
  assert shards.split(DataConfig()) == [DataConfig()]


def test_compact_keeps_the_order_of_what_is_left():
  events = schema.Events(
    user_ids=np.array(["a", "b", "c"], object),
    item_ids=np.array(["x", "y", "z"], object),
    users=np.array([2, 0, 2], np.int32),
    items=np.array([2, 1, 1], np.int32),
  )
  found = shards.compact(events)
  assert found.user_ids.tolist() == ["a", "c"]
  assert found.item_ids.tolist() == ["y", "z"]
  np.testing.assert_array_equal(found.users, [1, 0, 1])
  np.testing.assert_array_equal(found.items, [1, 0, 0])
