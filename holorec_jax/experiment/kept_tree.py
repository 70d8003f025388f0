"""Trees of large catalogues are built once and mapped into memory after that.

Building takes a second for each million items; mapping none, and the processes
of one machine share the pages. What lies in WORKDIR/tree may be deleted.
"""

import pathlib
from typing import Any

import numpy as np
from absl import logging

from holorec_jax import artifacts, tree_files
from holorec_jax.tree import Tree, build_tree

LARGE = 1_000_000


def find_tree(
  folder: pathlib.Path,
  made_from: dict[str, Any],
  codes_IL: np.ndarray,
  num_codes: int,
  large: int = LARGE,
) -> Tree:
  """The tree of all items' codes; a large one is kept.

  Args:
    folder: of kept trees.
    made_from: JSON that the codes follow from; equal for equal codes alone.
    codes_IL: identifying codes.
    num_codes: V.
    large: items from which on it is kept.

  Raises:
    UserError: the kept tree is damaged (names the file), or the disk is full.
  """
  if len(codes_IL) < large:
    return build_tree(codes_IL, num_codes)
  path = folder / artifacts.hash_json(made_from | {"codes": num_codes})[:16]
  if path.exists():
    return tree_files.load_tree(path)
  logging.info("building the tree of %d items, once", len(codes_IL))
  tree = build_tree(codes_IL, num_codes)
  folder.mkdir(parents=True, exist_ok=True)
  tree_files.save_tree(tree, path)
  return tree
