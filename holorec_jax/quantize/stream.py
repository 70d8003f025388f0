"""Catalogues larger than what a device holds and a fit looks at.

A fit trains on a sample of the rows; the frozen quantizer then codes all items
in blocks, whose rows the devices share. Vectors may be a memory map: in memory
are the sample, a block, and what is kept of every item.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding

# Items of a block, per device. One program for catalogues and single new items
# alike, so that an item's codes do not depend on the company it is encoded in.
CHUNK = 1024
# A device's least share of a training batch: adding up the gradients of fewer
# items takes longer than working them out.
LEAST_SHARE = 64


def local_mesh() -> Mesh:
  """The devices of this process: each process fits for itself."""
  return sharding.make_mesh(jax.local_devices())


def training_mesh(batch: int, mesh: Mesh) -> Mesh:
  """As many of the mesh's devices as can share a batch evenly."""
  shares = [n for n in range(2, mesh.size + 1) if batch % n == 0]
  most = max([n for n in shares if batch // n >= LEAST_SHARE], default=1)
  return sharding.make_mesh(list(mesh.devices.flat)[:most])


def sample(vectors_IW: np.ndarray, most: int, seed: int) -> np.ndarray:
  """All rows, or one random row of each of `most` equal stretches; float32."""
  if len(vectors_IW) <= most:
    return np.asarray(vectors_IW, np.float32)
  edges = np.arange(most + 1) * len(vectors_IW) // most
  row_S = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
  return np.asarray(vectors_IW[row_S], np.float32)


def encode(
  program: Callable[[Any, jax.Array], Any],
  params: Any,
  vectors_IW: np.ndarray,
  keep: Callable[[Any], Sequence[jax.Array]],
  mesh: Mesh | None = None,
  progress: bool = False,
) -> list[np.ndarray]:
  """What a program says of every item.

  Args:
    program: (params, x_BW) -> arrays (B, ..), a row of each item alone.
    params: what it reads, put on every device.
    vectors_IW: item vectors, at least one; a memory map will do.
    keep: chooses the outputs that are wanted; the others never leave a device.
    mesh: the devices; all of this process by default.
    progress: whether to show a progress bar on stderr.

  Returns:
    The chosen outputs, (I, ..) each.
  """
  mesh = local_mesh() if mesh is None else mesh
  params = jax.device_put(params, sharding.replicated(mesh))
  block = CHUNK * mesh.size
  kept: list[np.ndarray] = []

  def fetch(start, parts):
    for whole, part in zip(kept, parts):
      rows = whole[start : start + block]
      rows[:] = np.asarray(part)[: len(rows)]

  ahead: Sequence[jax.Array] = ()
  starts = range(0, len(vectors_IW), block)
  for start in tqdm(starts, "codes", unit="block", disable=not progress):
    x_BW = np.asarray(vectors_IW[start : start + block], np.float32)
    x_BW = np.pad(x_BW, ((0, block - len(x_BW)), (0, 0)))
    parts = keep(program(params, sharding.put_rows(x_BW, mesh)))
    if start:  # the devices work while the block before is fetched
      fetch(start - block, ahead)
    else:
      kept = [
        np.empty((len(vectors_IW), *part.shape[1:]), part.dtype)
        for part in parts
      ]
    ahead = parts
  fetch(starts[-1], ahead)
  return kept
