"""What is written as ArrayRecord comes back, without TensorFlow."""

import sys

import numpy as np
import pytest

from holorec_jax.data import builder, schema, splits
from holorec_jax.errors import UserError


def _dataset(with_times: bool) -> schema.Dataset:
  return schema.Dataset(
    name="tiny",
    item_ids=np.array(["a", "b", "c"], object),
    item_text={"title": np.array(["Ærø", "", "long title"], object)},
    user_ids=np.array(["u", "v", "w"], object),
    offsets=np.array([0, 4, 5, 8]),
    items=np.array([0, 2, 0, 1, 2, 1, 1, 0], np.int32),
    timestamps=np.arange(8) * 10 if with_times else None,
  )


def _read(folder, config, split):
  where = folder / "interactions" / config / "1.0.0"
  read_only = builder.tfds.builder_from_directory(where)
  return list(read_only.as_data_source(split))


@pytest.mark.parametrize("with_times", [True, False])
def test_round_trip(tmp_path, with_times):
  dataset = _dataset(with_times)
  split = splits.split_dataset(dataset, splits.SplitConfig())
  builder.write_tfds(dataset, split, tmp_path / "tfds")
  expected = {
    "train": [("u", [0, 2], -1), ("v", [2], -1), ("w", [1], -1)],
    "valid": [("u", [0, 2], 0), ("w", [1], 1)],
    "test": [("u", [0, 2, 0], 1), ("w", [1, 1], 0)],
  }
  for name, rows in expected.items():
    found = _read(tmp_path / "tfds", "sequences", name)
    assert rows == [
      (e["user_id"].decode(), e["history"].tolist(), int(e["target"]))
      for e in found
    ]
    assert ("timestamps" in found[0]) == with_times
  if with_times:
    np.testing.assert_array_equal(found[1]["timestamps"], [50, 60])
  items = _read(tmp_path / "tfds", "items", "items")
  assert [(i["item_id"].decode(), i["title"].decode()) for i in items] == [
    ("a", "Ærø"),
    ("b", ""),
    ("c", "long title"),
  ]
  assert "tensorflow" not in sys.modules


def test_never_over_an_existing_folder(tmp_path):
  dataset = _dataset(False)
  split = splits.split_dataset(dataset, splits.SplitConfig())
  with pytest.raises(UserError, match="already there"):
    builder.write_tfds(dataset, split, tmp_path)
