"""Item vectors that the user brings: .npy, .npz or .parquet.

Which row belongs to which item, the first that applies:
  ids_path  a text file with one item id a line, the id of each row
  .npz      arrays `ids` and `vectors`
  .parquet  a column `id`, and either a list column `vector` or numeric columns
  no ids    as many rows as the source's item table: row by row with it, so
            that filtering items away does not shift anything;
            as many rows as the data set has items: in their order.
Rows of items that the data set lacks are skipped.
"""

import pathlib
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from absl import logging

from holorec_jax.data import schema
from holorec_jax.errors import UserError

Table = tuple[np.ndarray, np.ndarray | None]


def load_vectors(
  path: str, dataset: schema.Dataset, ids_path: str = ""
) -> np.ndarray:
  """Reads one vector for each item of the data set.

  Returns:
    x_ID float32, finite; zeros for an item that the source's item table lacks.

  Raises:
    UserError: file missing or unreadable, not two-dimensional, NaN or Inf, rows
      that cannot be matched with the items.
  """
  if not path:
    raise UserError(
      "config.vectors.sources has 'precomputed': set config.vectors.path to a "
      f"file of item vectors ({', '.join(READERS)})."
    )
  vectors, ids = _read(pathlib.Path(path))
  if ids_path:
    ids = _read_ids(pathlib.Path(ids_path))
  if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
    raise UserError(
      f"{path}: expected numbers of shape (items, dimensions), got "
      f"{vectors.dtype} of shape {vectors.shape}."
    )
  if ids is None:
    rows_I = _rows_by_place(path, len(vectors), dataset)
  else:
    rows_I = _rows_by_id(ids_path or path, len(vectors), ids, dataset.item_ids)
  x_ID = np.asarray(vectors[rows_I], np.float32)
  x_ID[rows_I < 0] = 0
  bad = np.flatnonzero(~np.isfinite(x_ID).all(axis=1))
  if bad.size:
    raise UserError(
      f"{path}: NaN or Inf in the vectors of {bad.size} items, the first is "
      f"row {rows_I[bad[0]]} (counted from 0), item "
      f"{dataset.item_ids[bad[0]]}. Compute them again, or write zeros: an "
      "item of zeros gets the mean of its neighbours in training histories."
    )
  return x_ID


def _read(path: pathlib.Path) -> Table:
  """The vectors and, where the file holds them, the item ids of its rows."""
  if path.suffix not in READERS:
    raise UserError(
      f"{path}: item vectors are read from {', '.join(READERS)} files."
    )
  if not path.is_file():
    raise UserError(f"{path}: no such file (config.vectors.path).")
  try:
    return READERS[path.suffix](path)
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}: cannot be read ({error}).") from error


def _read_npy(path: pathlib.Path) -> Table:
  return np.load(path, mmap_mode="r", allow_pickle=False), None


def _read_npz(path: pathlib.Path) -> Table:
  with np.load(path, allow_pickle=False) as arrays:
    if "vectors" not in arrays:
      raise UserError(
        f"{path}: no array 'vectors', only {', '.join(arrays.files)}; save it "
        "with numpy.savez(path, ids=..., vectors=...)."
      )
    ids = arrays["ids"].astype(str) if "ids" in arrays else None
    return arrays["vectors"], ids


def _read_parquet(path: pathlib.Path) -> Table:
  table = pq.read_table(path)
  ids = None
  if "id" in table.column_names:
    ids = schema.strings(table["id"].cast(pa.string())).astype(str)
    table = table.drop_columns(["id"])
  if table.column_names == ["vector"]:
    return _stack(table["vector"].combine_chunks(), path), ids
  return np.column_stack([column.to_numpy() for column in table.columns]), ids


def _stack(column: pa.Array, path: pathlib.Path) -> np.ndarray:
  """Lists of equal length as the rows of an array."""
  lengths = pc.unique(pc.list_value_length(column)).to_pylist()
  if len(lengths) != 1 or not lengths[0]:
    raise UserError(
      f"{path}: the vectors are of lengths {sorted(map(str, lengths))};"
      " expected one, above 0"
    )
  return (
    pc.list_flatten(column)
    .to_numpy(zero_copy_only=False)
    .reshape(-1, lengths[0])
  )


READERS = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}


def _read_ids(path: pathlib.Path) -> np.ndarray:
  if not path.is_file():
    raise UserError(f"{path}: no such file (config.vectors.ids_path).")
  lines = path.read_text(encoding="utf-8").splitlines()
  return np.array([line.strip() for line in lines])


def _rows_by_place(path: str, rows: int, dataset: schema.Dataset) -> np.ndarray:
  """Row of each item in a file without ids, -1 for none."""
  if dataset.item_rows is not None and rows == dataset.table_rows:
    logging.info("%s: %d rows, those of the item table", path, rows)
    return dataset.item_rows
  if rows == dataset.num_items:
    logging.info("%s: %d rows, in the order of the items", path, rows)
    return np.arange(rows)
  table = (
    f" (and {dataset.table_rows} rows of the item table)"
    if dataset.table_rows
    else ""
  )
  raise UserError(
    f"{path}: {rows} rows for {dataset.num_items} items{table}. Give one row "
    "for each, or set config.vectors.ids_path to a text file with the item id "
    "of each row, one a line."
  )


def _rows_by_id(
  where: str, rows: int, ids: np.ndarray, item_ids: np.ndarray
) -> np.ndarray:
  """Row of each item in a file with ids."""
  if len(ids) != rows:
    raise UserError(
      f"{where}: {len(ids)} item ids for {rows} vectors; give each row its id."
    )
  item_ids = item_ids.astype(str)
  order = np.argsort(ids, kind="stable")
  ordered = ids[order]
  twice = np.flatnonzero(ordered[1:] == ordered[:-1])
  if twice.size:
    first, second = order[twice[0]], order[twice[0] + 1]
    raise UserError(
      f"{where}: item id {ids[first]} is that of row {first} and of row "
      f"{second} (counted from 0); keep one."
    )
  place = np.minimum(np.searchsorted(ordered, item_ids), rows - 1)
  rows_I = order[place]
  lacking = np.flatnonzero(ids[rows_I] != item_ids)
  if lacking.size:
    raise UserError(
      f"{where}: no vector for {lacking.size} of {len(item_ids)} items, the "
      f"first is item {item_ids[lacking[0]]}. Add them; a row of zeros stands "
      "for an item of which nothing is known."
    )
  return rows_I
