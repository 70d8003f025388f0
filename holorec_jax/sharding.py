"""The mesh and who lies where on it.

One axis, `data`, over all local devices: batches are split by rows, the state
is replicated. Everything that places arrays goes through this file.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """A one-axis mesh over the given or all local devices."""
  devices = jax.local_devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
  """The first axis is split over `data`."""
  return NamedSharding(mesh, PartitionSpec("data"))


def put_rows(tree, mesh: Mesh):
  """Host arrays to device, split by row."""
  return jax.device_put(jax.tree.map(np.asarray, tree), by_row(mesh))
