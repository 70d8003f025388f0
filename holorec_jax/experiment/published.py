"""Reads semantic ids that others published, to be used instead of a fit."""

import pathlib
from typing import Any

import numpy as np

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.quantize import health


def read_sids(path: str, item_ids: np.ndarray) -> np.ndarray:
  """Reads {item id: codes} from JSON.

  Args:
    path: JSON file; an item's codes are one row [c, ..] or several rows
      [[c, ..], ..], coarse to fine.
    item_ids: (I,) ids of the catalogue, which give the order.

  Returns:
    (I, R, L) int32.

  Raises:
    UserError: a missing file, items without codes, or uneven rows.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f"config.sids_path: there is no file {path}")
  table = artifacts.read_json(path)
  missing = [i for i in item_ids if i not in table]
  if missing:
    raise UserError(
      f"{path} lacks codes for {len(missing)} of {len(item_ids)} items, first"
      f" item {missing[0]!r}: give codes for the whole catalogue"
    )
  try:
    sids = np.array([table[i] for i in item_ids], dtype=np.int32)
  except (ValueError, TypeError):
    sids = np.zeros(0, np.int32)
  if sids.ndim not in (2, 3) or sids.min(initial=0) < 0:
    raise UserError(
      f"{path}: every item must have equally many codes, integers from 0: one"
      " row [c, ..] or rows [[c, ..], ..]"
    )
  return sids[:, None] if sids.ndim == 2 else sids


def count_codes(sids_IRL: np.ndarray) -> int:
  """V of published codes: they say nothing of codes that no item uses."""
  return int(sids_IRL.max()) + 1


def report_health(
  sids_IRL: np.ndarray, vectors_ID: np.ndarray
) -> dict[str, Any]:
  """Health of published codes; rows are numbered, their widths not known."""
  rows = range(1, sids_IRL.shape[1] + 1)
  return health.report(sids_IRL, vectors_ID, rows, count_codes(sids_IRL))
