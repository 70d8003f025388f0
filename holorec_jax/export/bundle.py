"""Writes a bundle: a folder that answers without this package (`runtime`).

  manifest.json           what it is; sizes and hashes of all the other files
  programs/*.bin.gz       jax.export: the search of each bucket, the liveness of
                          the catalogue, the codes of new items, why an item
  weights.safetensors     parameters, in the dtype of the run's search
  catalogue.safetensors   codes, index, popularity
  quantizer.safetensors   what codes of new items are made with
  encoder.safetensors     what their vectors are made with, and encoder.json.gz
                          (`vectors.cold_items`)
  items.jsonl.gz          [id, title] of each item, a line each
  golden.json             requests and their answers
  runtime.py              the reader, with READERS beside it; they need numpy,
                          jax and flatbuffers

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
from holorec_jax.decode.recommender import Recommender
from holorec_jax.errors import UserError
from holorec_jax.export import (
  encoder,
  folders,
  golden,
  programs,
  runtime,
  sealed,
  tensors,
)
from holorec_jax.export.programs import Parts
from holorec_jax.vectors import cold_items

HERE = pathlib.Path(__file__).parent
# Files that stand alone, here and in a bundle.
READERS = {
  path.name: path
  for path in (
    HERE / "runtime.py",
    HERE / "rows.py",
    HERE / "sealed.py",
    HERE / "changes.py",
    HERE / "coding.py",
    HERE / "explaining.py",
    pathlib.Path(cold_items.__file__),
  )
}
TEXT = "text/components_FD"
# Lists up to the first are searched in batches, those up to the second singly.
LIST_WIDTHS = (64, 512)
VERSIONS = ("holorec_jax", "jax", "jaxlib", "numpy")
SCORES = (
  "float32 natural logarithm of the item's probability, to which neighbours of"
  " the history, if the run's search heeds them, add their evidence; -inf: no"
  " item. Without a history: of the item's share of the training interactions"
)
# Of scores at replay. In bfloat16 every platform rounds in its own way.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}


@dataclasses.dataclass(frozen=True)
class Options:
  """How a bundle is made.

  Attributes:
    buckets: batch sizes that can be searched.
    list_width: most entries of a request's deny or allow list.
    text_dtype: of the text encoder's matrix. In half the size, float16, some of
      a thousand new items get another code than the run gives them.
  """

  buckets: tuple[int, ...] = (1, 8, 32, 128)
  list_width: int = LIST_WIDTHS[1]
  text_dtype: str = "float32"

  def __post_init__(self):
    wrong = not self.buckets or min(self.buckets) < 1
    if wrong or list(self.buckets) != sorted(set(self.buckets)):
      raise UserError(
        f"--buckets={','.join(map(str, self.buckets))}: give ascending sizes of"
        " batches, such as 1,8,32,128"
      )
    if self.text_dtype not in ("float32", "float16"):
      raise UserError(
        f"--text_dtype={self.text_dtype}: give float32 or float16"
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
    cold: makes vectors of new items' texts; None: nothing does.
    about: further entries of the manifest, as JSON.
    beside: writers of further files, which are given the folder.
  """

  item_ids: Sequence[str]
  titles: Sequence[str]
  histories: Sequence[np.ndarray]
  quantizer: tuple[str, Any, int] | None = None
  cold: cold_items.ColdItems | None = None
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
    about = {
      "quantizer": _write_quantizer(partial, contents),
      "encoder": _write_encoder(partial, contents, options),
    }
    folders.write_items(partial, contents.item_ids, contents.titles)
    with step("golden request"):
      request = golden.make(
        recommender, contents.histories, options.narrow_list, parts.dtype
      )
      artifacts.write_json(partial / sealed.GOLDEN, request)
    for writer in contents.beside:
      writer(partial)
    for name, source in READERS.items():
      shutil.copyfile(source, partial / name)
    manifest = _describe(parts, options) | about | contents.about
    manifest = folders.seal(
      partial, manifest | {"calling_convention": convention}
    )
    with step("read back and replayed"):
      _check(partial)
    folders.sync(partial)
  folders.sync_entry(out.parent)
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
  catalog = recommender.catalog
  catalogue["prior/weight_I"] = catalog.counts_I + catalog.smoothing
  catalogue["prior/active_I"] = catalog.active_I
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
  """Exports all but the quantizer; returns their calling convention."""
  with step("program of liveness"):
    exported = programs.export_liveness(parts)
    _write_program(folder, sealed.LIVENESS, exported)
  searches = [
    (sealed.search_program(bucket), bucket, options.narrow_list)
    for bucket in options.buckets
  ]
  if parts.explain is not None:
    with step("program of explanations"):
      exported = programs.export_explanation(parts)
      _write_program(folder, sealed.EXPLAIN, exported)
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


def _write_encoder(
  folder: pathlib.Path, contents: Contents, options: Options
) -> dict[str, Any] | None:
  """Writes what makes vectors of texts; returns what the manifest says."""
  cold = contents.cold
  if cold is None:
    return None
  arrays = dict(cold.arrays)
  if TEXT in arrays:
    arrays[TEXT] = arrays[TEXT].astype(options.text_dtype)
  tensors.save(folder / sealed.ENCODER, arrays)
  text = json.dumps(cold.about, ensure_ascii=False).encode()
  (folder / sealed.TOKENS).write_bytes(gzip.compress(text, mtime=0))
  return {"columns": cold.about.get("columns", []), "given": cold.given}


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
      "capacity": parts.capacity,
      "max_history": parts.max_history,
      "buckets": list(options.buckets),
      "list_width": options.list_width,
      "narrow_list": options.narrow_list,
      "beam": parts.beam,
      "k": parts.k,
    },
    "catalogue": parts.catalogue,
    # Items a call; absent in bundles of older releases, which do not explain.
    "explanation": parts.explain and {"items": parts.k},
    "padding": {"history": -1, "lists": -1, "item": -1, "score": "-inf"},
    "scores": SCORES,
    "dtype": parts.dtype,
    "tolerance": TOLERANCE[parts.dtype],
  }


def _check(folder: pathlib.Path) -> None:
  try:
    runtime.load(folder)
  except runtime.BundleError as error:
    raise UserError(
      f"the bundle does not do what the run does, and was not kept: {error}"
    ) from error


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
  texts = sizes.get(sealed.ENCODER, 0) + sizes.get(sealed.TOKENS, 0)
  whole = sum(sizes.values())
  logging.info(
    "%s: %.2f MB, of which %.2f MB encode new items' texts; without them %.2f"
    " times its weights and tree (%.2f MB), with them %.2f times",
    out,
    whole / 1e6,
    texts / 1e6,
    (whole - texts) / needed,
    needed / 1e6,
    whole / needed,
  )
