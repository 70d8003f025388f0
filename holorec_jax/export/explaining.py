"""Why an item was recommended, from the program of a bundle that tells it.

This file stands alone beside `runtime.py`, here and in every bundle; it imports
the standard library and numpy. K items that are explained at once, L levels.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np


class Explainer:
  """The program of a bundle, read when first asked.

  Attributes:
    explains: whether there is one; a system without a tree of codes has none,
      nor has a bundle of an older release.
  """

  def __init__(
    self,
    path: pathlib.Path,
    manifest: dict[str, Any],
    sealed: ModuleType,
    rows: ModuleType,
  ):
    """Reads nothing yet.

    Args:
      path: the bundle's folder.
      manifest: of it.
      sealed, rows: the files of these names that lie beside this one.
    """
    self._path, self._manifest = path, manifest
    self._sealed, self._rows = sealed, rows
    self.explains = manifest.get("explanation") is not None

  def explain(
    self,
    catalogue: Any,
    arrays: dict[str, Any],
    item_1T: np.ndarray,
    items: Sequence[int],
  ) -> list[dict[str, Any]]:
    """As `Bundle.explain`, of a history that is padded.

    Args:
      catalogue: a `changes.Catalogue`.
      arrays: weights and the catalogue's arrays, on device.
      item_1T: the history.
      items: available ones.
    """
    self._check(catalogue, item_1T, items)
    most = self._manifest["explanation"]["items"]
    told = []
    for start in range(0, len(items), most):
      part = np.asarray(items[start : start + most], np.int32)
      target_1K = np.resize(part, (1, most))
      found = self._program(arrays, item_1T, target_1K)
      found = {name: np.asarray(array)[0] for name, array in found.items()}
      code_KL = catalogue.arrays["codes/fine_IL"][part]
      told += [_tell(found, place, code_KL) for place in range(len(part))]
    return told

  def warm_up(self, arrays: dict[str, Any], item_1T: np.ndarray) -> None:
    """Compiles the program, if there is one."""
    if self.explains:
      most = self._manifest["explanation"]["items"]
      self._program(arrays, item_1T, np.zeros((1, most), np.int32))

  def _check(
    self, catalogue: Any, item_1T: np.ndarray, items: Sequence[int]
  ) -> None:
    if not self.explains:
      raise self._rows.RequestError(
        "this bundle explains nothing: its system has no tree of codes, or it"
        " was exported by an older release (then export it again)"
      )
    if (item_1T < 0).all():
      raise self._rows.RequestError(
        "without a history items are recommended by popularity alone, and there"
        " is nothing to explain: give a history"
      )
    known = len(catalogue.active_I)
    for item in items:
      if not 0 <= item < known or not catalogue.active_I[item]:
        raise self._rows.RequestError(
          f"item {item} is not in the catalogue, or has left it: give items"
          " that were recommended"
        )

  @functools.cached_property
  def _program(self) -> Callable:
    return self._sealed.read_program(
      self._path, self._manifest, self._sealed.EXPLAIN
    )


def _tell(
  found: dict[str, np.ndarray], place: int, code_KL: np.ndarray
) -> dict[str, Any]:
  """What the program found of one item, as JSON."""
  levels = []
  for level, code in enumerate(code_KL[place].tolist()):
    thought = []
    if "coarse_BKLC" in found:
      coarse_C = found["coarse_BKLC"][place, level].tolist()
      share_C = found["share_BKLC"][place, level].tolist()
      thought = [
        {"code": coarse, "probability": share}
        for coarse, share in zip(coarse_C, share_C)
      ]
    log_prob = float(found["log_prob_BKL"][place, level])
    levels.append(
      {"code": code, "log_probability": log_prob, "thought": thought}
    )
  share = float(found["log_share_BK"][place])
  return {"levels": levels, "log_share": share}
