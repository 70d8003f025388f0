"""Which tensor was the first that was not finite.

When a step's metrics show it, the step after it is on its way and the state
before it is gone. So the steps since the last checkpoint are done again: they
are the same ones, and the step in question can be looked at from the inside.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.types import Batch, TrainState

# make_step(optimizer) -> the train step with that optimiser.
MakeStep = Callable[[optax.GradientTransformation], Any]


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
  step, batch, terms of the loss, gradients, parameters after the step.

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
    for (path, bad), leaf in zip(counts, jax.tree.leaves(tree)):
      if bad:
        name = sharding.path_name(path)
        return f"{kind} {name} ({int(bad):,} of {leaf.size:,} values)"
    return None

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
  params, average = jax.tree.map(jnp.copy, (state.params, state.average))
  probe = TrainState(state.step + 0, params, average, bare.init(params))
  moved, metrics = make_step(bare)(probe, batch, codes)
  values = {k: float(v) for k, v in jax.device_get(metrics).items()}
  terms = [k for k in sorted(values) if not k.endswith("_norm") and k != "loss"]
  for name in (*terms, "loss"):
    if not math.isfinite(values[name]):
      return f"term {name} of the loss"
  found = first_of("gradient of", moved.params)
  if found:
    return found
  state, _ = make_step(optimizer)(state, batch, codes)
  return first_of("updated parameter", state.params)
