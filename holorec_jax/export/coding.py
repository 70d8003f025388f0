"""New items' texts -> vectors -> codes, from what lies in a bundle.

This file stands alone beside `runtime.py`, here and in every bundle; it imports
the standard library, numpy and jax. N items, W dimensions of a vector.
"""

import functools
import gzip
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np


class Coder:
  """The text encoder and the quantizer of a run, read when first asked."""

  def __init__(
    self,
    path: pathlib.Path,
    manifest: dict[str, Any],
    sealed: ModuleType,
    cold_items: ModuleType,
    error: type[Exception],
  ):
    """Reads nothing yet.

    Args:
      path: the bundle's folder.
      manifest: of it.
      sealed, cold_items: the files of these names that lie beside this one.
      error: for items that cannot be encoded.
    """
    self._path, self._manifest = path, manifest
    self._sealed, self._cold_items = sealed, cold_items
    self._error = error

  def vectors(
    self,
    items: Sequence[Mapping[str, str]],
    given: Mapping[str, np.ndarray] | None = None,
  ) -> np.ndarray:
    """Vectors (N, W); an error as `ColdItems.encode`, or without encoder."""
    if self._manifest["encoder"] is None:
      raise self._error(
        "this bundle makes no vectors of texts: its system takes no new items"
        " (only one that searches a tree of fitted codes, in which items of"
        " equal codes share a leaf, does), or its run is of an older release"
        " (launch/add_items.py --workdir says how it gets an encoder; then"
        " export it again)"
      )
    try:
      return self._encoder.encode(items, given)
    except self._cold_items.ItemError as error:
      raise self._error(str(error)) from None

  def codes(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, R, L) int32 of vectors; an error for others than the run's."""
    about = self._manifest["quantizer"]
    if about is None:
      raise self._error(
        "this bundle has no quantizer, since its run's codes were given to it:"
        " new items need codes from where those came from"
      )
    vectors_NW = np.asarray(vectors_NW, np.float32)
    finite = np.isfinite(vectors_NW).all()
    if vectors_NW.shape[1:] != (about["width"],) or not finite:
      raise self._error(
        f"item vectors of shape {vectors_NW.shape}; expected finite ones of"
        f" (items, {about['width']})"
      )
    rows = about["rows"]
    codes = [np.zeros((0, *about["codes"]), np.int32)]
    for start in range(0, len(vectors_NW), rows):
      part = vectors_NW[start : start + rows]
      padded = np.pad(part, ((0, rows - len(part)), (0, 0)))
      found = self._program(self._quantizer, padded)
      codes.append(np.asarray(found)[: len(part)])
    return np.concatenate(codes)

  @functools.cached_property
  def _encoder(self) -> Any:
    packed = (self._path / self._sealed.TOKENS).read_bytes()
    return self._cold_items.ColdItems(
      json.loads(gzip.decompress(packed)),
      self._sealed.read_tensors(self._path / self._sealed.ENCODER),
    )

  @functools.cached_property
  def _program(self) -> Callable:
    return self._sealed.read_program(
      self._path, self._manifest, self._sealed.ENCODE
    )

  @functools.cached_property
  def _quantizer(self) -> dict[str, jax.Array]:
    path = self._path / self._sealed.QUANTIZER
    return jax.device_put(self._sealed.read_tensors(path))
