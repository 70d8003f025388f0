"""A data set survives its folder; a damaged folder is refused."""

import dataclasses
import json

import numpy as np
import pytest

from holorec_jax.data import schema
from holorec_jax.errors import UserError


def make_dataset(**changes) -> schema.Dataset:
  dataset = schema.Dataset(
    name="tiny",
    item_ids=np.array(["a", "bb", "ccc"], object),
    item_text={"title": np.array(["Æ", "", "long title"], object)},
    user_ids=np.array(["u", "v"], object),
    offsets=np.array([0, 3, 5]),
    items=np.array([0, 2, 0, 1, 2], np.int32),
    timestamps=np.array([1, 2, 3, 4, 5]),
    item_rows=np.array([4, 0, 2]),
    table_rows=6,
  )
  return dataclasses.replace(dataset, **changes)


def assert_equal(left: schema.Dataset, right: schema.Dataset) -> None:
  for field in dataclasses.fields(schema.Dataset):
    a, b = getattr(left, field.name), getattr(right, field.name)
    if field.name == "item_text":
      assert list(a) == list(b)
      for column in a:
        np.testing.assert_array_equal(a[column], b[column])
    else:
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  "changes",
  [{}, {"timestamps": None}, {"item_rows": None}, {"item_text": {}}],
)
def test_round_trip(tmp_path, changes):
  dataset = make_dataset(**changes)
  schema.save_dataset(dataset, tmp_path / "dataset")
  assert_equal(schema.load_dataset(tmp_path / "dataset"), dataset)
  assert [p.name for p in tmp_path.iterdir()] == ["dataset"]


def test_history_and_counts(tmp_path):
  dataset = make_dataset()
  np.testing.assert_array_equal(dataset.history(1), [1, 2])
  counts = (dataset.num_users, dataset.num_items, dataset.num_events)
  assert counts == (2, 3, 5)


def test_saves_into_an_empty_folder_but_not_over_files(tmp_path):
  schema.save_dataset(make_dataset(), tmp_path)
  with pytest.raises(UserError, match="already there"):
    schema.save_dataset(make_dataset(), tmp_path)


def test_failure_leaves_nothing(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(schema.pq, "write_table", full)
  with pytest.raises(UserError, match="disk is full"):
    schema.save_dataset(make_dataset(), tmp_path / "dataset")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"items": np.array([0, 2, 0, 1, 3], np.int32)}, "outside its 3 items"),
    ({"offsets": np.array([0, 7, 5])}, "offsets decrease"),
    ({"offsets": np.array([0, 5])}, "offsets has 2 entries, expected 3"),
    ({"timestamps": np.array([1])}, "timestamps has 1 entries, expected 5"),
    ({"item_text": {"title": np.array(["x"], object)}}, "'title'"),
  ],
)
def test_inconsistent_arrays_are_refused(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    schema.save_dataset(make_dataset(**changes), tmp_path / "dataset")


def test_damaged_folders_are_refused(tmp_path):
  folder = tmp_path / "dataset"
  with pytest.raises(UserError, match="no complete data set"):
    schema.load_dataset(folder)
  schema.save_dataset(make_dataset(), folder)
  summary = json.loads((folder / "dataset.json").read_text())
  for key, value, message in (
    ("schema_version", 99, "schema 99"),
    ("users", 9, "counts 9 users, the files hold 2"),
  ):
    changed = json.dumps(summary | {key: value})
    (folder / "dataset.json").write_text(changed)
    with pytest.raises(UserError, match=message):
      schema.load_dataset(folder)
  (folder / "dataset.json").write_text(json.dumps(summary))
  items = (folder / "items.npy").read_bytes()
  (folder / "items.npy").write_bytes(items[:-4])
  with pytest.raises(UserError, match="no complete data set"):
    schema.load_dataset(folder)
