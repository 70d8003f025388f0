"""The canonical data set, its folder on disk, and what readers hand over.

Everything after `data/` sees only `Dataset`: integer items in one stable order
and each user's events, oldest first, as one ragged array. A data set's folder
holds numpy arrays (memory-mapped when loaded), strings as Parquet and
`dataset.json`, which names the schema version and the counts.

String columns are numpy object arrays of `str`: titles and descriptions are of
very different lengths, so a fixed-width dtype would waste gigabytes.
"""

import dataclasses
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from holorec_jax import artifacts, errors

SCHEMA_VERSION = 1
PATH_SEPARATOR = " > "


@dataclasses.dataclass(frozen=True)
class Events:
  """Interactions as a reader found them, in file order.

  Attributes:
    user_ids: (U,) str, distinct, by first appearance.
    item_ids: (I,) str, distinct, by first appearance.
    users: (E,) int32 rows of `user_ids`.
    items: (E,) int32 rows of `item_ids`.
    times_ms: (E,) int64 milliseconds, or None when file order is time order.
      Milliseconds, so that sorting does not lose the order inside a second.
    ratings: (E,) float32, or None.
  """

  user_ids: np.ndarray
  item_ids: np.ndarray
  users: np.ndarray
  items: np.ndarray
  times_ms: np.ndarray | None = None
  ratings: np.ndarray | None = None

  @property
  def num_events(self) -> int:
    return len(self.items)


@dataclasses.dataclass(frozen=True)
class ItemTable:
  """The wanted rows of an item table, in the table's order.

  Attributes:
    ids: (J,) str, distinct.
    rows: (J,) int64, each item's 0-based row in the whole table.
    num_rows: rows of the whole table.
    text: column -> (J,) str, "" where missing.
  """

  ids: np.ndarray
  rows: np.ndarray
  num_rows: int
  text: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Canonical interactions; items are 0..I-1 in a stable order.

  User u's events are `items[offsets[u]:offsets[u + 1]]`, oldest first.

  Attributes:
    name: what reports call it.
    item_ids: (I,) str, external ids.
    item_text: column -> (I,) str, "" where missing. "title" is what people
      read, "categories" a path from general to specific joined by " > "; any
      other text column may follow.
    user_ids: (U,) str, external ids.
    offsets: (U + 1,) int64.
    items: (E,) int32.
    timestamps: (E,) int64 seconds, or None.
    item_rows: (I,) int64, each item's row in the source's item table, so that
      a file with one vector per table row can be matched; None without a table.
    table_rows: rows of that table, 0 without one.
  """

  name: str
  item_ids: np.ndarray
  item_text: dict[str, np.ndarray]
  user_ids: np.ndarray
  offsets: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray | None = None
  item_rows: np.ndarray | None = None
  table_rows: int = 0

  @property
  def num_items(self) -> int:
    return len(self.item_ids)

  @property
  def num_users(self) -> int:
    return len(self.user_ids)

  @property
  def num_events(self) -> int:
    return len(self.items)

  def history(self, user: int) -> np.ndarray:
    """All items of one user, oldest first."""
    return self.items[self.offsets[user] : self.offsets[user + 1]]


def validate(dataset: Dataset) -> None:
  """Raises UserError unless the arrays agree with each other."""
  sizes = {
    "offsets": (len(dataset.offsets), dataset.num_users + 1),
    "events": (int(dataset.offsets[-1]), dataset.num_events),
  }
  for column, values in dataset.item_text.items():
    sizes[f"item_text[{column!r}]"] = (len(values), dataset.num_items)
  if dataset.timestamps is not None:
    sizes["timestamps"] = (len(dataset.timestamps), dataset.num_events)
  if dataset.item_rows is not None:
    sizes["item_rows"] = (len(dataset.item_rows), dataset.num_items)
  for what, (found, expected) in sizes.items():
    if found != expected:
      raise errors.UserError(
        f"data set {dataset.name!r}: {what} has {found} entries, "
        f"expected {expected}; prepare the data again"
      )
  in_range = dataset.num_events == 0 or (
    dataset.items.min() >= 0 and dataset.items.max() < dataset.num_items
  )
  if not in_range or np.any(np.diff(dataset.offsets) < 0):
    raise errors.UserError(
      f"data set {dataset.name!r}: events point outside its "
      f"{dataset.num_items} items or its offsets decrease; prepare again"
    )


def save_dataset(dataset: Dataset, folder: str | os.PathLike[str]) -> None:
  """Writes the folder: complete or not there.

  An empty folder that exists is filled: a stage that seals it with a manifest
  has made it with `artifacts.atomic_folder` itself.

  Raises:
    UserError: the folder holds files already, or the disk is full.
  """
  validate(dataset)
  folder = pathlib.Path(folder)
  if folder.is_dir() and not any(folder.iterdir()):
    _write(dataset, folder)
    return
  with artifacts.atomic_folder(folder) as partial:
    _write(dataset, partial)


def _write(dataset: Dataset, folder: pathlib.Path) -> None:
  np.save(folder / "offsets.npy", np.asarray(dataset.offsets, np.int64))
  np.save(folder / "items.npy", np.asarray(dataset.items, np.int32))
  if dataset.timestamps is not None:
    np.save(folder / "timestamps.npy", np.asarray(dataset.timestamps, np.int64))
  columns = {"item_id": dataset.item_ids} | {
    f"text.{name}": values for name, values in dataset.item_text.items()
  }
  table = {name: pa.array(v, pa.string()) for name, v in columns.items()}
  if dataset.item_rows is not None:
    table["table_row"] = pa.array(dataset.item_rows, pa.int64())
  pq.write_table(pa.table(table), folder / "items.parquet")
  users = pa.table({"user_id": pa.array(dataset.user_ids, pa.string())})
  pq.write_table(users, folder / "users.parquet")
  summary = {
    "schema_version": SCHEMA_VERSION,
    "name": dataset.name,
    "users": dataset.num_users,
    "items": dataset.num_items,
    "events": dataset.num_events,
    "text_columns": list(dataset.item_text),
    "timestamps": dataset.timestamps is not None,
    "table_rows": dataset.table_rows,
  }
  artifacts.write_json(folder / "dataset.json", summary)


def load_dataset(folder: str | os.PathLike[str]) -> Dataset:
  """Loads a data set; event arrays stay on disk (memory-mapped).

  Raises:
    UserError: no data set there, another schema version, or counts that do not
      match the files.
  """
  folder = pathlib.Path(folder)
  try:
    summary = artifacts.read_json(folder / "dataset.json")
    if summary["schema_version"] != SCHEMA_VERSION:
      raise errors.UserError(
        f"{folder}: data set schema {summary['schema_version']}, this version "
        f"reads {SCHEMA_VERSION}; prepare the data again"
      )
    dataset = _read(folder, summary)
  except (OSError, KeyError, ValueError) as error:
    if isinstance(error, errors.UserError):
      raise
    raise errors.UserError(
      f"{folder}: no complete data set there ({error}); run "
      "launch/prepare_data.py"
    ) from error
  for what in ("users", "items", "events"):
    if summary[what] != getattr(dataset, f"num_{what}"):
      raise errors.UserError(
        f"{folder}: dataset.json counts {summary[what]} {what}, the files hold "
        f"{getattr(dataset, f'num_{what}')}; prepare the data again"
      )
  validate(dataset)
  return dataset


def _read(folder: pathlib.Path, summary: dict) -> Dataset:
  table = pq.read_table(folder / "items.parquet")
  users = pq.read_table(folder / "users.parquet")
  rows = "table_row" in table.column_names
  return Dataset(
    name=summary["name"],
    item_ids=strings(table["item_id"]),
    item_text={
      name: strings(table[f"text.{name}"]) for name in summary["text_columns"]
    },
    user_ids=strings(users["user_id"]),
    offsets=np.load(folder / "offsets.npy", mmap_mode="r"),
    items=np.load(folder / "items.npy", mmap_mode="r"),
    timestamps=np.load(folder / "timestamps.npy", mmap_mode="r")
    if summary["timestamps"]
    else None,
    item_rows=table["table_row"].to_numpy() if rows else None,
    table_rows=summary["table_rows"],
  )


def strings(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
  """An Arrow column as an object array of str, "" for null."""
  return column.fill_null("").to_numpy(zero_copy_only=False).astype(object)
