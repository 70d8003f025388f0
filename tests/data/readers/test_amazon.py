"""Lines as the three releases have them."""

import gzip
import json

import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import amazon
from holorec_jax.errors import UserError

OLD_REVIEW = {
  "reviewerID": "A1",
  "asin": "B01",
  "reviewerName": "Ann",
  "helpful": [0, 0],
  "reviewText": "Fine.",
  "overall": 4.0,
  "unixReviewTime": 1362787200,
}
NEW_REVIEW = {
  "rating": 4.0,
  "title": "Fine",
  "images": [],
  "asin": "B99",
  "parent_asin": "B01",
  "user_id": "A1",
  "timestamp": 1362787200123,
}
# 2014 are Python literals, with several category paths.
META_2014 = (
  "{'asin': 'B01', 'title': 'Tea &amp; Co\\'s \"best\"', 'price': 9.5, "
  "'related': {'also_bought': ['B07']}, "
  "'categories': [['Food', 'Tea'], ['Gifts']], 'brand': 'Leaf'}"
)
META_2018 = json.dumps(
  {
    "category": ["Food", "Tea", "</span></span>"],
    "description": ["Dried <b>leaves</b>.", "Green."],
    "title": 'Tea & Co\'s "best"',
    "brand": "by\n    Leaf",
    "also_buy": ["B07"],
    "price": "$9.50",
    "asin": "B01",
  }
)
META_2023 = json.dumps(
  {
    "main_category": "Food",
    "title": 'Tea & Co\'s "best"',
    "store": "Leaf",
    "categories": ["Food", "Tea"],
    "description": [],
    "price": None,
    "details": {"Brand": "Leaf"},
    "parent_asin": "B01",
  }
)


def _zip(path, *lines):
  path.write_bytes(gzip.compress("\n".join(lines).encode()))
  return str(path)


@pytest.mark.parametrize(
  ("review", "millisecond"), [(OLD_REVIEW, 0), (NEW_REVIEW, 123)]
)
def test_reviews(tmp_path, review, millisecond):
  path = _zip(tmp_path / "r.json.gz", json.dumps(review), json.dumps(review))
  found = amazon.read_events(DataConfig(path=path, min_rating=1.0))
  assert found.user_ids.tolist() == ["A1"]
  assert found.item_ids.tolist() == ["B01"]
  assert found.times_ms.tolist() == [1362787200000 + millisecond] * 2
  assert found.ratings.tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
  ("line", "description"),
  [
    (META_2014, ""),
    (META_2018, "Dried leaves . Green."),
    (META_2023, ""),
  ],
)
def test_metadata(tmp_path, line, description):
  other = line.replace("B01", "B02")
  path = _zip(tmp_path / "m.json.gz", other, line, line)
  config = DataConfig(items_path=path)
  table = amazon.read_items(config, frozenset({"B01", "B07"}))
  assert (table.ids.tolist(), table.rows.tolist()) == (["B01"], [1])
  assert table.num_rows == 3
  assert {k: v[0] for k, v in table.text.items()} == {
    "title": 'Tea & Co\'s "best"',
    "categories": "Food > Tea",
    "brand": "Leaf",
    "description": description,
  }


def test_price_on_request_and_scripts_for_titles(tmp_path):
  line = json.dumps({"asin": "B01", "title": "x.getTime()", "price": "$1,200"})
  path = _zip(tmp_path / "m.json.gz", line)
  config = DataConfig(items_path=path, text_columns=("title", "price"))
  table = amazon.read_items(config, frozenset({"B01"}))
  assert table.text["title"].tolist() == [""]
  assert table.text["price"].tolist() == ["1200"]


def test_bad_files(tmp_path):
  path = _zip(tmp_path / "r.json.gz", '{"a": 1}')
  with pytest.raises(UserError, match="expected those of a reviews file"):
    amazon.read_events(DataConfig(path=path))
  path = _zip(tmp_path / "m.json.gz", META_2014, META_2014[:-9])
  with pytest.raises(UserError, match="line 2: neither JSON nor"):
    amazon.read_items(DataConfig(items_path=path), frozenset({"B01"}))
