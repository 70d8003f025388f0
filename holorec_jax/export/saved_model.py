"""A bundle's search as a TensorFlow SavedModel.

  saved_model.pb   the signature "serving_default", for batches of any size
  variables/       parameters, codes, index and ids, once
  assets/          the bundle's items.jsonl.gz: id and title of each row

Inputs history (B, T), deny and allow (B, X) int32 and restricted (B,) bool are
those of `runtime.Bundle.search`, with lists of any one width X >= 1. Outputs
are items (B, K) int32 and scores (B, K) float32 as there, and ids (B, K), the
items' external ids, "" where there is none. What is available is fixed.

The whole search is one op, XlaCallModule, which TensorFlow compiles for every
B and X that it meets. TensorFlow reads an older StableHLO than jax writes, and
derives no shapes through a composite, which jax makes of `lax.top_k`: this
becomes a call of its definition, a stable sort.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.export
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func, stablehlo
from jax.interpreters import mlir

from holorec_jax.errors import UserError
from holorec_jax.export import programs, rows, saved_model_reader, sealed
from holorec_jax.export.programs import Parts

# The oldest one that has the batch dimensions of gathers.
STABLEHLO = "1.1.0"
# B and X of the module's docstring.
SYMBOLS = "B, X"


def import_tensorflow() -> tuple[Any, Any]:
  """TensorFlow and its XLA ops; UserError where it is not installed."""
  try:
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python import xla
  except ModuleNotFoundError as error:
    raise UserError(
      f"the format saved_model needs TensorFlow ({error}): pip install -e"
      " '.[saved_model]', or leave the format out"
    ) from None
  return tf, xla


def write(
  folder: pathlib.Path, bundle: pathlib.Path, parts: Parts, tolerance: float
) -> None:
  """Writes the SavedModel, and has another process answer from it.

  Args:
    folder: an existing empty one, which gets the files.
    bundle: has the items, the catalogue and the golden request.
    parts: of the bundle's recommender; their arrays may have other room.
    tolerance: of scores.

  Raises:
    UserError: no TensorFlow, or it does not answer as the bundle does.
  """
  exported = programs.export_search(parts, *jax.export.symbolic_shape(SYMBOLS))
  item_ids = [item for item, _ in sealed.read_items(bundle)]
  active_I = sealed.read_tensors(bundle / sealed.CATALOGUE)["prior/active_I"]
  arrays = _arrays(parts, active_I)
  _save(folder, exported, arrays, item_ids, bundle / sealed.ITEMS)
  check(folder, sealed.read_golden(bundle), parts, item_ids, tolerance)


def _save(
  folder: pathlib.Path,
  exported: jax.export.Exported,
  arrays: list[np.ndarray],
  item_ids: list[str],
  items: pathlib.Path,
) -> None:
  """Writes a search that reads some arrays before its inputs."""
  tf, xla = import_tensorflow()
  # An accelerator is jax's here.
  tf.config.set_visible_devices([], "GPU")
  module, kept = portable(exported), exported.module_kept_var_idx
  model = tf.Module()
  model.arrays = {
    str(place): tf.Variable(arrays[place], trainable=False)
    for place in kept
    if place < len(arrays)
  }
  model.ids = tf.Variable(item_ids, trainable=False)
  model.items = tf.saved_model.Asset(str(items))

  def search(*inputs):
    given = dict(enumerate(inputs, len(arrays)))
    item_BK, score_BK = xla.call_module(
      [given[i] if i in given else model.arrays[str(i)] for i in kept],
      version=exported.calling_convention_version,
      module=module,
      Tout=[aval.dtype for aval in exported.out_avals],
      Sout=[_shape(aval) for aval in exported.out_avals],
      platforms=[name.upper() for name in exported.platforms],
    )
    id_BK = tf.gather(model.ids, tf.maximum(item_BK, 0))
    id_BK = tf.where(item_BK >= 0, id_BK, "")
    return {"items": item_BK, "scores": score_BK, "ids": id_BK}

  signature = [
    tf.TensorSpec(_shape(aval), aval.dtype, name)
    for name, aval in zip(
      saved_model_reader.INPUTS, exported.in_avals[len(arrays) :], strict=True
    )
  ]
  served = tf.function(search, signature, autograph=False)
  tf.saved_model.save(model, str(folder), {"serving_default": served})


def portable(exported: jax.export.Exported) -> bytes:
  """The module of a program, for TensorFlow."""
  context = mlir.make_ir_context()
  with context, ir.Location.unknown():
    module = stablehlo.deserialize_portable_artifact(
      context, exported.mlir_module_serialized
    )
    composites = []

    def collect(op):
      if op.name == "stablehlo.composite":
        composites.append(op)
      return ir.WalkResult.ADVANCE

    module.operation.walk(collect)
    for op in composites:
      with ir.InsertionPoint(op):
        call = func.CallOp(
          [result.type for result in op.results],
          op.attributes["decomposition"],
          list(op.operands),
        )
      for old, new in zip(op.results, call.results):
        old.replace_all_uses_with(new)
      op.operation.erase()
    return stablehlo.serialize_portable_artifact(module, STABLEHLO)


def _arrays(parts: Parts, active_I: np.ndarray) -> list[np.ndarray]:
  """What the search reads beside the requests, in its order."""
  allowed_I = np.pad(active_I, (0, parts.capacity - len(active_I)))
  live = jax.jit(parts.liveness)(parts.arrays, allowed_I)
  return [np.asarray(leaf) for leaf in jax.tree.leaves((parts.arrays, live))]


def _shape(aval: Any) -> list[int | None]:
  return [size if isinstance(size, int) else None for size in aval.shape]


def check(
  folder: pathlib.Path,
  golden: dict[str, Any],
  parts: Parts,
  item_ids: list[str],
  tolerance: float,
) -> None:
  """UserError unless a golden request is answered as a bundle does.

  Args:
    folder: of the SavedModel.
    golden: requests and answers, as `golden.make` has them.
    parts: of the recommender.
    item_ids: external ids by item number.
    tolerance: of scores.
  """
  # No search answers an empty history.
  users = [user for user, seen in enumerate(golden["histories"]) if seen]
  chosen = {name: [golden[name][user] for user in users] for name in golden}
  lists = [*chosen["deny"], *(allow or [] for allow in chosen["allow"])]
  form = rows.Form(parts.num_items, parts.max_history, max(1, *map(len, lists)))
  asked = rows.make_rows(
    form, chosen["histories"], chosen["deny"], chosen["allow"]
  )
  answers = answer(folder, asked)
  for user, (items, scores) in enumerate(
    zip(chosen["items"], chosen["scores"])
  ):
    found = [item for item in answers["items"][user] if item >= 0]
    near = np.array(answers["scores"][user][: len(found)])
    ids = [item_ids[item] for item in items]
    if (
      found == items
      and np.all(np.abs(near - scores) <= tolerance)
      and answers["ids"][user][: len(found)] == ids
    ):
      continue
    raise UserError(
      "--formats=saved_model: TensorFlow answers otherwise than the run:"
      f" request {users[user]} of the golden ones gets the items {found} with"
      f" scores {near.tolist()}, not {items} with {scores}; leave the format"
      " out, or install another release of TensorFlow"
    )


def answer(folder: pathlib.Path, asked: rows.Rows) -> dict[str, Any]:
  """The outputs for a batch, from a process of its own without jax.

  Args:
    folder: of the SavedModel.
    asked: the inputs.

  Raises:
    UserError: that process fails.
  """
  inputs = dict(zip(saved_model_reader.INPUTS, (x.tolist() for x in asked)))
  done = subprocess.run(
    # Without the reader's folder on the path: names there are also others'.
    [sys.executable, "-P", saved_model_reader.__file__, str(folder)],
    input=json.dumps(inputs),
    capture_output=True,
    text=True,
    env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
  )
  if done.returncode:
    raise UserError(
      f"--formats=saved_model: TensorFlow cannot run {folder}; leave the"
      f" format out, or install another release of it. {done.stderr[-2000:]}"
    )
  return json.loads(done.stdout.splitlines()[-1])
