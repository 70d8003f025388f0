"""Item vectors that the user brings: .npy, .npz or .parquet.

Which row belongs to which item:
  .npz      arrays `ids` (item ids) and `vectors`
  .parquet  a column `id` and either a list column `vector` or numeric columns
  any       a text file with one item id a line (`ids_path`)
  .npy      without ids: where all item ids are numbers of 1..rows, row = id - 1
            (rows of a numbered item table); else as many rows as the dataset
            has items, in the dataset's order.
Items of the file that the dataset lacks (filtered out) are skipped.
"""

import pathlib
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from absl import logging

from holorec_jax.errors import UserError


def load_vectors(
  path: str, item_ids: np.ndarray, ids_path: str = ""
) -> np.ndarray:
  """Reads x_ID float32, rows in the order of item_ids.

  Raises:
    UserError: file missing or unreadable, not two-dimensional, NaN or Inf,
      rows that cannot be matched with the items.
  """
  table, ids = _read(pathlib.Path(path))
  if ids_path:
    ids = _read_ids(pathlib.Path(ids_path))
  if table.ndim != 2 or table.dtype.kind not in "fiu":
    raise UserError(
      f"{path}: expected numbers of shape (items, dimensions), got "
      f"{table.dtype} of shape {table.shape}."
    )
  if ids is not None and len(ids) != len(table):
    raise UserError(
      f"{ids_path or path}: {len(ids)} item ids for {len(table)} rows of "
      f"{path}; there must be one id for each row."
    )
  rows_I = _match(path, len(table), ids, item_ids)
  x_ID = np.asarray(table[rows_I], np.float32)
  bad = np.flatnonzero(~np.isfinite(x_ID).all(axis=1))
  if bad.size:
    raise UserError(
      f"{path}: NaN or Inf in {bad.size} rows, the first is row "
      f"{rows_I[bad[0]]} (item {item_ids[bad[0]]}). Compute these vectors "
      "again, or write zeros: an item of zeros gets its neighbours' mean."
    )
  return x_ID


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  """The table of vectors and, where the file holds them, its ids."""
  readers = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
  if path.suffix not in readers:
    raise UserError(
      f"{path}: item vectors are read from {', '.join(readers)}, "
      f"not '{path.suffix}'."
    )
  if not path.is_file():
    raise UserError(
      f"{path}: no such file; config.vectors.path must name the item vectors."
    )
  try:
    return readers[path.suffix](path)
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}: not a readable vector file ({error}).") from error


def _read_npy(path: pathlib.Path) -> tuple[np.ndarray, None]:
  return np.load(path, mmap_mode="r", allow_pickle=False), None


def _read_npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  with np.load(path, allow_pickle=False) as arrays:
    if "vectors" not in arrays:
      raise UserError(
        f"{path}: no array 'vectors' (found: {', '.join(arrays.files)}); "
        "save with numpy.savez(path, ids=..., vectors=...)."
      )
    ids = arrays["ids"].astype(str) if "ids" in arrays else None
    return arrays["vectors"], ids


def _read_parquet(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
  table = pa.parquet.read_table(path)
  ids = None
  if "id" in table.column_names:
    ids = np.array([str(i) for i in table["id"].to_pylist()])
    table = table.drop_columns(["id"])
  if table.column_names == ["vector"]:
    return np.array(table["vector"].to_pylist()), ids
  return np.column_stack([c.to_numpy() for c in table.columns]), ids


def _read_ids(path: pathlib.Path) -> np.ndarray:
  if not path.is_file():
    raise UserError(
      f"{path}: no such file; config.vectors.ids_path must name a text file "
      "with one item id a line."
    )
  return np.array(path.read_text(encoding="utf-8").split("\n"))


def _match(
  path: str, rows: int, ids: np.ndarray | None, item_ids: np.ndarray
) -> np.ndarray:
  """Row of each item in the file."""
  if ids is None:
    if np.char.isdecimal(item_ids.astype(str)).all():
      number_I = item_ids.astype(np.int64)
      if number_I.min() >= 1 and number_I.max() <= rows:
        logging.info("%s: row = item id - 1 (%d rows)", path, rows)
        return number_I - 1
    if rows == len(item_ids):
      logging.info("%s: rows in the order of the dataset's items", path)
      return np.arange(rows)
    raise UserError(
      f"{path}: {rows} rows for {len(item_ids)} items. Name a text file with "
      "the id of each row, one a line, in config.vectors.ids_path."
    )
  order = np.argsort(ids, kind="stable")
  twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
  if twice.size:
    raise UserError(f"{path}: item id {ids[order][twice[0]]} occurs twice.")
  place = np.minimum(np.searchsorted(ids[order], item_ids), len(ids) - 1)
  rows_I = order[place]
  lacking = np.flatnonzero(ids[rows_I] != item_ids)
  if lacking.size:
    raise UserError(
      f"{path}: no vector for {lacking.size} of {len(item_ids)} items, the "
      f"first is item {item_ids[lacking[0]]}. Add their rows, or drop these "
      "items from the data."
    )
  return rows_I
