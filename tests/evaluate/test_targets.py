"""Evaluation rows of a tiny data set."""

import numpy as np

from holorec_jax.data import schema
from holorec_jax.evaluate import targets

DATASET = schema.Dataset(
  name="tiny",
  item_ids=np.array(list("abcdef"), object),
  item_text={},
  user_ids=np.array(["u", "v", "w"], object),
  offsets=np.array([0, 4, 5, 8]),
  items=np.array([0, 1, 2, 3, 5, 4, 3, 4], np.int32),
)


def test_rows_of_users_with_a_target():
  rows = targets.from_positions(DATASET, np.array([3, -1, 1]))
  np.testing.assert_array_equal(rows.users_U, [0, 2])
  np.testing.assert_array_equal(rows.items_U, [3, 3])
  np.testing.assert_array_equal(rows.lengths_U, [3, 1])
  np.testing.assert_array_equal(rows.history(0), [0, 1, 2])
  np.testing.assert_array_equal(rows.take(slice(1, 2)).history(0), [4])


def test_flat_histories_run_back_from_the_target():
  rows = targets.from_positions(DATASET, np.array([3, 0, 2]))
  row, item, age = rows.flat_histories(last=2)
  np.testing.assert_array_equal(row, [0, 0, 2, 2])
  np.testing.assert_array_equal(item, [2, 1, 3, 4])
  np.testing.assert_array_equal(age, [0, 1, 0, 1])
