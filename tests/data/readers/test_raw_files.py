"""Exactly the files that a reader opens are named, and no neighbour."""

import pytest

from holorec_jax.data import readers
from holorec_jax.data.config import DataConfig

LETTER = ("X.inter.json", "X.item.json", "X.index.json")


def fill(folder, names):
  folder.mkdir(exist_ok=True)
  for name in (*names, "vectors.npy", "README"):
    (folder / name).write_text("x")


@pytest.mark.parametrize(
  ("source", "there", "opened"),
  [
    ("sequences", ("sequences.txt",), 1),
    ("sequences", ("sequences.txt", "items.jsonl", "events.csv"), 2),
    ("movielens", ("u.data", "u.item", "u.user"), 2),
    ("movielens", ("ratings.dat", "movies.dat", "users.dat"), 2),
    ("movielens", ("ratings.csv", "movies.csv", "tags.csv"), 2),
    ("letter", LETTER, 2),
    ("recbole", ("x.inter", "x.item", "x.user"), 2),
    ("recbole", ("x.inter",), 1),
    ("synthetic", ("sequences.txt",), 0),
    ("unknown", ("sequences.txt",), 0),
  ],
)
def test_of_a_folder(tmp_path, source, there, opened):
  """The first `opened` names of those `there`."""
  fill(tmp_path, there)
  found = readers.raw_files(DataConfig(source=source, path=str(tmp_path)))
  assert found == {
    f"data.path/{name}": tmp_path / name for name in there[:opened]
  }


@pytest.mark.parametrize(
  ("source", "path", "beside"),
  [
    ("events", "log.csv", ()),
    ("amazon", "reviews.json.gz", ()),
    ("sequences", "mine.txt", ("items.jsonl",)),
    ("letter", "X.inter.json", ("X.item.json",)),
    ("recbole", "x.inter", ("x.item",)),
  ],
)
def test_of_a_file(tmp_path, source, path, beside):
  fill(tmp_path, (path, "items.jsonl", "X.item.json", "x.item"))
  config = DataConfig(source=source, path=str(tmp_path / path))
  assert readers.raw_files(config) == {"data.path": tmp_path / path} | {
    f"data.path/{name}": tmp_path / name for name in beside
  }
  table = tmp_path / "elsewhere.jsonl"
  config = DataConfig(source=source, path=config.path, items_path=str(table))
  events = {"data.path": tmp_path / path}
  assert readers.raw_files(config) == events
  table.write_text("x")
  assert readers.raw_files(config) == events | {"data.items_path": table}


def test_of_an_item_folder(tmp_path):
  fill(tmp_path / "a", LETTER)
  fill(tmp_path / "b", LETTER)
  config = DataConfig(
    source="letter", path=str(tmp_path / "a"), items_path=str(tmp_path / "b")
  )
  assert readers.raw_files(config) == {
    "data.path/X.inter.json": tmp_path / "a" / "X.inter.json",
    "data.items_path/X.item.json": tmp_path / "b" / "X.item.json",
  }


def test_of_nothing(tmp_path):
  for path in ("", str(tmp_path / "gone")):
    assert readers.raw_files(DataConfig(source="recbole", path=path)) == {}
