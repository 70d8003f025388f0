"""A recommender taken apart: arrays by name, and serialized programs of them.

The programs know no classes of this package: what they read and return are
dicts of arrays, named by the path in the pytree they come from, such as
"params/encoder/blocks_0/mlp/wi/kernel" or "index/words".
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from holorec_jax.codes import Codes
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.filters import Lists
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.search_tree import SearchTree
from holorec_jax.decode.set_space import Lattice
from holorec_jax.export import levels

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a search is made of.

  Attributes:
    arrays: parameters in the search's dtype, codes and index.
    search: (arrays, live, item_BT, deny_BX, allow_BX, restricted_B) ->
      (item_BK, score_BK).
    liveness: (arrays, available_I) -> live.
    explain: (arrays, item_BT, target_BK) -> dict of arrays (`levels`); None:
      the system has no tree of codes.
    max_history: T.
    num_items: I.
    capacity: items that the arrays have room for; a bool for each is what
      liveness takes.
    catalogue: JSON, what `changes` needs to know of the index.
    beam, k: of the search.
    dtype: of its computation.
  """

  arrays: dict[str, np.ndarray]
  search: Callable
  liveness: Callable
  explain: Callable | None
  max_history: int
  num_items: int
  capacity: int
  catalogue: dict[str, Any]
  beam: int
  k: int
  dtype: str


def take_apart(recommender: Recommender) -> Parts:
  """The recommender's search, as a function of named arrays."""
  config, engine = recommender.config, recommender.engine
  codes, index = recommender.placed
  arrays, form = name_leaves(
    {"params": recommender.params, "codes": codes, "index": index}
  )
  run = engine.make_search(config.beam, config.k)
  num_items = recommender.catalog.num_items
  capacity = len(codes.fine_IL) if isinstance(codes, Codes) else num_items

  def live_tree(arrays: dict, available_I: Any) -> dict:
    return {"live": engine.live(form(arrays)["index"], available_I)}

  shapes = jax.eval_shape(live_tree, arrays, _spec(bool, capacity))
  _, live_form = name_leaves(shapes)

  def liveness(arrays: dict, available_I: jax.Array) -> dict:
    return name_leaves(live_tree(arrays, available_I))[0]

  def search(arrays, live, item_BT, deny_BX, allow_BX, restricted_B):
    whole = form(arrays)
    found = run(
      whole["params"],
      whole["codes"],
      whole["index"],
      live_form(live)["live"],
      item_BT,
      Lists(deny_BX, allow_BX, restricted_B),
    )
    return found.item_BK, found.score_BK

  return Parts(
    arrays=jax.device_get(arrays),
    search=search,
    liveness=liveness,
    explain=_explanation(engine, form),
    max_history=recommender.max_history,
    num_items=num_items,
    capacity=capacity,
    catalogue=_describe_index(recommender),
    beam=config.beam,
    k=config.k,
    dtype=config.dtype,
  )


def _explanation(engine: Any, form: Callable[[dict], Any]) -> Callable | None:
  if not isinstance(engine, TreeEngine):
    return None

  def explain(arrays, item_BT, target_BK):
    whole = form(arrays)
    return levels.explain(
      engine.model,
      whole["params"],
      whole["codes"],
      whole["index"],
      item_BT,
      target_BK,
    )

  return explain


def _describe_index(recommender: Recommender) -> dict[str, Any]:
  """What the manifest says of the catalogue."""
  catalog, index = recommender.catalog, recommender.placed[1]
  about = {
    "smoothing": catalog.smoothing,
    "num_codes": catalog.num_codes,
    "neighbours": catalog.neighbours is not None,
  }
  if isinstance(index, Lattice):
    return about | {"kind": "sets of codes"}
  if not isinstance(index, SearchTree):
    return about | {"kind": "items"}
  engine: Any = recommender.engine
  return about | {
    "kind": "tree",
    "dense_groups": index.dense_groups,
    "fanout": list(index.fanout),
    "largest_leaf": index.largest_leaf,
    "over_tree": engine.model.config.softmax == "tree",
  }


def name_leaves(tree: Any) -> tuple[dict[str, Any], Callable[[dict], Any]]:
  """Leaves by their path, and the way back from such a dict."""
  pairs, form = jax.tree_util.tree_flatten_with_path(tree)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs
  ]

  def back(leaves: dict) -> Any:
    return jax.tree.unflatten(form, [leaves[name] for name in names])

  return dict(zip(names, (leaf for _, leaf in pairs))), back


def _spec(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype)


def export_liveness(parts: Parts) -> jax.export.Exported:
  """The program that turns availability into what searches read of it."""
  return _export(
    parts, parts.liveness, parts.arrays, _spec(bool, parts.capacity)
  )


def export_search(parts: Parts, bucket: Any, width: Any) -> jax.export.Exported:
  """The search of a batch.

  Args:
    parts: of the recommender.
    bucket: rows of the batch; this and the width may be symbolic
      (`jax.export.symbolic_shape`).
    width: of deny and allow lists.
  """
  available = _spec(bool, parts.capacity)
  return _export(
    parts,
    parts.search,
    parts.arrays,
    jax.eval_shape(parts.liveness, parts.arrays, available),
    _spec(jnp.int32, bucket, parts.max_history),
    _spec(jnp.int32, bucket, width),
    _spec(jnp.int32, bucket, width),
    _spec(bool, bucket),
  )


def export_explanation(parts: Parts) -> jax.export.Exported:
  """The program that explains k items to one user."""
  assert parts.explain is not None
  return _export(
    parts,
    parts.explain,
    parts.arrays,
    _spec(jnp.int32, 1, parts.max_history),
    _spec(jnp.int32, 1, parts.k),
  )


def precision(dtype: str) -> str | None:
  """Of matrix products in a program.

  Accelerators round float32 operands unless told otherwise (TF32, bfloat16
  passes), and scores would differ from those of the export by far more than
  rounding. Who prefers speed searches in bfloat16.
  """
  return "highest" if dtype == "float32" else None


def _export(parts: Parts, function: Callable, *args) -> jax.export.Exported:
  with jax.default_matmul_precision(precision(parts.dtype)):
    return export(function, *args)


def export(function: Callable, *args) -> jax.export.Exported:
  """A function, for arguments of these shapes and dtypes on one device."""
  specs = jax.tree.map(lambda x: _spec(x.dtype, *x.shape), args)
  return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*specs)
