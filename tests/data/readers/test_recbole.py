"""Atomic files with typed headers."""

import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import recbole
from holorec_jax.errors import UserError


def test_both_files(tmp_path):
  (tmp_path / "x.inter").write_text(
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "3\t07\t4\t880.5\n4\t8\t2\t870\n"
  )
  (tmp_path / "x.item").write_text(
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    '\n07\tThe "Big" One\t1995\tComedy Crime\n8\tTwo\t1996\tDrama\n'
  )
  config = DataConfig(
    path=str(tmp_path),
    title_column="movie_title",
    categories_column="class",
    min_rating=1.0,
  )
  found = recbole.read_events(config)
  assert found.item_ids.tolist() == ["07", "8"]
  assert found.times_ms.tolist() == [880_500, 870_000]
  assert found.ratings.tolist() == [4.0, 2.0]
  table = recbole.read_items(config, frozenset({"07", "8"}))
  assert {k: v.tolist() for k, v in table.text.items()} == {
    "title": ['The "Big" One', "Two"],
    "categories": ["Comedy > Crime", "Drama"],
  }


def test_missing_parts(tmp_path):
  config = DataConfig(path=str(tmp_path))
  with pytest.raises(UserError, match=r"no file for \*.inter"):
    recbole.read_events(config)
  inter = tmp_path / "x.inter"
  inter.write_text("user_id:token\titem_id:token\n1\t2\n")
  with pytest.raises(UserError, match=r"set data.timestamp_column"):
    recbole.read_events(config)
  assert recbole.read_items(config, frozenset({"2"})) is None
  inter.write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t2\n")
  with pytest.raises(UserError, match="line 2: 2 columns, expected 3"):
    recbole.read_events(config)
