"""Reads semantic ids that others published, to be used instead of a fit."""

import json
import pathlib
from typing import Any

import numpy as np

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.quantize import health

MAX_CODE = np.iinfo(np.int32).max


def read_sids(path: str, item_ids: np.ndarray) -> np.ndarray:
  """Reads {item id: codes} from JSON.

  Args:
    path: JSON file; an item's codes are one row [c, ..] or several rows
      [[c, ..], ..], coarse to fine.
    item_ids: (I,) ids of the catalogue, which give the order.

  Returns:
    (I, R, L) int32.

  Raises:
    UserError: a missing file, items without codes, codes that are no integers
      from 0, or uneven rows; names the item.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"config.sids_path: there is no file {path}")
  table = artifacts.read_json(path)
  if not isinstance(table, dict):
    raise UserError(f"{path}: expected one JSON object {{item id: codes}}")
  missing = [i for i in item_ids if i not in table]
  if missing:
    raise UserError(
      f"{path} lacks codes for {len(missing)} of {len(item_ids)} items, first"
      f" item {missing[0]!r}: give codes for the whole catalogue"
    )
  rows = [_check_rows(path, item, table[item]) for item in item_ids]
  shapes = [[len(row) for row in item] for item in rows]
  for item, shape in zip(item_ids, shapes):
    if shape != shapes[0] or len(set(shape)) > 1:
      raise UserError(
        f"{path}: item {item!r} has rows of {shape} codes, item"
        f" {item_ids[0]!r} of {shapes[0]}: every row of every item must have"
        " equally many"
      )
  return np.array(rows, np.int32)


def _check_rows(path: str, item: str, codes: Any) -> list[list[int]]:
  """One item's rows of codes; UserError if they are anything else."""
  nested = isinstance(codes, list) and all(isinstance(r, list) for r in codes)
  rows = codes if nested and codes else [codes]
  for row in rows:
    # type(): a bool is no code.
    if not (
      isinstance(row, list)
      and row
      and all(type(code) is int and 0 <= code <= MAX_CODE for code in row)
    ):
      raise UserError(
        f"{path}: item {item!r} has codes {json.dumps(codes):.60}; expected"
        " integers from 0, one row [c, ..] or several [[c, ..], ..]"
      )
  return rows


def count_codes(sids_IRL: np.ndarray) -> int:
  """V of published codes: they say nothing of codes that no item uses."""
  return int(sids_IRL.max()) + 1


def report_health(
  sids_IRL: np.ndarray, vectors_ID: np.ndarray
) -> dict[str, Any]:
  """Health of published codes; rows are numbered, their widths not known."""
  rows = range(1, sids_IRL.shape[1] + 1)
  return health.report(sids_IRL, vectors_ID, rows, count_codes(sids_IRL))
