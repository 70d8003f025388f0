"""Lines of items, with and without an item table."""

import numpy as np
import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import sequences
from holorec_jax.errors import UserError


def test_lines_become_events_in_order(tmp_path):
  (tmp_path / "sequences.txt").write_text("u 5 3 5\n\nv  3\t9 \n")
  found = sequences.read_events(DataConfig(path=str(tmp_path)))
  assert found.user_ids.tolist() == ["u", "v"]
  assert found.item_ids[found.items].tolist() == ["5", "3", "5", "3", "9"]
  np.testing.assert_array_equal(found.users, [0, 0, 0, 1, 1])
  assert found.times_ms is None


def test_item_table_is_optional(tmp_path):
  config = DataConfig(path=str(tmp_path / "sequences.txt"))
  (tmp_path / "sequences.txt").write_text("u 5 3\n")
  wanted = frozenset({"5", "3"})
  assert sequences.read_items(config, wanted) is None
  (tmp_path / "items.jsonl").write_text('{"id": 3, "title": "x"}\n')
  table = sequences.read_items(config, wanted)
  assert table.ids.tolist() == ["3"]
  assert table.text["title"].tolist() == ["x"]


@pytest.mark.parametrize(
  ("text", "message"), [("u 1\nv\n", "line 2: expected"), ("", "empty")]
)
def test_bad_lines(tmp_path, text, message):
  (tmp_path / "sequences.txt").write_text(text)
  with pytest.raises(UserError, match=message):
    sequences.read_events(DataConfig(path=str(tmp_path)))
  with pytest.raises(UserError, match="no such file"):
    sequences.read_events(DataConfig(path=str(tmp_path / "elsewhere")))
