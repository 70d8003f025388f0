"""Writes item deltas (`changes`): what joins and what leaves a catalogue.

New items get their codes from their texts by the frozen encoder and quantizer,
of a run's workdir or of a bundle; both give the same.
"""

import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holorec_jax import artifacts
from holorec_jax.data.config import DataConfig
from holorec_jax.errors import UserError
from holorec_jax.experiment import new_items, preparation
from holorec_jax.experiment.config import read_config
from holorec_jax.export import changes, folders, runtime, sealed, tensors
from holorec_jax.vectors import encode

Given = Mapping[str, np.ndarray]


def from_run(
  workdir: str | os.PathLike[str],
  out: str | os.PathLike[str],
  items_path: str = "",
  removed: Sequence[str] = (),
  given: Given | None = None,
) -> dict[str, Any]:
  """Writes a delta for the bundles of a run.

  Args:
    workdir: of the run.
    out: the folder to write; it must not be there yet.
    items_path: table of the new items ("": none), as `read_table` takes it.
    removed: ids of items that leave.
    given: rows of the sources that are no text (`encode.encode_items`).

  Returns:
    The delta's manifest.

  Raises:
    UserError: no run there, nothing to change, an unknown column, an id that is
      there twice or already, `out` is there, or as `new_items.quantize`.
  """
  workdir = pathlib.Path(workdir)
  config = read_config(workdir)
  data = preparation.load_data(config, workdir)
  built, sids = preparation.load_catalog(config, workdir, data)
  known = sorted(data.dataset.item_text)
  ids, texts = _read(items_path, config.data, known, removed)
  _check_ids(set(data.dataset.item_ids.tolist()), ids, removed)
  codes = built.sids_IRL[:0]
  if ids:
    cold = encode.load(workdir)
    rows = _only(texts, cold.about.get("columns", ()))
    vectors_NW = encode.encode_items(cold, rows, given)
    codes = new_items.quantize(workdir, vectors_NW)
  return write(out, changes.Delta(ids, _titles(texts), codes, removed), sids)


def from_bundle(
  bundle: str | os.PathLike[str],
  out: str | os.PathLike[str],
  items_path: str = "",
  removed: Sequence[str] = (),
  given: Given | None = None,
) -> dict[str, Any]:
  """Writes a delta for a bundle and others of its run; as `from_run`.

  Raises:
    UserError: as `from_run`, or what the bundle says of the items.
  """
  try:
    opened = runtime.load(bundle, replay=False)
    columns = (opened.manifest["encoder"] or {"columns": ()})["columns"]
    config = DataConfig(**opened.manifest.get("item_table", {}))
    ids, texts = _read(items_path, config, columns, removed)
    _check_ids(opened.row_of, ids, removed)
    codes = np.zeros((0, 1, 1), np.int32)
    if ids:
      codes = opened.codes_of(_only(texts, columns), given)
  except (runtime.BundleError, runtime.RequestError) as error:
    raise UserError(str(error)) from error
  delta = changes.Delta(ids, _titles(texts), codes, removed)
  return write(out, delta, opened.manifest.get("made_from", {}).get("sids"))


def write(
  out: str | os.PathLike[str], delta: changes.Delta, sids: str | None
) -> dict[str, Any]:
  """Writes a delta.

  Args:
    out: the folder to write; it must not be there yet.
    delta: what changes.
    sids: hash of the run's codes.

  Returns:
    Its manifest.
  """
  out = pathlib.Path(out).absolute()
  now = datetime.datetime.now(datetime.UTC)
  manifest = {
    "format": sealed.FORMAT,
    "kind": changes.KIND,
    "created": now.isoformat(timespec="seconds"),
    "sids": sids,
    "new": len(delta.ids),
    "removed": len(delta.removed),
  }
  with artifacts.atomic_folder(out) as partial:
    folders.write_items(partial, delta.ids, delta.titles)
    codes = np.asarray(delta.sids_NRL, np.int32)
    tensors.save(partial / changes.CODES, {"sids_NRL": codes})
    artifacts.write_json(partial / changes.REMOVED, list(delta.removed))
    manifest = folders.seal(partial, manifest)
    folders.sync(partial)
  folders.sync_entry(out.parent)
  return manifest


def _read(
  path: str, config: DataConfig, columns: Sequence[str], removed: Sequence[str]
) -> tuple[list[str], list[dict[str, str]]]:
  if path:
    return new_items.read_table(path, config, columns)
  if not removed:
    raise UserError(
      "there is nothing to change: give --items, --remove or both"
    )
  return [], []


def _only(
  texts: Sequence[Mapping[str, str]], columns: Sequence[str]
) -> list[dict[str, str]]:
  """What the encoder reads; a title may be there for people alone."""
  return [
    {name: text for name, text in item.items() if name in columns}
    for item in texts
  ]


def _titles(texts: Sequence[Mapping[str, str]]) -> list[str]:
  return [item.get("title", "") for item in texts]


def _check_ids(known: Any, ids: Sequence[str], removed: Sequence[str]) -> None:
  """UserError for ids that a bundle would refuse."""
  try:
    changes.check_ids(known, ids, removed)
  except changes.ChangeError as error:
    raise UserError(str(error)) from error
