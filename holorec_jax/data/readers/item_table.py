"""Item tables of any format -> the wanted items and their text.

A table's text columns are all that hold strings (or lists of strings), except
identifiers and addresses: distinct values, each one word with a digit in it.
`data.text_columns` chooses by name instead.
"""

import pathlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import columns, delimited, files, json_lines


def read_item_table(
  path: pathlib.Path, config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable:
  """The wanted rows of a CSV, TSV, Parquet or JSON-lines item table.

  Raises:
    UserError: an unreadable file, no item column, an empty or repeated id.
  """
  suffix = files.plain_suffix(path)
  if suffix in (".parquet", ".pq"):
    table = files.open_parquet(path).read()
  elif suffix in (".jsonl", ".json", ".ndjson"):
    table = from_rows([row for _, row in json_lines.read_objects(path)])
  else:
    table = read_delimited(delimited.from_path(path), config)
  return select(table, config, wanted, path)


def read_delimited(
  source: delimited.Delimited, config: config_lib.DataConfig
) -> pa.Table:
  """All columns; ids and text stay strings even where all are digits."""
  key = columns.find_column(
    source.columns(), config.item_column, str(source.path), "item_column"
  )
  text = (config.title_column, config.categories_column, *config.text_columns)
  return source.read({n: pa.string() for n in (key, *text)}, only=False)


def select(
  table: pa.Table,
  config: config_lib.DataConfig,
  wanted: frozenset[str],
  path: pathlib.Path,
) -> schema.ItemTable:
  """Keeps wanted rows and text columns; renames title and categories.

  Raises:
    UserError: no item column, an empty or repeated id, no such text column, or
      two of one name.
  """
  key = columns.find_column(
    table.column_names, config.item_column, str(path), "item_column"
  )
  whole = columns.whole_ids(path, table, key, lambda row: f"row {row + 1}")
  ids = schema.strings(pc.cast(whole, pa.string()))
  _check_distinct(ids, path)
  keep = np.fromiter((item in wanted for item in ids), bool, len(ids))
  renames = {
    config.title_column: "title",
    config.categories_column: "categories",
  }
  text: dict[str, np.ndarray] = {}
  for name, column in _text_columns(table, key, config, path).items():
    called = renames.get(name, name)
    if called in text:
      raise errors.UserError(
        f"{path}: two columns would be {called!r}, one of this name and the one"
        f" that config.data.{called}_column names: list the columns to take in"
        " config.data.text_columns"
      )
    text[called] = schema.strings(column.filter(pa.array(keep)))
  if "title" not in text:
    logging.warning(
      "%s: no column %r, so items have no titles; the file has %s (set "
      "data.title_column)",
      path,
      config.title_column,
      table.column_names,
    )
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
) -> dict[str, pa.ChunkedArray]:
  missing = sorted(set(config.text_columns) - set(table.column_names))
  if missing:
    raise errors.UserError(
      f"{path}: no text columns {missing}, the file has {table.column_names}; "
      "set data.text_columns"
    )
  found = {}
  for name in config.text_columns or table.column_names:
    joint = schema.PATH_SEPARATOR if name == config.categories_column else " "
    column = _joined(table[name], joint)
    if config.text_columns:
      found[name] = _as_text(column, name, path)
    elif name == key or not pa.types.is_string(column.type):
      if name in (config.title_column, config.categories_column):
        logging.warning("%s: %r holds %s: left out", path, name, column.type)
      continue
    elif name in (config.title_column, config.categories_column) or _is_text(
      column
    ):
      found[name] = column
    else:
      logging.info("%s: %r holds identifiers, not text: left out", path, name)
  return found


def _joined(column: pa.ChunkedArray, joint: str) -> pa.ChunkedArray:
  """Strings, and lists of them as one each, in any layout; else as it is."""
  kind = column.type
  if _is_list(kind) and _is_string(kind.value_type):
    return pc.binary_join(column.cast(pa.list_(pa.string())), joint)
  if _is_string(kind) or pa.types.is_dictionary(kind):
    return column.cast(pa.string())
  return column


def _is_string(kind: pa.DataType) -> bool:
  is_kinds = pa.types.is_string, pa.types.is_large_string
  return any(is_kind(kind) for is_kind in (*is_kinds, pa.types.is_string_view))


def _is_list(kind: pa.DataType) -> bool:
  return any(
    is_kind(kind)
    for is_kind in (
      pa.types.is_list,
      pa.types.is_large_list,
      pa.types.is_fixed_size_list,
      pa.types.is_list_view,
      pa.types.is_large_list_view,
    )
  )


def _as_text(
  column: pa.ChunkedArray, name: str, path: pathlib.Path
) -> pa.ChunkedArray:
  try:
    return column.cast(pa.string())
  except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
    raise errors.UserError(
      f"{path}: column {name!r} holds {column.type}, which is no text; leave "
      "it out of data.text_columns"
    ) from error


def _is_text(column: pa.ChunkedArray) -> bool:
  values = column.drop_null()
  coded = pc.and_(
    pc.match_substring_regex(values, "[0-9]"),
    pc.invert(pc.match_substring(values, " ")),
  )
  distinct = pc.count_distinct(values).as_py() == len(values)
  return not (distinct and pc.all(coded).as_py())


def from_rows(rows: list[dict], names: Iterable[str] = ()) -> pa.Table:
  """Columns of loosely typed rows; one of mixed types becomes strings.

  Args:
    rows: keys may be missing and values null.
    names: the columns; () for every key that occurs.
  """
  names = names or dict.fromkeys(name for row in rows for name in row)
  return pa.table({n: _column([row.get(n) for row in rows]) for n in names})


def _column(values: list) -> pa.Array:
  try:
    return pa.array(values)
  except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
    texts = [None if value is None else str(value) for value in values]
  # Half a surrogate pair, as in cut JSON, is no text.
  return pa.array(
    [t if t is None else t.encode("utf-8", "replace").decode() for t in texts]
  )
