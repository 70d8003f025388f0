"""The three generations of MovieLens folders hold the same ratings."""

import pytest

from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import movielens
from holorec_jax.errors import UserError

ACCENT = "Misérables, Les (1995)"


def _write(folder, layout):
  flags = ["0"] * 19
  flags[3] = flags[5] = "1"
  if layout == "100k":
    (folder / "u.data").write_text("9\t7\t4\t880\n9\t8\t2\t870\n")
    movie = f"7|{ACCENT}|01-Jan-1995||http://x|{'|'.join(flags)}\n"
    other = f"8|Plain|01-Jan-1995||http://y|{'|'.join(['0'] * 19)}\n"
    (folder / "u.item").write_text(movie + other, encoding="latin-1")
  elif layout == "1m":
    (folder / "ratings.dat").write_text("9::7::4::880\n9::8::2::870\n")
    (folder / "movies.dat").write_text(
      f"7::{ACCENT}::Animation|Comedy\n8::Plain::\n", encoding="latin-1"
    )
  else:
    (folder / "ratings.csv").write_text(
      "userId,movieId,rating,timestamp\n9,7,4.0,880\n9,8,2.0,870\n"
    )
    (folder / "movies.csv").write_text(
      f'movieId,title,genres\n7,"{ACCENT}",Animation|Comedy\n'
      "8,Plain,(no genres listed)\n",
      encoding="utf-8",
    )


@pytest.mark.parametrize("layout", ["100k", "1m", "20m"])
def test_layouts(tmp_path, layout):
  _write(tmp_path, layout)
  config = DataConfig(path=str(tmp_path), min_rating=1.0)
  found = movielens.read_events(config)
  assert found.user_ids.tolist() == ["9"]
  assert found.item_ids.tolist() == ["7", "8"]
  assert found.times_ms.tolist() == [880_000, 870_000]
  assert found.ratings.tolist() == [4.0, 2.0]
  table = movielens.read_items(config, frozenset({"7", "8"}))
  assert table.ids.tolist() == ["7", "8"]
  assert {k: v.tolist() for k, v in table.text.items()} == {
    "title": [ACCENT, "Plain"],
    "categories": ["Animation > Comedy", ""],
  }


def test_bad_folder_and_line(tmp_path):
  config = DataConfig(path=str(tmp_path))
  with pytest.raises(UserError, match="no MovieLens folder"):
    movielens.read_events(config)
  (tmp_path / "ratings.dat").write_text("9::7::4::880\n9::8::2\n")
  with pytest.raises(UserError, match="line 2: 3 columns, expected 4"):
    movielens.read_events(config)
