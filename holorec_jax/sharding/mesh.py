"""The mesh, and the rows of a batch on it.

  data      copies of the model, each with rows of its own
  fsdp      rows too, and a share of every parameter: gathered where it is used
  sequence  the same rows, and a share of each row's tokens and branches
  tensor    the same rows, and a share of every matrix, attention head and code

Devices lie in the order of their slices, processes and ids. Neighbours share a
`tensor` group, the group that talks most; then come `sequence` and `fsdp`. So
the rows of a process's devices are one block of the batch, and any shape fits
any pod: `jax.make_mesh` follows a TPU's torus instead, which splits a process's
rows and has no answer for many shapes, and takes no GPUs of several nodes.

Along `sequence` every device computes what its own tokens and branches ask, on
keys and values of all of them, which attention gathers (`whole_tokens`). That
pays where rows are so long that there are fewer of them than devices, or that
one does not fit on a device.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from holorec_jax.errors import UserError
from holorec_jax.ranges import check_ranges

AXES = ("data", "fsdp", "sequence", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """How many devices lie along each axis.

  Attributes:
    data: copies of the model; -1: as many as the devices allow.
    fsdp: shares that parameters and optimiser are stored in.
    sequence: shares of a packed row's tokens and branches.
    tensor: shares that matrices are multiplied in.
  """

  data: int = -1
  fsdp: int = 1
  sequence: int = 1
  tensor: int = 1

  def __post_init__(self):
    check_ranges(
      self,
      "config.mesh",
      data="[-1, inf)",
      fsdp="[1, inf)",
      sequence="[1, inf)",
      tensor="[1, inf)",
    )
    if self.data == 0:
      raise UserError(
        "config.mesh.data is 0; expected at least 1, or -1 for as many copies"
        " as the devices allow."
      )

  def shape(self, devices: int) -> tuple[int, ...]:
    """Sizes of the axes on so many devices.

    Raises:
      UserError: the axes do not use up all devices.
    """
    inner = self.fsdp * self.sequence * self.tensor
    data = devices // inner if self.data == -1 else self.data
    if data * inner != devices:
      asked = {axis: getattr(self, axis) for axis in AXES}
      shown = " x ".join(f"{a} {n}" for a, n in asked.items() if n != -1)
      raise UserError(
        f"config.mesh asks for {shown}, but there are {devices} devices: choose"
        " config.mesh.fsdp, .sequence and .tensor whose product divides that"
        " number, and leave config.mesh.data at -1."
      )
    return data, self.fsdp, self.sequence, self.tensor


def make_mesh(
  devices: Sequence[jax.Device] | None = None,
  shape: MeshConfig | None = None,
) -> Mesh:
  """A mesh over the given devices, or those of all processes.

  Without a shape all lie along `data`.

  Raises:
    UserError: the shape does not fit the devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = (shape or MeshConfig()).shape(len(devices))
  return Mesh(
    np.array(sorted(devices, key=_place), dtype=object).reshape(sizes),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
  )


def _place(device: jax.Device) -> tuple[int, int, int]:
  # CPUs have no slice.
  slice_index = getattr(device, "slice_index", None) or 0
  return slice_index, device.process_index, device.id


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def _row_axes(mesh) -> str | tuple[str, str]:
  return ("data", "fsdp") if mesh.shape["fsdp"] > 1 else "data"


def by_row(mesh: Mesh) -> NamedSharding:
  """The first axis is split over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(_row_axes(mesh)))


def row_shards(mesh: Mesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def put(tree, where: NamedSharding):
  """Host arrays that all processes have alike, to device.

  `jax.device_put` compares the copies of all processes, for which each of them
  receives all.
  """
  if jax.process_count() == 1:
    return jax.device_put(tree, where)

  def put_one(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, where, lambda part: x[part])

  return jax.tree.map(put_one, tree)


def put_rows(tree, mesh: Mesh):
  """Host arrays to device, split by row.

  Where several processes share the mesh, each gives the rows of its own
  devices, as many as the others; the array on device has them all.
  """
  tree = jax.tree.map(np.asarray, tree)
  rows = by_row(mesh)
  if jax.process_count() == 1:
    return jax.device_put(tree, rows)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(rows, x), tree
  )


def split_rows(tree, parts: int, mesh: Mesh):
  """Rows (B, ..) to (parts, B / parts, ..) without moving them.

  Every device splits the rows that it holds.

  Raises:
    UserError: the rows cannot be shared out evenly.
  """
  whole = parts * row_shards(mesh)
  spec = PartitionSpec(None, _row_axes(mesh))

  def split(x):
    if len(x) % whole:
      raise UserError(
        f"a batch of {len(x)} rows cannot be split into {parts} parts"
        f" (config.optim.accumulate) on {whole // parts} devices that share its"
        f" rows: make the batch a multiple of {whole} rows."
      )
    parts_last = x.reshape(len(x) // parts, parts, *x.shape[1:])
    return jax.lax.with_sharding_constraint(
      jnp.swapaxes(parts_last, 0, 1), NamedSharding(mesh, spec)
    )

  return jax.tree.map(split, tree)
