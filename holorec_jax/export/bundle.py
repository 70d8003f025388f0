"""Writes a bundle: a folder that answers without this package (`runtime`).

  manifest.json           what it is; sizes and hashes of all the other files
  programs/*.bin.gz       jax.export: the search of each bucket, the liveness of
                          the catalogue, the codes of new items
  weights.safetensors     parameters, in the dtype of the run's search
  catalogue.safetensors   codes, index, popularity
  quantizer.safetensors   what codes of new items are made with
  items.jsonl.gz          [id, title] of each item, a line each
  golden.json             requests and their answers
  runtime.py              the reader, with rows.py and sealed.py beside it; they
                          need numpy, jax and flatbuffers

Batches have fixed sizes, since a program for any size is compiled anew for each
one it meets. Availability and the requests' lists are inside the programs, so
whatever is returned satisfies them. It is one folder or none: it is written
under another name, read back, and must answer as the recommender does.
"""

import contextlib
import dataclasses
import datetime
import gzip
import importlib.metadata
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.export
import numpy as np
from absl import logging

from holorec_jax import artifacts
from holorec_jax.decode import prior
from holorec_jax.decode.recommender import Recommender
from holorec_jax.errors import UserError
from holorec_jax.export import (
  encoder,
  golden,
  programs,
  runtime,
  sealed,
  tensors,
)
from holorec_jax.export.programs import Parts

HERE = pathlib.Path(__file__).parent
READERS = ("runtime.py", "rows.py", "sealed.py")
# Lists up to the first are searched in batches, those up to the second singly.
LIST_WIDTHS = (64, 512)
VERSIONS = ("holorec_jax", "jax", "jaxlib", "numpy")
SCORES = (
  "float32 natural logarithm of the item's probability; -inf: no item. Without"
  " a history: of the item's share of the training interactions"
)
# Of scores at replay. In bfloat16 every platform rounds in its own way.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}


@dataclasses.dataclass(frozen=True)
class Options:
  """How a bundle is made.

  Attributes:
    buckets: batch sizes that can be searched.
    list_width: most entries of a request's deny or allow list.
  """

  buckets: tuple[int, ...] = (1, 8, 32, 128)
  list_width: int = LIST_WIDTHS[1]

  def __post_init__(self):
    wrong = not self.buckets or min(self.buckets) < 1
    if wrong or list(self.buckets) != sorted(set(self.buckets)):
      raise UserError(
        f"--buckets={','.join(map(str, self.buckets))}: give ascending sizes of"
        " batches, such as 1,8,32,128"
      )
    if not 1 <= self.list_width <= 4096:
      raise UserError(f"--list_width={self.list_width}: give 1..4096 entries")

  @property
  def narrow_list(self) -> int:
    """Entries of the lists of most requests, for which search is faster."""
    return min(LIST_WIDTHS[0], self.list_width)


@dataclasses.dataclass(frozen=True)
class Contents:
  """What goes into a bundle beside the search itself.

  Attributes:
    item_ids: external ids by item number.
    titles: by item number, "" where there is none.
    histories: of users, oldest first; the golden request is made of some.
    quantizer: kind, fitted quantizer and width of its vectors; None: the codes
      were given.
    about: further entries of the manifest, as JSON.
    beside: writers of further files, which are given the folder.
  """

  item_ids: Sequence[str]
  titles: Sequence[str]
  histories: Sequence[np.ndarray]
  quantizer: tuple[str, Any, int] | None = None
  about: dict[str, Any] = dataclasses.field(default_factory=dict)
  beside: Sequence[Callable[[pathlib.Path], None]] = ()


def write(
  out: str | os.PathLike[str],
  recommender: Recommender,
  contents: Contents,
  options: Options | None = None,
) -> dict[str, Any]:
  """Exports a recommender.

  Args:
    out: the bundle's folder, which must not be there yet.
    recommender: answers from what shall be exported; all of its catalogue's
      items are available in the bundle.
    contents: what goes with it.
    options: how.

  Returns:
    The manifest.

  Raises:
    UserError: the folder is there, the disk is full, or the read-back bundle
      does not answer as the recommender does.
  """
  options, out = options or Options(), pathlib.Path(out).absolute()
  parts = programs.take_apart(recommender)
  with artifacts.atomic_folder(out) as partial:
    (partial / "programs").mkdir()
    _write_arrays(partial, parts, recommender)
    convention = _write_programs(partial, parts, options)
    about = {"quantizer": _write_quantizer(partial, contents)}
    _write_items(partial, contents)
    with step("golden request"):
      request = golden.make(
        recommender, contents.histories, options.narrow_list, parts.dtype
      )
      artifacts.write_json(partial / sealed.GOLDEN, request)
    for writer in contents.beside:
      writer(partial)
    for reader in READERS:
      shutil.copyfile(HERE / reader, partial / reader)
    manifest = _describe(parts, options) | about | contents.about
    manifest["calling_convention"] = convention
    manifest["files"] = _list_files(partial)
    manifest["content"] = sealed.seal(manifest)
    text = sealed.manifest_text(manifest)
    artifacts.write_text(partial / sealed.MANIFEST, text)
    with step("read back and replayed"):
      _check(partial)
    _sync(partial)
  _sync_folder(out.parent)
  _report_size(out, manifest)
  return manifest


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
  """Logs a step and its seconds."""
  began = time.perf_counter()
  yield
  logging.info("%s: %.1f s", name, time.perf_counter() - began)


def _write_arrays(
  folder: pathlib.Path, parts: Parts, recommender: Recommender
) -> None:
  weights: dict[str, Any] = {}
  catalogue: dict[str, Any] = {}
  for name, array in parts.arrays.items():
    (weights if name.startswith("params/") else catalogue)[name] = array
  catalogue["prior/score_I"] = prior.score_items(recommender.catalog)
  catalogue["prior/active_I"] = recommender.catalog.active_I
  tensors.save(folder / sealed.WEIGHTS, weights)
  tensors.save(folder / sealed.CATALOGUE, catalogue)


def _write_program(
  folder: pathlib.Path, name: str, exported: jax.export.Exported
) -> None:
  # No time in it, so that equal runs are equal bundles.
  text = gzip.compress(exported.serialize(), mtime=0)
  (folder / name).write_bytes(text)


def _write_programs(
  folder: pathlib.Path, parts: Parts, options: Options
) -> int:
  """Exports search and liveness; returns their calling convention."""
  with step("program of liveness"):
    exported = programs.export_liveness(parts)
    _write_program(folder, sealed.LIVENESS, exported)
  searches = [
    (sealed.search_program(bucket), bucket, options.narrow_list)
    for bucket in options.buckets
  ]
  if options.narrow_list < options.list_width:
    searches.append((sealed.WIDE, options.buckets[0], options.list_width))
  for name, bucket, width in searches:
    with step(f"search of {bucket} with lists of {width}"):
      exported = programs.export_search(parts, bucket, width)
      _write_program(folder, name, exported)
  return exported.calling_convention_version


def _write_quantizer(
  folder: pathlib.Path, contents: Contents
) -> dict[str, Any] | None:
  """Writes what makes codes; returns what the manifest says of it."""
  if contents.quantizer is None:
    return None
  with step("program of new items' codes"):
    exported, arrays, about = encoder.export(*contents.quantizer)
    _write_program(folder, sealed.ENCODE, exported)
    tensors.save(folder / sealed.QUANTIZER, arrays)
  return about


def _write_items(folder: pathlib.Path, contents: Contents) -> None:
  lines = [
    json.dumps([str(id_), str(title)], ensure_ascii=False)
    for id_, title in zip(contents.item_ids, contents.titles, strict=True)
  ]
  text = "\n".join([*lines, ""]).encode()
  (folder / sealed.ITEMS).write_bytes(gzip.compress(text, mtime=0))


def _describe(parts: Parts, options: Options) -> dict[str, Any]:
  """What the manifest says first."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    "format": sealed.FORMAT,
    "created": now.isoformat(timespec="seconds"),
    "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    "platforms": list(programs.PLATFORMS),
    "shapes": {
      "items": parts.num_items,
      "max_history": parts.max_history,
      "buckets": list(options.buckets),
      "list_width": options.list_width,
      "narrow_list": options.narrow_list,
      "beam": parts.beam,
      "k": parts.k,
    },
    "padding": {"history": -1, "lists": -1, "item": -1, "score": "-inf"},
    "scores": SCORES,
    "dtype": parts.dtype,
    "tolerance": TOLERANCE[parts.dtype],
  }


def _list_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
  return {
    name: {"bytes": (folder / name).stat().st_size, "sha256": sha256}
    for name, sha256 in artifacts.hash_files(folder).items()
  }


def _check(folder: pathlib.Path) -> None:
  try:
    runtime.load(folder)
  except runtime.BundleError as error:
    raise UserError(
      f"the bundle does not do what the run does, and was not kept: {error}"
    ) from error


def _sync(folder: pathlib.Path) -> None:
  """Has the disk hold all of a folder before it takes its name."""
  for path in folder.rglob("*"):
    if path.is_file():
      with open(path, "rb") as file:
        os.fsync(file.fileno())
    else:
      _sync_folder(path)
  _sync_folder(folder)


def _sync_folder(path: pathlib.Path) -> None:
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _report_size(out: pathlib.Path, manifest: dict[str, Any]) -> None:
  sizes = {
    name: entry["bytes"]
    for name, entry in manifest["files"].items()
    # Further formats lie in folders of their own.
    if "/" not in name or name.startswith("programs/")
  }
  needed = sum(
    sizes.get(name, 0)
    for name in (sealed.WEIGHTS, sealed.CATALOGUE, sealed.QUANTIZER)
  )
  logging.info(
    "%s: %.2f MB, %.2f times its weights and tree (%.2f MB)",
    out,
    sum(sizes.values()) / 1e6,
    sum(sizes.values()) / needed,
    needed / 1e6,
  )
