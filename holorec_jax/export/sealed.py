"""A bundle's folder: its files' names, their seal, and how they are read.

This file stands alone beside `runtime.py`, here and in every bundle; it imports
the standard library, numpy and jax.
"""

import gzip
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

FORMAT = 2
MANIFEST = "manifest.json"
WEIGHTS, CATALOGUE = "weights.safetensors", "catalogue.safetensors"
QUANTIZER = "quantizer.safetensors"
ENCODER, TOKENS = "encoder.safetensors", "encoder.json.gz"
ITEMS, GOLDEN = "items.jsonl.gz", "golden.json"
LIVENESS, ENCODE = "programs/liveness.bin.gz", "programs/encode.bin.gz"
WIDE = "programs/search_wide.bin.gz"
EXPLAIN = "programs/explain.bin.gz"
# What safetensors calls them -> what numpy does, once jax is imported.
DTYPES = {
  "BOOL": "bool",
  "U8": "uint8",
  "I32": "int32",
  "U32": "uint32",
  "I64": "int64",
  "F16": "float16",
  "BF16": "bfloat16",
  "F32": "float32",
  "F64": "float64",
}
AGAIN = "copy the bundle again, or export it again"


class BundleError(ValueError):
  """A bundle that cannot be used.

  Attributes:
    what: is wrong.
    where: the file in question.
    mend: what to do about it.
  """

  def __init__(self, what: str, where: str | os.PathLike[str], mend: str):
    super().__init__(f"{where} {what}: {mend}")
    self.what, self.where, self.mend = what, str(where), mend


def search_program(bucket: int) -> str:
  """Name of the program that searches a batch."""
  return f"programs/search_B{bucket}.bin.gz"


def read_folder(path: pathlib.Path, verify: bool) -> dict[str, Any]:
  """The manifest of a folder all of whose files are there.

  Args:
    path: the folder.
    verify: hash every file; without, only their sizes are looked at.

  Raises:
    BundleError: it is of another version or not as it was written; names the
      file.
  """
  manifest = _read_manifest(path)
  _check_files(path, manifest["files"], verify)
  return manifest


def read_items(path: pathlib.Path) -> list[tuple[str, str]]:
  """Id and title of each item."""
  with gzip.open(path / ITEMS, "rt", encoding="utf-8") as file:
    return [tuple(json.loads(line)) for line in file]


def read_golden(path: pathlib.Path) -> dict[str, Any]:
  """The golden request and its answers."""
  return json.loads((path / GOLDEN).read_text("utf-8"))


def compare(
  path: pathlib.Path,
  manifest: dict[str, Any],
  golden: dict[str, Any],
  item_UK: np.ndarray,
  score_UK: np.ndarray,
) -> None:
  """BundleError unless the golden request found here what it did before."""
  pairs = zip(golden["items"], golden["scores"])
  for user, (items, scores) in enumerate(pairs):
    found = item_UK[user][item_UK[user] >= 0].tolist()
    own_K = score_UK[user, : len(found)]
    same = found == items
    if same and np.all(np.abs(own_K - scores) <= manifest["tolerance"]):
      continue
    raise BundleError(
      f"does not come true: request {user} gets the items {found} with scores"
      f" {own_K.tolist()}, not {items} with {scores}",
      path / GOLDEN,
      f"this jax {jax.__version__} on {jax.default_backend()} computes"
      f" something else than jax {manifest['versions']['jax']} did"
      " where it was exported; serve another bundle, or export it again",
    )


def read_program(
  path: pathlib.Path, manifest: dict[str, Any], name: str
) -> Callable:
  """A jitted program of the bundle."""
  file = path / name
  try:
    exported = jax.export.deserialize(
      bytearray(gzip.decompress(file.read_bytes()))
    )
  except ImportError as error:
    raise BundleError(
      f"cannot be read: {error}", file, "pip install flatbuffers"
    ) from error
  except Exception as error:
    made = manifest["versions"]["jax"]
    raise BundleError(
      f"was written by jax {made} (calling convention"
      f" {manifest['calling_convention']}) and jax {jax.__version__}"
      f" cannot read it ({error})",
      file,
      f"install jax {made} or a later one",
    ) from error
  backend = jax.default_backend()
  if {"gpu": "cuda"}.get(backend, backend) not in exported.platforms:
    raise BundleError(
      f"runs on {', '.join(exported.platforms)}, not on {backend}",
      file,
      "set JAX_PLATFORMS=cpu, or export it again for this platform",
    )
  return jax.jit(exported.call)


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """A safetensors file: a JSON header and a buffer.

  What is mapped is gone when someone writes over the file: these are copies.
  """
  raw = np.memmap(path, np.uint8, "r")
  start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
  header = json.loads(raw[8:start].tobytes())
  header.pop("__metadata__", None)
  arrays = {}
  for name, entry in header.items():
    first, end = (start + offset for offset in entry["data_offsets"])
    flat = raw[first:end].view(np.dtype(DTYPES[entry["dtype"]]))
    arrays[name] = np.array(flat.reshape(entry["shape"]))
  return arrays


def seal(manifest: dict[str, Any]) -> str:
  """SHA-256 of all of a manifest but its field `content`, which is this."""
  rest = {key: value for key, value in manifest.items() if key != "content"}
  return hashlib.sha256(manifest_text(rest).encode()).hexdigest()


def manifest_text(manifest: dict[str, Any]) -> str:
  """The one text of a manifest, so that every byte of it counts."""
  return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
  where = path / MANIFEST
  if not where.is_file():
    raise BundleError("is missing", where, f"no bundle; {AGAIN}")
  text = where.read_bytes()
  try:
    manifest = json.loads(text)
    version = manifest["format"]
  except (ValueError, KeyError, TypeError) as error:
    raise BundleError(f"is damaged ({error})", where, AGAIN) from None
  if version != FORMAT:
    raise BundleError(
      f"has format {version!r}; this runtime reads {FORMAT}",
      where,
      "use the runtime.py that lies in the bundle, or export it again",
    )
  sealed = manifest.get("content")
  if text != manifest_text(manifest).encode() or sealed != seal(manifest):
    raise BundleError("was changed after the export", where, AGAIN)
  return manifest


def _check_files(
  path: pathlib.Path, files: dict[str, dict[str, Any]], verify: bool
) -> None:
  """BundleError that names a file which is not as it was written."""
  for name, entry in files.items():
    file = path / name
    if not file.is_file():
      raise BundleError("is missing", file, AGAIN)
    size = file.stat().st_size
    if size != entry["bytes"]:
      raise BundleError(
        f"has {size} bytes, not {entry['bytes']} as exported", file, AGAIN
      )
    if verify:
      with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
      if digest != entry["sha256"]:
        raise BundleError("was changed after the export", file, AGAIN)
