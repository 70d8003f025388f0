"""LETTER's two JSON files."""

import json

import numpy as np
import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import letter
from holorec_jax.errors import UserError


def test_both_files(tmp_path):
  (tmp_path / "X.inter.json").write_text('{"0": [4, 2, 4], "1": [2]}')
  items = {
    "2": {"title": "Tom", "categories": "Music,Drums, Cymbals,Toms"},
    "4": {"title": "Pick", "brand": ""},
  }
  (tmp_path / "X.item.json").write_text(json.dumps(items))
  config = DataConfig(path=str(tmp_path))
  found = letter.read_events(config)
  assert found.user_ids.tolist() == ["0", "1"]
  assert found.item_ids.tolist() == ["4", "2"]
  np.testing.assert_array_equal(found.users, [0, 0, 0, 1])
  np.testing.assert_array_equal(found.items, [0, 1, 0, 1])
  table = letter.read_items(config, frozenset({"2", "4"}))
  assert table.ids.tolist() == ["2", "4"]
  assert table.text["categories"].tolist() == [
    "Music > Drums, Cymbals > Toms",
    "",
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "empty"),
    ("{}", "not empty"),
    ('{"0": []}', "user '0' has"),
    ('{"0": 1', "not JSON"),
  ],
)
def test_bad_files(tmp_path, text, message):
  config = DataConfig(path=str(tmp_path))
  with pytest.raises(UserError, match=r"no file for \*.inter.json"):
    letter.read_events(config)
  (tmp_path / "X.inter.json").write_text(text)
  with pytest.raises(UserError, match=message):
    letter.read_events(config)
