"""The encoder of new items on disk, and vectors of items by it.

  vectors_NW = encode.encode_items("WORKDIR", [{"title": "Rose lip balm"}])

WORKDIR/vectors/encoder.json holds the columns, tokens and weights,
encoder.npz the arrays (`cold_items.ColdItems`).
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from holorec_jax import artifacts, manifest
from holorec_jax.errors import UserError
from holorec_jax.vectors import sentence
from holorec_jax.vectors.cold_items import ColdItems, Item, ItemError

ABOUT, ARRAYS = "encoder.json", "encoder.npz"


def save(folder: str | os.PathLike[str], cold: ColdItems) -> None:
  """Writes the encoder into an existing folder."""
  path = pathlib.Path(folder)
  arrays: dict = dict(cold.arrays)
  np.savez(path / ARRAYS, **arrays)
  artifacts.write_json(path / ABOUT, cold.about)


def load(where: str | os.PathLike[str]) -> ColdItems:
  """Reads the encoder of a run.

  Args:
    where: the run's workdir, or its vectors/.

  Raises:
    UserError: there is none, or it is not as the stage has written it.
  """
  folder = pathlib.Path(where)
  if (folder / "vectors").is_dir():
    folder = folder / "vectors"
  if not (folder / ABOUT).is_file():
    raise UserError(
      f"{folder} has no {ABOUT}, which makes vectors of new items: it was"
      " made by an older release, or is no run's. Rename it to vectors.old and"
      " run launch/fit_sids.py with the run's flags again. Codes and"
      " checkpoints stay good if vectors.npy comes out as it was, which takes"
      " the same libraries and as many cores; else it is refused by the codes:"
      " then rename it back"
    )
  sealed = manifest.read_manifest(folder).files
  for name in (ABOUT, ARRAYS):
    path = folder / name
    if not path.is_file() or artifacts.hash_file(path) != sealed.get(name):
      raise UserError(
        f"{path} was changed or lost after the stage had written it: bring it"
        " back, or delete that folder and run launch/fit_sids.py again"
      )
  with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
    try:
      return ColdItems(artifacts.read_json(folder / ABOUT), dict(arrays))
    except ItemError as error:
      raise UserError(f"{folder / ABOUT}: {error}") from error


def encode_items(
  where: str | os.PathLike[str] | ColdItems,
  items: Sequence[Item],
  given: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
  """Vectors of new items, as the stage gives those without training events.

  Args:
    where: the run's workdir, its vectors/, or what `load` gave.
    items: of each, column of the item table -> text; what is not there is
      empty.
    given: source -> rows (N, its width), for "precomputed" in any case; those
      of "sentence_transformers" are made here unless given.

  Returns:
    x_NW float32.

  Raises:
    UserError: no encoder there, a column that the run has not read, rows that
      are missing or of another shape, or nothing to tell new items by.
  """
  cold = where if isinstance(where, ColdItems) else load(where)
  given = dict(given or {})
  model = cold.about.get("sentence_model")
  if model is not None and items:
    name = "sentence_transformers"
    if name not in given:
      given[name] = _sentences(cold, items, model)
  try:
    return cold.encode(items, given)
  except ItemError as error:
    raise UserError(f"new items: {error}") from error


def _sentences(
  cold: ColdItems, items: Sequence[Item], model: str
) -> np.ndarray:
  columns = {
    column: np.array([item.get(column) or "" for item in items], object)
    for column in cold.about["columns"]
  }
  return sentence.encode(columns, model)
