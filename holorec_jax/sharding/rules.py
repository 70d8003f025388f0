"""Two small tables: where parameters are stored, and how they are used.

Stored, a matrix is split over `fsdp` and `tensor`, and so are its gradient, its
optimiser state and its average. Used, it is whole along `fsdp`: `constrain`
says so where a layer reads it, because XLA, left to itself, sees two uses of
one axis (rows of the batch, rows of the matrix) and gathers the activations.
Along `tensor` matrices come in pairs: the first is split by columns, the second
by rows, and one sum over the axis ends the pair. Tables of codes or items are
split by row, so every device scores codes of its own.

A rule names the axes of the last dimensions; those before them (levels,
granularities, stacked layers) are whole. An axis that does not divide its
dimension is left out there: the dimension is whole on every device, which the
log says once.
"""

import functools
import re

import jax
from absl import logging
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]
Rules = tuple[tuple[str, Axes], ...]

# How the paths of parameters end.
_COLUMNS = r"(query|key|value|wi|wi_gate)/kernel"
_ROWS = r"(output|wo)/kernel"
_TABLES = r"code_embedding|item_embedding|code"
_HEADS = r"fine_head|align_head|coarse_head"
_OTHERS = r"(pool|gate|projection)/kernel|tower_in|tower_out"

STORAGE: Rules = (
  (_COLUMNS, ("fsdp", "tensor")),
  (_ROWS, ("tensor", "fsdp")),
  (_TABLES, ("tensor", "fsdp")),
  (_HEADS, ("fsdp", "tensor")),
  (_OTHERS, ("fsdp", "tensor")),
)
COMPUTE: Rules = (
  (_COLUMNS, (None, "tensor")),
  (_ROWS, ("tensor", None)),
  (_TABLES, ("tensor", None)),
  (_HEADS, (None, "tensor")),
)
# Parameters below this name hold all layers, which a loop goes through: it
# gathers them one by one, and `constrain` on the whole tree leaves them alone.
STACKED = "layers"


def path_name(path: tuple) -> str:
  """A path of `jax.tree_util`, with slashes."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def is_stacked(name: str) -> bool:
  """Whether a parameter of this path holds all layers along its first axis."""
  return STACKED in name.split("/")[:-1]


@functools.cache
def _say_whole(name: str, size: int, axis: str, parts: int) -> None:
  logging.warning(
    "%s: a dimension of %d is whole on every device, as %s = %d does not"
    " divide it",
    name,
    size,
    axis,
    parts,
  )


def spec_of(
  rules: Rules, name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
  """Axes of an array's dimensions by the first rule for its path."""
  for ending, axes in rules:
    if re.search(rf"(^|/)({ending})$", name) and len(shape) >= len(axes):
      break
  else:
    return PartitionSpec()
  spec: list[str | None] = [None] * (len(shape) - len(axes))
  for size, axis in zip(shape[len(spec) :], axes):
    if axis and size % mesh.shape[axis]:
      _say_whole(name, size, axis, mesh.shape[axis])
      axis = None
    spec.append(axis if axis and mesh.shape[axis] > 1 else None)
  while spec and spec[-1] is None:
    spec.pop()
  return PartitionSpec(*spec)


def param_shardings(params: dict, mesh: Mesh) -> dict:
  """Where parameters (or their shapes) are stored."""

  def place(path, leaf):
    spec = spec_of(STORAGE, path_name(path), leaf.shape, mesh)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(place, params)


def shardings_like(state, params: dict, mesh: Mesh):
  """Where a state is stored whose leaves belong to parameters.

  A leaf whose path ends as a parameter's lies as it does; one that lacks one
  of the parameter's dimensions (Adafactor's rows and columns), as the rest of
  it. What belongs to none is on every device.

  Args:
    state: arrays or their shapes, such as an optimiser's state.
    params: the parameters or their shapes.
    mesh: where they lie.
  """
  shapes = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    shapes[path_name(path)] = leaf.shape

  def place(path, leaf):
    parts = path_name(path).split("/")
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    name = next((ending for ending in endings if ending in shapes), None)
    if name is None:
      return NamedSharding(mesh, PartitionSpec())
    shape = shapes[name]
    spec = spec_of(STORAGE, name, shape, mesh)
    axes = (*spec, *(None,) * (len(shape) - len(spec)))
    for left_out in (None, *range(len(shape))):
      kept = [i for i in range(len(shape)) if i != left_out]
      if leaf.shape == tuple(shape[i] for i in kept):
        spec = PartitionSpec(*(axes[i] for i in kept))
        return NamedSharding(mesh, spec)
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(place, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _use(x, storage: PartitionSpec, compute: PartitionSpec):
  return jax.lax.with_sharding_constraint(x, compute)


def _use_forth(x, storage, compute):
  return _use(x, storage, compute), None


def _use_back(storage, compute, _, gradient):
  # First as it was used, lest storage axes spread to the activations; XLA
  # makes one operation of a sum of which each device keeps its share.
  gradient = jax.lax.with_sharding_constraint(gradient, compute)
  return (jax.lax.with_sharding_constraint(gradient, storage),)


_use.defvjp(_use_forth, _use_back)


def whole_matrices(tree):
  """Whatever belongs to kernels as whole matrices, one layer after another.

  Stacked layers are split over `fsdp` by layer, others are on every device.
  Works on the mesh that is set, as `constrain`.
  """
  return _place_kernels(
    tree,
    lambda name, shape, mesh: PartitionSpec(
      "fsdp" if is_stacked(name) else None
    ),
  )


def stored(tree):
  """The same as it is stored."""
  return _place_kernels(tree, functools.partial(spec_of, STORAGE))


def _place_kernels(tree, choose):
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree

  def place(path, x):
    name = path_name(path)
    if not name.endswith("/kernel"):
      return x
    return jax.lax.with_sharding_constraint(x, choose(name, x.shape, mesh))

  return jax.tree_util.tree_map_with_path(place, tree)


def constrain(params: dict) -> dict:
  """Parameters as they are used; their gradients as they are stored.

  Works on the mesh that is set where the caller is traced
  (`jax.sharding.use_abstract_mesh`); without one, parameters stay as they are.
  Stacked layers stay, too.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return params

  def use(path, x):
    name = path_name(path)
    storage = spec_of(STORAGE, name, x.shape, mesh)
    compute = spec_of(COMPUTE, name, x.shape, mesh)
    if is_stacked(name) or storage == compute:
      return x
    return _use(x, storage, compute)

  return jax.tree_util.tree_map_with_path(use, params)
