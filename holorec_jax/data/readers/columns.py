"""Event columns of any type -> `Events`, with every row checked."""

import pathlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
YEAR_10000_MS = 253_402_300_800_000

# A file's own names of user, item, time and rating; None where not read.
Names = tuple[str, str, str | None, str | None]


def find_column(names: list[str], wanted: str, where: str, field: str) -> str:
  """The column called `wanted` or `wanted_id` (for items also plain `id`).

  Raises:
    UserError: there is none; names the file's columns and the config field.
  """
  candidates = [wanted, f"{wanted}_id"] + ["id"] * (field == "item_column")
  for name in candidates:
    if name in names:
      return name
  raise errors.UserError(
    f"{where}: no column {wanted!r}, the file has {names}; set data.{field}"
  )


def event_columns(
  names: list[str], path: pathlib.Path, config: config_lib.DataConfig
) -> Names:
  """What the file calls the columns that the config asks for."""

  def find(wanted: str, field: str) -> str:
    return find_column(names, wanted, str(path), field)

  return (
    find(config.user_column, "user_column"),
    find(config.item_column, "item_column"),
    find(config.timestamp_column, "timestamp_column")
    if config.timestamp_column
    else None,
    find(config.rating_column, "rating_column") if config.min_rating else None,
  )


def encode(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct values as str, by first appearance, and (E,) int32 rows of them.

  Nulls become the empty string's row.
  """
  if not pa.types.is_dictionary(column.type):
    column = column.dictionary_encode()
  if isinstance(column, pa.ChunkedArray):
    column = column.unify_dictionaries().combine_chunks()
  values = schema.strings(pc.cast(column.dictionary, pa.string()))
  if not column.null_count:
    return values, column.indices.to_numpy().astype(np.int32, copy=False)
  rows = column.indices.fill_null(len(values)).to_numpy()
  return np.append(values, ""), rows.astype(np.int32, copy=False)


def to_events(
  path: pathlib.Path,
  table: pa.Table,
  names: Names,
  time_unit: str,
  where: Callable[[int], str],
) -> schema.Events:
  """Checked events in the table's order.

  Args:
    path: named in errors.
    table: has the columns `names`; ids are strings or whole numbers, times
      numbers in `time_unit` since 1970 or Arrow timestamps, ratings numbers.
    names: the columns.
    time_unit: a key of `PER_SECOND`.
    where: what to call a row (from 0) in an error.

  Raises:
    UserError: an id that is empty or a fraction, a missing rating, or a time
      that is missing, negative or absurd, with its place.
  """
  user, item, time, rating = names
  user_ids, users = _ids(path, table, user, where)
  item_ids, items = _ids(path, table, item, where)
  ratings = None
  if rating is not None:
    ratings = _numbers(path, table, rating, where).astype(np.float32)
  return schema.Events(
    user_ids=user_ids,
    item_ids=item_ids,
    users=users,
    items=items,
    times_ms=None
    if time is None
    else _times(path, table, time, time_unit, where),
    ratings=ratings,
  )


def _ids(
  path: pathlib.Path, table: pa.Table, name: str, where: Callable[[int], str]
) -> tuple[np.ndarray, np.ndarray]:
  ids, rows = encode(whole_ids(path, table, name, where))
  empty = np.flatnonzero(ids == "")
  if len(empty):
    bad = int(np.argmax(np.isin(rows, empty)))
    raise errors.UserError(f"{path}, {where(bad)}: no value for {name!r}")
  return ids, rows


def whole_ids(
  path: pathlib.Path, table: pa.Table, name: str, where: Callable[[int], str]
) -> pa.ChunkedArray | pa.Array:
  """The column of ids, floats (what pandas makes of integers) as integers.

  Nulls and NaN stay nulls. In text, as in a CSV file, an id is what is written.

  Raises:
    UserError: a fraction, or a float too large to be exact, with its place.
  """
  column = table[name]
  if not pa.types.is_floating(column.type):
    return column
  values = column.to_numpy()
  exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
  bad = (np.abs(values) > exact) | (np.rint(values) != values)
  bad &= ~np.isnan(values)
  if bad.any():
    row = int(np.argmax(bad))
    raise errors.UserError(
      f"{path}, {where(row)}: {name} is {values[row]}, expected a string or a "
      f"whole number up to {exact:.0f}; write ids as strings"
    )
  return pa.array(values, pa.int64(), from_pandas=True)


def _numbers(
  path: pathlib.Path, table: pa.Table, name: str, where: Callable[[int], str]
) -> np.ndarray:
  """(E,) float64, none missing."""
  column = table[name]
  try:
    values = column.cast(pa.float64())
  except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
    bad = next(r for r, v in enumerate(column) if not is_number(v.as_py()))
    raise errors.UserError(
      f"{path}, {where(bad)}: {name} is {column[bad].as_py()!r}, expected a "
      "number"
    ) from error
  if values.null_count:
    bad = int(np.argmax(values.is_null().to_numpy()))
    raise errors.UserError(f"{path}, {where(bad)}: no value for {name!r}")
  return values.to_numpy()


def is_number(value: object) -> bool:
  """Whether Python, too, would read a number in it."""
  try:
    float(value)  # type: ignore[arg-type]
  except (TypeError, ValueError):
    return False
  return True


def _times(
  path: pathlib.Path,
  table: pa.Table,
  name: str,
  unit: str,
  where: Callable[[int], str],
) -> np.ndarray:
  """(E,) int64 milliseconds."""
  if unit not in PER_SECOND:
    raise errors.UserError(
      f"data.time_unit is {unit!r}, expected one of {list(PER_SECOND)}"
    )
  kind = table.schema.field(name).type
  if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
    unit = "ms"
    column = table[name].cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    table = pa.table({name: column})
  times_ms = _numbers(path, table, name, where) * (1000 / PER_SECOND[unit])
  good = (times_ms >= 0) & (times_ms < YEAR_10000_MS)  # False for NaN too.
  if not good.all():
    bad = int(np.argmin(good))
    raise errors.UserError(
      f"{path}, {where(bad)}: {name} is {table[name][bad].as_py()}, expected a "
      f"number of {unit} since 1970, not negative; set data.time_unit (s, ms, "
      "us, ns) if the unit is another"
    )
  return np.rint(times_ms).astype(np.int64)
