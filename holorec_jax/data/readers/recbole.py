"""RecBole's atomic files: tab-separated, with `name:type` in the header.

`path` is the folder with one `.inter` and, for titles, one `.item`, or the
`.inter` file. Text of type `token_seq` in the categories column is a list.

Zhao et al., arXiv 2011.01731; https://recbole.io/docs.
"""

import pathlib

import pyarrow.compute as pc

from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import (
  delimited,
  events,
  files,
  item_table,
)


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every row of the `.inter` file.

  Raises:
    UserError: an unreadable file, a missing column or a bad row.
  """
  source = _atomic(files.find_one(pathlib.Path(config.path), "*.inter"))
  return events.delimited_events(source, config)


def read_items(
  config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable | None:
  """The `.item` file beside the interactions (or `items_path`), if any."""
  folder = files.find_one(pathlib.Path(config.path), "*.inter").parent
  if not config.items_path and not list(folder.glob("*.item")):
    return None
  source = _atomic(
    files.find_one(pathlib.Path(config.items_path or folder), "*.item")
  )
  table = item_table.read_delimited(source, config)
  name = config.categories_column
  if f"{name}:token_seq" in _header(source.path):
    joined = pc.replace_substring(
      table[name], " ", replacement=schema.PATH_SEPARATOR
    )
    position = table.column_names.index(name)
    table = table.set_column(position, name, joined)
  return item_table.select(table, config, wanted, source.path)


def _header(path: pathlib.Path) -> list[str]:
  return delimited.Delimited(path, "\t", quotes=False).columns()


def _atomic(path: pathlib.Path) -> delimited.Delimited:
  names = tuple(name.partition(":")[0] for name in _header(path))
  return delimited.Delimited(path, "\t", names, quotes=False)
