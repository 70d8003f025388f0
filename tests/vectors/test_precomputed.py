"""Files of vectors: every format, every way of matching, every complaint."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holorec_jax.data import schema
from holorec_jax.errors import UserError
from holorec_jax.vectors import precomputed

IDS = ["b", "d", "e"]
TABLE_IDS = ["a", "b", "c", "d", "e"]
TABLE_ND = np.arange(10, dtype=np.float16).reshape(5, 2)
EXPECTED_ID = TABLE_ND[[1, 3, 4]].astype(np.float32)


def _dataset(item_rows=(1, 3, 4), table_rows=5):
  return schema.Dataset(
    name="shop",
    item_ids=np.array(IDS, object),
    item_text={},
    user_ids=np.array(["u"], object),
    offsets=np.array([0, 3]),
    items=np.array([0, 1, 2], np.int32),
    item_rows=None if item_rows is None else np.array(item_rows),
    table_rows=table_rows,
  )


def _npy(folder, array):
  np.save(folder / "v.npy", array)
  return str(folder / "v.npy")


def _npz(folder):
  np.savez(folder / "v.npz", ids=TABLE_IDS[::-1], vectors=TABLE_ND[::-1])
  return str(folder / "v.npz")


def _parquet_columns(folder):
  columns = {"id": TABLE_IDS, "x": TABLE_ND[:, 0], "y": TABLE_ND[:, 1]}
  pq.write_table(pa.table(columns), folder / "v.parquet")
  return str(folder / "v.parquet")


def _parquet_list(folder):
  columns = {"id": TABLE_IDS, "vector": TABLE_ND.astype(float).tolist()}
  pq.write_table(pa.table(columns), folder / "v.parquet")
  return str(folder / "v.parquet")


@pytest.mark.parametrize("write", [_npz, _parquet_columns, _parquet_list])
def test_files_with_ids(tmp_path, write):
  x_ID = precomputed.load_vectors(write(tmp_path), _dataset())
  np.testing.assert_array_equal(x_ID, EXPECTED_ID)
  assert x_ID.dtype == np.float32


def test_plain_rows_are_the_item_tables_else_the_items(tmp_path):
  x_ID = precomputed.load_vectors(_npy(tmp_path, TABLE_ND), _dataset())
  np.testing.assert_array_equal(x_ID, EXPECTED_ID)
  path = _npy(tmp_path, EXPECTED_ID)
  for dataset in (_dataset(), _dataset(None, 0)):
    np.testing.assert_array_equal(
      precomputed.load_vectors(path, dataset), EXPECTED_ID
    )


def test_item_outside_the_table_is_unknown(tmp_path):
  path = _npy(tmp_path, TABLE_ND)
  x_ID = precomputed.load_vectors(path, _dataset((1, 3, -1)))
  np.testing.assert_array_equal(x_ID, [[2, 3], [6, 7], [0, 0]])


def test_ids_path_goes_before_everything(tmp_path):
  (tmp_path / "ids.txt").write_text("e\nd\nc\nb\na\n")
  path = _npy(tmp_path, TABLE_ND[::-1])
  x_ID = precomputed.load_vectors(path, _dataset(), str(tmp_path / "ids.txt"))
  np.testing.assert_array_equal(x_ID, EXPECTED_ID)


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros((4, 2)), r"4 rows for 3 items \(and 5 rows of the item table\)"),
    (np.zeros(5), r"shape \(items, dimensions\), got float64 of shape \(5,\)"),
    (np.full((5, 2), "x"), "expected numbers"),
    (np.where(TABLE_ND == 7, np.nan, TABLE_ND), "first is row 3 .* item d"),
    (np.where(TABLE_ND == 3, np.inf, TABLE_ND), "first is row 1 .* item b"),
  ],
)
def test_bad_arrays_are_named(tmp_path, array, message):
  with pytest.raises(UserError, match=message):
    precomputed.load_vectors(_npy(tmp_path, array), _dataset())


def test_nan_in_a_row_that_is_not_used_does_no_harm(tmp_path):
  array = np.where(TABLE_ND == 0, np.nan, TABLE_ND)
  x_ID = precomputed.load_vectors(_npy(tmp_path, array), _dataset())
  np.testing.assert_array_equal(x_ID, EXPECTED_ID)


@pytest.mark.parametrize(
  ("ids", "message"),
  [
    ("a\nb\nc\nd\n", "4 item ids for 5 vectors"),
    ("a\nb\nb\nd\ne\n", "item id b is that of row 1 and of row 2"),
    ("a\nb\nc\nx\ny\n", "no vector for 2 of 3 items, the first is item d"),
  ],
)
def test_bad_ids_are_named(tmp_path, ids, message):
  (tmp_path / "ids.txt").write_text(ids)
  path = _npy(tmp_path, TABLE_ND)
  with pytest.raises(UserError, match=message):
    precomputed.load_vectors(path, _dataset(), str(tmp_path / "ids.txt"))


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("v.csv", b"", "are read from .npy, .npz, .parquet"),
    ("v.npy", None, "no such file"),
    ("v.npy", b"\x93NUMPY\x01", "cannot be read"),
    ("v.npz", b"PK", "cannot be read"),
    ("v.parquet", b"PAR1", "cannot be read"),
    ("v.npy", b"", "cannot be read"),
  ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    precomputed.load_vectors(str(tmp_path / name), _dataset())


def test_npz_without_vectors_and_no_path(tmp_path):
  np.savez(tmp_path / "v.npz", x=TABLE_ND)
  with pytest.raises(UserError, match="no array 'vectors', only x"):
    precomputed.load_vectors(str(tmp_path / "v.npz"), _dataset())
  with pytest.raises(UserError, match=r"set config.vectors.path"):
    precomputed.load_vectors("", _dataset())


def test_vectors_of_unequal_lengths_are_refused(tmp_path):
  columns = {"id": TABLE_IDS[:2], "vector": [[1.0, 2.0], [3.0]]}
  pq.write_table(pa.table(columns), tmp_path / "v.parquet")
  with pytest.raises(UserError, match=r"lengths \['1', '2'\]; expected one"):
    precomputed.load_vectors(str(tmp_path / "v.parquet"), _dataset())
