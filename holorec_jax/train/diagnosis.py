"""Which tensor was the first that was not finite.

When a step's metrics show it, the step after it is on its way and the state
before it is gone. So the steps since the last checkpoint are done again: they
are the same ones, and the step in question can be looked at from the inside.
"""

import math
import pathlib
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.experimental import checkify
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.types import Batch, TrainState

# make_step(optimizer) -> the train step with that optimiser.
MakeStep = Callable[[optax.GradientTransformation], Any]

_PACKAGE = pathlib.Path(__file__).parents[1]


def find_first(
  state: TrainState,
  batch: Batch,
  codes: Codes,
  make_step: MakeStep,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
) -> str | None:
  """The first tensor of a step that is not finite, as words; None if all are.

  Looked at in this order: parameters and optimiser as they were before the
  step, batch, terms of the loss, gradients, parameters after the step. Of terms
  and gradients the line is named, too, that made the first NaN; of finite
  gradients and parameters the one whose squares are not.

  Args:
    state: before the step; its memory is taken over.
    batch: of the step.
    codes: of the catalogue.
    make_step: the train step for an optimiser.
    optimizer: the run's own.
    mesh: where they lie.
  """
  count = jax.jit(
    lambda tree: jax.tree.map(lambda x: jnp.sum(~jnp.isfinite(x)), tree),
    out_shardings=sharding.replicated(mesh),
  )

  def first_of(kind: str, tree: Any) -> str | None:
    counts = jax.tree_util.tree_leaves_with_path(count(tree))
    found = [
      (sharding.path_name(path), int(bad), leaf.size)
      for (path, bad), leaf in zip(counts, jax.tree.leaves(tree))
      if bad
    ]
    if not found:
      return None
    (name, bad, size), *others = found
    more = f"; {len(others)} other tensors are bad, too" if others else ""
    return f"{kind} {name} ({bad:,} of {size:,} values{more})"

  found = (
    first_of("parameter", state.params)
    or first_of("optimiser's", state.opt_state)
    or first_of("batch's", batch)
  )
  if found:
    return found
  # An optimiser that adds the gradient as it is: the parameters, which are
  # finite, show it afterwards, whatever the step does to come by it.
  bare = optax.identity()
  bare_step = make_step(bare)

  def probe() -> TrainState:  # A step takes its memory.
    params, average = jax.tree.map(jnp.copy, (state.params, state.average))
    return TrainState(state.step + 0, params, average, bare.init(params))

  moved, metrics = bare_step(probe(), batch, codes)
  values = {k: float(v) for k, v in jax.device_get(metrics).items()}
  terms = [k for k in sorted(values) if not k.endswith("_norm") and k != "loss"]
  for name in (*terms, "loss"):
    if not math.isfinite(values[name]):
      found = f"term {name} of the loss"
      break
  found = found or first_of("gradient of", moved.params)
  if found:
    del moved
    return found + _locate(bare_step, (probe(), batch, codes), mesh)
  after, _ = make_step(optimizer)(state, batch, codes)
  return (
    first_of("updated parameter", after.params)
    or _find_outsized("gradient of", moved.params, mesh)
    or _find_outsized("updated parameter", after.params, mesh)
  )


def _locate(step: Any, args: tuple, mesh: Mesh) -> str:
  """Which of our lines made a step's first NaN, as words; "" if none did."""
  checked = checkify.checkify(step, errors=checkify.nan_checks)
  try:
    error, _ = checked(*args)
    whole = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))
    found: Any = whole(error).get_exception()
  except Exception as failure:
    # It needs more memory than a step, and has no rules for kernels: what is
    # known without it shall be told.
    logging.warning("the line of the first NaN was not found: %s", failure)
    return ""
  if found is None:
    return ""
  frames = traceback.extract_tb(found.traceback_info.as_python_traceback())
  ours = [f for f in frames if _PACKAGE in pathlib.Path(f.filename).parents]
  if not ours:
    return f"; the first NaN comes of {found.prim}"
  path = pathlib.Path(ours[-1].filename).relative_to(_PACKAGE.parent)
  return (
    f"; the first NaN comes of {found.prim} in {path}, line {ours[-1].lineno}"
    f" ({ours[-1].name})"
  )


def _find_outsized(kind: str, tree: Any, mesh: Mesh) -> str | None:
  """The tensor with the greatest value, if its squares are not finite."""
  reach = jax.jit(
    lambda tree: jax.tree.map(lambda x: jnp.max(jnp.abs(x)), tree),
    out_shardings=sharding.replicated(mesh),
  )
  leaves = jax.tree_util.tree_leaves_with_path(reach(tree))
  path, greatest = max(leaves, key=lambda leaf: float(leaf[1]))
  greatest = float(greatest)
  if greatest < math.sqrt(np.finfo(np.float32).max):
    return None
  name = sharding.path_name(path)
  return f"{kind} {name} (finite, but its values reach {greatest:.1e})"
