"""Published codes read in the catalogue's order, or refused."""

import json

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.experiment.published import read_sids

ITEMS = np.array(["b", "a"], object)


def write(path, table):
  path.write_text(json.dumps(table))
  return str(path)


def test_rows_follow_the_items(tmp_path):
  table = {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]], "c": [[0, 0], [0, 0]]}
  sids_IRL = read_sids(write(tmp_path / "codes.json", table), ITEMS)
  assert sids_IRL.tolist() == [[[5, 6], [7, 8]], [[1, 2], [3, 4]]]


def test_one_row_becomes_one_granularity(tmp_path):
  path = write(tmp_path / "codes.json", {"a": [1, 2], "b": [3, 4]})
  assert read_sids(path, ITEMS).tolist() == [[[3, 4]], [[1, 2]]]


@pytest.mark.parametrize(
  ("table", "words"),
  [
    ({"a": [1, 2]}, "1 of 2 items"),
    (
      {"a": [1], "b": [1, 2]},
      r"item 'a' has .*\[1\] .* 'b' of \[2\].*equally many",
    ),
    ({"a": [1, 2], "b": [[1, 2], [3]]}, "item 'b' has .*equally many"),
    (
      {"a": [1, 2], "b": [1.7, 2]},
      r"item 'b' has codes \[1\.7, 2\]; expected int",
    ),
    (
      {"a": [[1], [-2]], "b": [[1], [2]]},
      r"item 'a' has codes \[\[1\], \[-2\]\]",
    ),
    ({"a": [1, 2**31], "b": [1, 2]}, "item 'a' has codes"),
    ({"a": [True, 1], "b": [1, 2]}, "item 'a' has codes"),
    ({"a": "1,2", "b": [1, 2]}, "item 'a' has codes"),
    ({"a": [], "b": []}, r"item 'b' has codes \[\]; expected integers from 0"),
    ({"a": [[1], []], "b": [[1], [2]]}, "item 'a' has codes"),
    ([[1, 2], [3, 4]], "expected one JSON object"),
  ],
)
def test_bad_tables_are_explained(tmp_path, table, words):
  with pytest.raises(UserError, match=rf"codes\.json.*{words}"):
    read_sids(write(tmp_path / "codes.json", table), ITEMS)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match=r"codes\.json"):
    read_sids(str(tmp_path / "codes.json"), ITEMS)
