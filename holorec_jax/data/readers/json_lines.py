"""Events as JSON lines, read by Arrow with only the fields that matter.

Shared by `events` (own names) and `amazon` (three releases' names).
"""

import json
import pathlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.json

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import columns, files

BLOCK_BYTES = 1 << 24  # A line must fit: reviews may be long.
# pandas writes whole numbers as 7.0 where some are missing.
ID_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
EXPECTED = {
  pa.string(): "a string",
  pa.int64(): "an integer",
  pa.float64(): "a number",
}


def read_events(
  path: pathlib.Path, config: config_lib.DataConfig
) -> schema.Events:
  """Events under the names in the config, in the file's order.

  Raises:
    UserError: a line that is no JSON object, lacks a field or has a field of
      another type than the first line, or an id that is a fraction.
  """
  first = first_object(path)
  names = columns.event_columns(list(first), path, config)
  return read_fields(path, first, names, config.time_unit)


def read_fields(
  path: pathlib.Path,
  first: dict,
  names: columns.Names,
  time_unit: str,
) -> schema.Events:
  """Events of the fields `names`; `first` is the first object of the file."""
  user, item, *numbers = names
  types = {name: _id_type(path, first, name) for name in (user, item)} | {
    name: pa.float64() for name in numbers if name is not None
  }
  try:
    with files.open_bytes(path) as stream:
      table = pa.json.read_json(
        stream,
        pa.json.ReadOptions(block_size=BLOCK_BYTES),
        pa.json.ParseOptions(
          explicit_schema=pa.schema(types.items()),
          unexpected_field_behavior="ignore",
        ),
      )
  except pa.ArrowInvalid as error:
    raise _explain(path, types, error) from error
  return columns.to_events(
    path, table, names, time_unit, lambda row: where(path, row)
  )


def _id_type(path: pathlib.Path, first: dict, name: str) -> pa.DataType:
  """What a field of ids holds, by its first value."""
  value = first[name]
  if type(value) in ID_TYPES:
    return ID_TYPES[type(value)]
  found = (
    f"no value for {name!r}"
    if value is None
    else f"{name} is {value!r:.40}, expected a string or a whole number"
  )
  raise errors.UserError(f"{path}, {where(path, 0)}: {found}")


def first_object(path: pathlib.Path) -> dict:
  """The first line's object.

  Raises:
    UserError: there is none.
  """
  for _, row in read_objects(path):
    return row
  raise errors.UserError(f"{path}: no rows")


def where(path: pathlib.Path, row: int) -> str:
  """What to call object `row` (from 0) in an error."""
  for index, (number, _) in enumerate(files.read_lines(path)):
    if index == row:
      return f"line {number}"
  return f"row {row + 1}"


def read_objects(path: pathlib.Path) -> Iterator[tuple[int, dict]]:
  """(line number from 1, object) of every line.

  Raises:
    UserError: a line that is no JSON object.
  """
  for number, line in files.read_lines(path):
    try:
      value = json.loads(line)
    except json.JSONDecodeError as error:
      raise errors.UserError(
        f"{path}, line {number}: not JSON ({error}); expected one object per "
        "line"
      ) from error
    if not isinstance(value, dict):
      raise errors.UserError(
        f"{path}, line {number}: expected a JSON object, found {line:.40}"
      )
    yield number, value


def _explain(
  path: pathlib.Path, types: dict[str, pa.DataType], error: Exception
) -> errors.UserError:
  """Finds the first line that Arrow could not take."""
  for number, row in read_objects(path):
    for name, kind in types.items():
      if not _fits(row.get(name), kind):
        return errors.UserError(
          f"{path}, line {number}: {name} is {row[name]!r:.40}, "
          f"expected {EXPECTED[kind]} as in the first line"
        )
  return errors.UserError(f"{path}: {error}")


def _fits(value: object, kind: pa.DataType) -> bool:
  """Whether Arrow takes a JSON value; unlike from Python, 7.0 is no integer."""
  if isinstance(value, bool):
    return False
  if isinstance(value, float) and pa.types.is_integer(kind):
    return False
  try:
    pa.array([value], kind)
  except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
    return False
  return True
