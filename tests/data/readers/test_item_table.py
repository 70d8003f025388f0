"""Item tables: which rows and columns are kept, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import item_table
from holorec_jax.errors import UserError

WANTED = frozenset({"1", "03"})


def _read(path, **fields):
  return item_table.read_item_table(path, DataConfig(**fields), WANTED)


def _write_all(folder):
  """One table in four formats: title, path, sku (identifier), price, brand."""
  (folder / "t.csv").write_text(
    "item_id,title,categories,sku,price,brand\n"
    '03,"Tea, green",Food > Tea,K1,3,Leaf\n'
    "2,Unused,Food,K2,4,Leaf\n"
    '1,"1984\n(novel)",,K3,5,\n'
  )
  (folder / "t.tsv").write_text(
    "item_id\ttitle\tcategories\tsku\tprice\tbrand\n"
    "03\tTea, green\tFood > Tea\tK1\t3\tLeaf\n"
    "2\tUnused\tFood\tK2\t4\tLeaf\n"
    "1\t1984\n".replace("1984\n", "1984\t\tK3\t5\t\n")
  )
  rows = [
    {"id": "03", "title": "Tea, green", "categories": ["Food", "Tea"]},
    {"id": "2", "title": "Unused", "categories": ["Food"]},
    {"id": "1", "title": "1984", "categories": None},
  ]
  for row, sku, brand in zip(rows, ("K1", "K2", "K3"), ("Leaf", "Leaf", None)):
    row |= {"sku": sku, "price": 3, "brand": brand}
  text = "\n".join(json.dumps(row) for row in rows)
  (folder / "t.jsonl").write_text(text)
  pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_table(tmp_path, suffix):
  _write_all(tmp_path)
  table = _read(tmp_path / f"t.{suffix}")
  assert table.ids.tolist() == ["03", "1"]
  assert table.num_rows == 3
  np.testing.assert_array_equal(table.rows, [0, 2])
  assert list(table.text) == ["title", "categories", "brand"]
  novel = "1984\n(novel)" if suffix == "csv" else "1984"
  assert table.text["title"].tolist() == ["Tea, green", novel]
  assert table.text["categories"].tolist() == ["Food > Tea", ""]
  assert table.text["brand"].tolist() == ["Leaf", ""]


def test_columns_can_be_chosen_and_renamed(tmp_path):
  _write_all(tmp_path)
  table = _read(
    tmp_path / "t.csv", title_column="brand", text_columns=("brand", "price")
  )
  assert {k: v.tolist() for k, v in table.text.items()} == {
    "title": ["Leaf", ""],
    "price": ["3", "5"],
  }
  with pytest.raises(UserError, match=r"no text columns \['color'\]"):
    _read(tmp_path / "t.csv", text_columns=("color",))


def test_mixed_json_types_become_strings(tmp_path):
  path = tmp_path / "t.jsonl"
  path.write_text('{"id":1,"title":5}\n{"id":"03","title":"five"}')
  table = _read(path)
  assert table.ids.tolist() == ["1", "03"]
  assert table.text["title"].tolist() == ["5", "five"]


def test_whole_floats_are_ids_and_fractions_are_not(tmp_path):
  path = tmp_path / "t.jsonl"
  path.write_text('{"id":1.0,"title":"one"}\n{"id":2,"title":"two"}')
  assert _read(path).ids.tolist() == ["1"]
  path.write_text('{"id":1.0,"title":"one"}\n{"id":1.5,"title":"two"}')
  with pytest.raises(UserError, match=r"t\.jsonl, row 2: id is 1\.5, expected"):
    _read(path)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("item,title\n1,a\n2,b\n1,c\n", "'1' stands in rows 1 and 3"),
    ("item,title\n1,a\n,b\n", "row 2: the item id is empty"),
    ("name,title\n1,a\n", "no column 'item'.*set data.item_column"),
    ("item,title\n1\n", "line 2: 1 columns, expected 2"),
    ("", "empty"),
  ],
)
def test_bad_tables(tmp_path, text, message):
  path = tmp_path / "t.csv"
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    _read(path)


@pytest.mark.parametrize(
  ("text", "texts"),
  [
    (pa.string(), pa.list_(pa.string())),
    (pa.large_string(), pa.large_list(pa.large_string())),
    (pa.string_view(), pa.list_(pa.large_string())),
    (pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.string(), 2)),
  ],
)
def test_text_in_every_layout_of_arrow(tmp_path, text, texts):
  columns = {
    "id": pa.array(["03", "1"]),
    "title": pa.array(["Tea", "Mate"]).cast(text),
    "categories": pa.array([["Food", "Tea"], ["Food", "Else"]], texts),
  }
  pq.write_table(pa.table(columns), tmp_path / "t.parquet")
  table = _read(tmp_path / "t.parquet")
  assert table.text["title"].tolist() == ["Tea", "Mate"]
  assert table.text["categories"].tolist() == ["Food > Tea", "Food > Else"]


def test_a_column_is_not_taken_for_another_of_its_name(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("item,name,title\n1,Mate,Mr a\n03,Tea,Ms b\n")
  with pytest.raises(
    UserError, match=r"two columns would be 'title'.*text_col"
  ):
    _read(path, title_column="name")
  table = _read(path, title_column="name", text_columns=("name",))
  assert table.text["title"].tolist() == ["Mate", "Tea"]


def test_json_that_arrow_does_not_hold(tmp_path):
  path = tmp_path / "t.jsonl"
  path.write_text(
    '{"id": "1", "title": "half \\ud83d", "code": 99999999999999999999}\n'
    '{"id": "03", "title": "Tea", "code": 1}\n'
  )
  assert _read(path).text["title"].tolist() == ["half ?", "Tea"]
