"""Who lies where: the mesh, the rules for parameters, what XLA makes of them.

Everything that places arrays goes through here.

  mesh         axes data, fsdp, tensor; rows of a batch over data and fsdp
  rules        two tables, path of a parameter -> axes of its dimensions
  collectives  what a compiled program sends between devices
"""

from holorec_jax.sharding.collectives import (
  Collective,
  collectives,
  list_collectives,
)
from holorec_jax.sharding.mesh import (
  MeshConfig,
  by_row,
  make_mesh,
  put_rows,
  replicated,
  row_shards,
  split_rows,
)
from holorec_jax.sharding.rules import (
  STACKED,
  constrain,
  is_stacked,
  param_shardings,
  path_name,
  shardings_like,
)

__all__ = [
  "STACKED",
  "Collective",
  "MeshConfig",
  "by_row",
  "collectives",
  "constrain",
  "is_stacked",
  "list_collectives",
  "make_mesh",
  "param_shardings",
  "path_name",
  "put_rows",
  "replicated",
  "row_shards",
  "shardings_like",
  "split_rows",
]
