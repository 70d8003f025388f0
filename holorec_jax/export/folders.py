"""What the folders of bundles and of item deltas have in common."""

import gzip
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from holorec_jax import artifacts
from holorec_jax.export import sealed


def write_items(
  folder: pathlib.Path, ids: Sequence[str], titles: Sequence[str]
) -> None:
  """Writes [id, title] of each item, a line each."""
  lines = [
    json.dumps([str(id_), str(title)], ensure_ascii=False)
    for id_, title in zip(ids, titles, strict=True)
  ]
  text = "\n".join([*lines, ""]).encode()
  # No time in it, so that equal runs are equal bundles.
  (folder / sealed.ITEMS).write_bytes(gzip.compress(text, mtime=0))


def seal(folder: pathlib.Path, manifest: dict[str, Any]) -> dict[str, Any]:
  """Writes the manifest of a folder whose other files are all written."""
  files = {
    name: {"bytes": (folder / name).stat().st_size, "sha256": sha256}
    for name, sha256 in artifacts.hash_files(folder).items()
  }
  manifest = manifest | {"files": files}
  manifest["content"] = sealed.seal(manifest)
  text = sealed.manifest_text(manifest)
  artifacts.write_text(folder / sealed.MANIFEST, text)
  return manifest


def sync(folder: pathlib.Path) -> None:
  """Has the disk hold all of a folder before it takes its name."""
  for path in folder.rglob("*"):
    if path.is_file():
      with open(path, "rb") as file:
        os.fsync(file.fileno())
    else:
      sync_entry(path)
  sync_entry(folder)


def sync_entry(path: pathlib.Path) -> None:
  """Has the disk hold the names in a folder."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
