"""Your own data: a table of events and, optionally, one of items.

`path` is a CSV, TSV, Parquet or JSON-lines file with a user, an item and,
unless `timestamp_column` is "", a time in each row, or a folder of such files,
read in the order of their names; `items_path` a table of any of these formats
with one row per item and any text columns.

Ids are text: in JSON lines and Parquet the numbers 7 and 7.0 (what pandas makes
of 7 when other ids are missing) are both "7"; in CSV and TSV an id is what is
written.
"""

import pathlib

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import (
  columns,
  delimited,
  files,
  item_table,
  json_lines,
)


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every row of the events table.

  Raises:
    UserError: an unreadable file, a missing column, a bad row (with its place).
  """
  path = pathlib.Path(config.path)
  files.check_file(path)
  suffix = files.plain_suffix(path)
  if suffix in (".parquet", ".pq"):
    return _read_parquet(path, config)
  if suffix in (".jsonl", ".json", ".ndjson"):
    return json_lines.read_events(path, config)
  return delimited_events(delimited.from_path(path), config)


def read_items(
  config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable | None:
  """The item table, None without one."""
  if not config.items_path:
    return None
  path = pathlib.Path(config.items_path)
  return item_table.read_item_table(path, config, wanted)


def delimited_events(
  source: delimited.Delimited, config: config_lib.DataConfig
) -> schema.Events:
  """Events of a text table whose columns the config names."""
  names = columns.event_columns(source.columns(), source.path, config)
  kinds = (delimited.ID, delimited.ID, delimited.NUMBER, delimited.NUMBER)
  table = source.read(
    {name: kind for name, kind in zip(names, kinds) if name is not None}
  )
  return columns.to_events(
    source.path, table, names, config.time_unit, source.where
  )


def _read_parquet(
  path: pathlib.Path, config: config_lib.DataConfig
) -> schema.Events:
  source = files.open_parquet(path)
  names = columns.event_columns(source.schema_arrow.names, path, config)
  table = source.read([name for name in names if name is not None])
  if not table.num_rows:
    raise errors.UserError(f"{path}: no rows")
  return columns.to_events(
    path, table, names, config.time_unit, lambda row: f"row {row + 1}"
  )
