"""Rows of any tabular file (CSV, TSV, Parquet, JSON lines) as Arrow columns.

Files are read once at Arrow's speed; only when that fails does a slow second
look find the row to name in the error.
"""

import collections
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema


def read_text(path: pathlib.Path) -> str:
  """A whole UTF-8 file.

  Raises:
    UserError: it is missing, empty or not text.
  """
  check_file(path)
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"{path}: not UTF-8 text (byte {error.start}); convert the file"
    ) from error


def check_file(path: pathlib.Path) -> None:
  """Raises UserError unless the path is a file with something in it."""
  if not path.is_file():
    raise errors.UserError(
      f"{path}: no such file; set data.path (and data.items_path) to files "
      "that exist"
    )
  if path.stat().st_size == 0:
    raise errors.UserError(f"{path}: the file is empty")


def encode(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct strings by first appearance and (E,) int32 rows of them."""
  if isinstance(column, pa.ChunkedArray):
    column = column.combine_chunks()
  if not pa.types.is_dictionary(column.type):
    column = column.dictionary_encode()
  return schema.strings(column.dictionary), column.indices.to_numpy().astype(
    np.int32
  )


def find_column(
  names: list[str], wanted: str, path: pathlib.Path, field: str
) -> str:
  """The column called `wanted` or `wanted_id` (items also plain `id`)."""
  candidates = [wanted, f"{wanted}_id"] + ["id"] * (field == "item_column")
  for name in candidates:
    if name in names:
      return name
  raise errors.UserError(
    f"{path}: no column {wanted!r}, the file has {names}; set data.{field}"
  )


def read_item_table(
  path: pathlib.Path, config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable:
  """The wanted rows of an item table with their text columns.

  Raises:
    UserError: unreadable file, no item column, an empty or repeated id.
  """
  return select_items(read_json_rows(path), config, wanted, path)


def read_json_rows(path: pathlib.Path) -> pa.Table:
  """JSON lines as a table; keys may be missing and values null."""
  columns: dict[str, list] = collections.defaultdict(list)
  count = 0
  for number, line in enumerate(read_text(path).splitlines(), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      raise errors.UserError(
        f"{path}, line {number}: not a JSON object ({error})"
      ) from error
    for key, value in row.items():
      columns[key].extend([None] * (count - len(columns[key])))
      columns[key].append(_plain(value))
    count += 1
  for values in columns.values():
    values.extend([None] * (count - len(values)))
  return pa.table({k: _column(v) for k, v in columns.items()})


def _plain(value: object) -> object:
  """Lists become one path string; so do their elements."""
  if isinstance(value, list):
    return schema.PATH_SEPARATOR.join(str(v) for v in value)
  return value


def _column(values: list) -> pa.Array:
  try:
    return pa.array(values)
  except (pa.ArrowInvalid, pa.ArrowTypeError):
    return pa.array([None if v is None else str(v) for v in values])


def select_items(
  table: pa.Table,
  config: config_lib.DataConfig,
  wanted: frozenset[str],
  path: pathlib.Path,
) -> schema.ItemTable:
  """Keeps wanted rows and text columns; renames title and categories."""
  key = find_column(table.column_names, config.item_column, path, "item_column")
  ids = schema.strings(pc.cast(table[key], pa.string()))
  _check_distinct(ids, path)
  keep = np.fromiter((i in wanted for i in ids), bool, len(ids))
  renames = {
    config.title_column: "title",
    config.categories_column: "categories",
  }
  text = {}
  for name in _text_columns(table, key, config, path):
    values = schema.strings(table[name].filter(pa.array(keep)))
    text[renames.get(name, name)] = values
  return schema.ItemTable(
    ids=ids[keep], rows=np.flatnonzero(keep), num_rows=len(ids), text=text
  )


def _check_distinct(ids: np.ndarray, path: pathlib.Path) -> None:
  first: dict[str, int] = {}
  for row, item in enumerate(ids.tolist(), 1):
    if not item:
      raise errors.UserError(f"{path}, row {row}: the item id is empty")
    if item in first:
      raise errors.UserError(
        f"{path}: item id {item!r} stands in rows {first[item]} and {row}; "
        "keep one row per item"
      )
    first[item] = row


def _text_columns(
  table: pa.Table, key: str, config: config_lib.DataConfig, path: pathlib.Path
) -> list[str]:
  """Configured text columns, or every column that holds text.

  A column of distinct single words is an identifier, not text.
  """
  if config.text_columns:
    missing = sorted(set(config.text_columns) - set(table.column_names))
    if missing:
      raise errors.UserError(
        f"{path}: no text columns {missing}, the file has "
        f"{table.column_names}; set data.text_columns"
      )
    return list(config.text_columns)
  names = []
  for name in table.column_names:
    if name == key or not pa.types.is_string(table[name].type):
      continue
    values = table[name].drop_null()
    words = pc.any(pc.match_substring(values, " ")).as_py()
    if words or pc.count_distinct(values).as_py() < len(values):
      names.append(name)
    else:
      logging.info("%s: %r holds identifiers, not text: left out", path, name)
  return names
