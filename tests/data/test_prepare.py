"""From raw files to the canonical data set, whole."""

import dataclasses

import numpy as np
import pytest

from holorec_jax.data import prepare, schema
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError


def _write(folder, events, items=None) -> DataConfig:
  rows = "".join(f"{u},{i},{t}\n" for u, i, t in events)
  (folder / "shop.csv").write_text("user,item,timestamp\n" + rows)
  if items is not None:
    rows = "".join(f"{i},{title}\n" for i, title in items)
    (folder / "items.csv").write_text("item,title\n" + rows)
  return DataConfig(
    source="events",
    path=str(folder / "shop.csv"),
    items_path="" if items is None else str(folder / "items.csv"),
  )


EVENTS = [
  ("v", "10", 30),
  ("u", "9", 5),
  ("v", "9", 20),
  ("u", "10", 6),
  ("v", "2", 10),
  ("u", "2", 6),
  ("w", "7", 1),
]


def test_items_take_the_order_of_the_table(tmp_path):
  titles = [("10", "ten"), ("7", "seven"), ("2", "two"), ("9", "nine")]
  dataset = prepare.prepare(_write(tmp_path, EVENTS, titles))
  assert dataset.name == "shop"
  # User w is too short, so item 7 has no events left.
  assert dataset.item_ids.tolist() == ["10", "2", "9"]
  assert dataset.item_text["title"].tolist() == ["ten", "two", "nine"]
  np.testing.assert_array_equal(dataset.item_rows, [0, 2, 3])
  assert dataset.table_rows == 4
  assert dataset.user_ids.tolist() == ["v", "u"]
  np.testing.assert_array_equal(dataset.history(0), [1, 2, 0])
  np.testing.assert_array_equal(dataset.history(1), [2, 0, 1])
  np.testing.assert_array_equal(dataset.timestamps, [10, 20, 30, 5, 6, 6])


def test_without_a_table_items_are_in_natural_order(tmp_path):
  dataset = prepare.prepare(_write(tmp_path, EVENTS))
  assert dataset.item_ids.tolist() == ["2", "9", "10"]
  assert dataset.item_text == {}
  assert dataset.item_rows is None


def test_items_that_the_table_lacks(tmp_path, caplog):
  config = _write(tmp_path, EVENTS, [("9", "nine"), ("8", "eight")])
  with pytest.raises(UserError, match=r"2 of 3 items .*\['2', '10'\]"):
    prepare.prepare(config)
  config = dataclasses.replace(config, allow_unknown_items=True)
  with caplog.at_level("INFO"):
    dataset = prepare.prepare(config)
  assert "1 items of the table have no events left" in caplog.text
  assert "2 items are not in the item table" in caplog.text
  assert dataset.item_ids.tolist() == ["9", "2", "10"]
  assert dataset.item_text["title"].tolist() == ["nine", "", ""]
  np.testing.assert_array_equal(dataset.item_rows, [0, -1, -1])


def test_every_filter_says_what_it_removed(tmp_path, caplog):
  config = _write(tmp_path, EVENTS)
  with caplog.at_level("INFO"):
    prepare.prepare(config)
  assert "read 7 events of 3 users and 4 items" in caplog.text
  assert "removed 1 events, 1 users, 1 items; 6 events left" in caplog.text


def test_bad_requests(tmp_path):
  with pytest.raises(UserError, match=r"data.source is 'csv', expected one of"):
    prepare.prepare(DataConfig(source="csv"))
  with pytest.raises(UserError, match=r"set data.path"):
    prepare.prepare(DataConfig(source="events"))


def test_shared_data(shared_data, tmp_path):
  path = shared_data / "amazon18_scientific_small"
  dataset = prepare.prepare(DataConfig(source="sequences", path=str(path)))
  counts = (dataset.num_users, dataset.num_items, dataset.num_events)
  assert counts == (2928, 1585, 19712)
  # Row i of the vectors beside the file belongs to item i.
  np.testing.assert_array_equal(dataset.item_rows, np.arange(1585))
  schema.save_dataset(dataset, tmp_path / "dataset")
  first = (path / "sequences.txt").read_text().split("\n")[0].split()
  assert dataset.item_ids[dataset.history(0)].tolist() == first[1:]
