"""MovieLens folders: 100K (u.data), 1M and 10M (ratings.dat), 20M and newer.

`path` is the unpacked folder. Ratings become events, genres categories (the
files list them by name, so the path has no order of generality).

Harper & Konstan, ACM TiiS 2015.
"""

import dataclasses
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import delimited, events, files, item_table

RATINGS = ("user", "item", "rating", "timestamp")
MOVIES = ("item", "title", "genres")
# Order of the flags at the end of a line of 100K's u.item.
GENRES = (
  "Unknown", "Action", "Adventure", "Animation", "Children's", "Comedy",
  "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical",
  "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Layout:
  """A release's two files and what it calls their columns."""

  ratings: delimited.Delimited
  movies: delimited.Delimited
  columns: dict[str, Any]

  def own_names(self, config: config_lib.DataConfig) -> config_lib.DataConfig:
    return dataclasses.replace(
      config, title_column="title", time_unit="s", **self.columns
    )


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every rating of the folder.

  Raises:
    UserError: no MovieLens layout, or a bad line.
  """
  layout = _find_layout(pathlib.Path(config.path))
  return events.delimited_events(layout.ratings, layout.own_names(config))


def read_items(
  config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable:
  """Titles, with the year, and genres."""
  layout = _find_layout(pathlib.Path(config.path))
  names = layout.own_names(config)
  movies = dataclasses.replace(
    layout.movies, encoding=_encoding(layout.movies.path)
  )
  table = item_table.read_delimited(movies, names)
  if GENRES[0] in table.column_names:
    genres = _flagged_genres(table)
  else:
    genres = pc.replace_substring(
      table["genres"], "|", replacement=schema.PATH_SEPARATOR
    )
    genres = pc.replace_substring(genres, "(no genres listed)", replacement="")
  table = table.select([names.item_column, "title"])
  table = table.append_column("genres", genres)
  return item_table.select(table, names, wanted, movies.path)


def _find_layout(folder: pathlib.Path) -> _Layout:
  own = {
    "user_column": "user",
    "item_column": "item",
    "timestamp_column": "timestamp",
    "rating_column": "rating",
    "categories_column": "genres",
  }
  if (folder / "u.data").exists():
    names = ("item", "title", "date", "video_date", "url", *GENRES)
    return _Layout(
      delimited.Delimited(folder / "u.data", "\t", RATINGS, 0, False),
      delimited.Delimited(folder / "u.item", "|", names, 0, False),
      own,
    )
  if (folder / "ratings.dat").exists():
    return _Layout(
      delimited.Delimited(folder / "ratings.dat", "::", RATINGS, 0, False),
      delimited.Delimited(folder / "movies.dat", "::", MOVIES, 0, False),
      own,
    )
  if (folder / "ratings.csv").exists():
    return _Layout(
      delimited.Delimited(folder / "ratings.csv"),
      delimited.Delimited(folder / "movies.csv"),
      own | {"user_column": "userId", "item_column": "movieId"},
    )
  raise errors.UserError(
    f"{folder}: no MovieLens folder, expected u.data (100K), ratings.dat (1M, "
    "10M) or ratings.csv (20M and newer) in it; set data.path"
  )


def _encoding(path: pathlib.Path) -> str:
  """UTF-8 or, in the older releases, Latin-1."""
  files.check_file(path)
  try:
    path.read_text("utf-8")
  except UnicodeDecodeError:
    return "latin-1"
  return "utf-8"


def _flagged_genres(table: pa.Table) -> pa.Array:
  flags = zip(*(table[genre].to_pylist() for genre in GENRES))
  return pa.array(
    schema.PATH_SEPARATOR.join(g for g, flag in zip(GENRES, row) if flag)
    for row in flags
  )
