"""Who lies where: the mesh, the rules for parameters, what XLA makes of them.

Everything that places arrays goes through here.

  mesh         axes data, fsdp, sequence, tensor; rows over data and fsdp
  tokens       those of a row over sequence
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
  put,
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
  stored,
  whole_matrices,
)
from holorec_jax.sharding.tokens import (
  split_tokens,
  token_shards,
  tokens_are_split,
  whole_tokens,
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
  "put",
  "put_rows",
  "replicated",
  "row_shards",
  "shardings_like",
  "split_rows",
  "split_tokens",
  "stored",
  "token_shards",
  "tokens_are_split",
  "whole_matrices",
  "whole_tokens",
]
