"""The tree on disk: one .npy file per array, and tree.json that seals them.

Files are mapped, not read, so that a tree of tens of millions of items opens
in milliseconds and processes of one machine share its pages. tree.json holds
the format's version, the fields that are no arrays, and each file's size,
dtype, shape and SHA-256; `content` is the hash of all of that, the name of
the tree: equal trees have equal ones.
"""

import math
import os
import pathlib
from typing import Any

import numpy as np

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.tree import Tree

FORMAT = 1
HEADER = "tree.json"
ARRAYS = (
  "code",
  "first_child",
  "num_children",
  "first_item",
  "num_items",
  "level_start",
  "leaf_items",
)


def save_tree(tree: Tree, folder: str | os.PathLike[str]) -> str:
  """Writes the tree; the folder is whole or not there.

  Args:
    tree: what to write.
    folder: must not be there yet.

  Returns:
    The content hash.

  Raises:
    UserError: the folder is there already, or the disk is full.
  """
  with artifacts.atomic_folder(folder) as partial:
    header: dict[str, Any] = {
      "format": FORMAT,
      "num_codes": tree.num_codes,
      "num_catalog_items": tree.num_catalog_items,
      "fanout": list(tree.fanout),
      "arrays": {},
    }
    for name in ARRAYS:
      array = getattr(tree, name)
      path = partial / f"{name}.npy"
      np.save(path, array, allow_pickle=False)
      header["arrays"][name] = {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "bytes": path.stat().st_size,
        "sha256": artifacts.hash_file(path),
      }
    header["content"] = artifacts.hash_json(header)
    artifacts.write_json(partial / HEADER, header)
  return header["content"]


def load_tree(folder: str | os.PathLike[str], verify: bool = False) -> Tree:
  """Maps a saved tree into memory, read-only.

  Args:
    folder: what `save_tree` wrote.
    verify: read every file and compare its hash, too; else tree.json is held
      to its own hash, and the files to their sizes.

  Raises:
    UserError: not a tree, another format, a missing, cut or altered file;
      names it.
  """
  folder = pathlib.Path(folder)
  header = _read_header(folder)
  arrays = {
    name: _map_array(folder / f"{name}.npy", header["arrays"][name], verify)
    for name in ARRAYS
  }
  return Tree(
    **arrays,
    fanout=tuple(header["fanout"]),
    num_codes=header["num_codes"],
    num_catalog_items=header["num_catalog_items"],
  )


def read_content(folder: str | os.PathLike[str]) -> str:
  """The content hash of a saved tree; UserError as for `load_tree`."""
  return _read_header(pathlib.Path(folder))["content"]


def _read_header(folder: pathlib.Path) -> dict[str, Any]:
  path = folder / HEADER
  if not path.is_file():
    raise UserError(
      f"{folder} has no {HEADER}, so it holds no saved tree: give the folder"
      " that save_tree wrote, or build the tree again."
    )
  header = artifacts.read_json(path)
  if not isinstance(header, dict) or type(header.get("format")) is not int:
    raise _damaged(path, "it names no format")
  if header["format"] != FORMAT:
    age = "newer" if header["format"] > FORMAT else "older"
    raise UserError(
      f"{folder} holds a tree of format {header['format']}, {age} than the"
      f" format {FORMAT} that this release reads: build the tree again with"
      " this release, or use the release that wrote it."
    )
  content = header.pop("content", None)
  if content != artifacts.hash_json(header):
    raise _damaged(path, "it does not match its own content hash")
  return header | {"content": content}


def _map_array(
  path: pathlib.Path, expected: dict[str, Any], verify: bool
) -> np.ndarray:
  if not path.is_file():
    raise _damaged(path, "the file is missing")
  size = path.stat().st_size
  if size != expected["bytes"]:
    raise _damaged(path, f"it has {size} bytes instead of {expected['bytes']}")
  if verify and artifacts.hash_file(path) != expected["sha256"]:
    raise _damaged(path, "its bytes have changed since it was written")
  # What numpy's own header says is in tree.json, too, which its hash protects.
  dtype, shape = np.dtype(expected["dtype"]), tuple(expected["shape"])
  offset = size - math.prod(shape) * dtype.itemsize
  return np.memmap(path, dtype, "r", offset, shape)


def _damaged(path: pathlib.Path, what: str) -> UserError:
  return UserError(
    f"The saved tree is damaged at {path}: {what}. Delete {path.parent} and"
    " build the tree again, or copy it once more."
  )
