"""The one jitted training step.

Parameters, their average and the optimiser's state are stored split over the
mesh (`sharding.rules`); a step gathers what a layer needs where it needs it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.precision import Dtype, cast
from holorec_jax.train.objective import Metrics, Objective
from holorec_jax.types import Batch, TrainState


def _creator(
  objective: Objective, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[], TrainState]:
  def create():
    params = objective.init_params(seed)
    return TrainState(
      step=jnp.int32(0),
      params=params,
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
    )

  return create


def state_shardings(
  objective: Objective, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Where each leaf of the state is stored; nothing is computed."""
  shapes = jax.eval_shape(_creator(objective, optimizer, 0))
  return sharding.shardings_like(shapes, shapes.params, mesh)


def state_shapes(
  objective: Objective, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes of the state with where each leaf of it is stored."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    jax.eval_shape(_creator(objective, optimizer, 0)),
    state_shardings(objective, optimizer, mesh),
  )


def init_state(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """A fresh state; every device makes its share of it alone."""
  create = _creator(objective, optimizer, seed)
  shardings = state_shardings(objective, optimizer, mesh)
  return jax.jit(create, out_shardings=shardings)()


def _split_branches(batch: Batch) -> Batch:
  """Branches as their tokens (`sharding.tokens`); histories stay whole."""
  if not sharding.tokens_are_split():
    return batch  # Alignment, on a mesh without the axis, has `Experience`.
  leaves = (batch.last_BN, batch.target_BN, batch.weight_BN)
  last_BN, target_BN, weight_BN = sharding.split_tokens(leaves)
  return dataclasses.replace(
    batch, last_BN=last_BN, target_BN=target_BN, weight_BN=weight_BN
  )


def _make_gradient(objective: Objective, dtype: Dtype, accumulate: int, mesh):
  """gradient(params, batch, codes, key) -> (gradient of the mean, metrics)."""

  def loss(params, batch, codes, key):
    params = sharding.constrain(cast(params, dtype))
    batch = _split_branches(batch)
    return objective.loss(params, batch, codes, key)

  if accumulate == 1:
    return jax.grad(loss, has_aux=True)

  def part_of_mean(params, batch, codes, key, targets):
    mean, metrics = loss(params, batch, codes, key)
    return mean * metrics["targets"] / jnp.maximum(targets, 1.0), metrics

  def gradient(params, batch: Batch, codes, key) -> tuple[dict, Metrics]:
    targets = jnp.sum(batch.weight_BN)
    parts = sharding.split_rows(batch, accumulate, mesh)

    def add(total, numbered):
      number, part = numbered
      grads, metrics = jax.grad(part_of_mean, has_aux=True)(
        params, part, codes, jax.random.fold_in(key, number), targets
      )
      return jax.tree.map(jnp.add, total, grads), metrics

    total, metrics = jax.lax.scan(
      add,
      jax.tree.map(jnp.zeros_like, params),
      (jnp.arange(accumulate), parts),
    )
    return total, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)

  return gradient


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
  average_decay: float,
  dtype: Dtype = "float32",
  accumulate: int = 1,
  schedule: optax.Schedule | None = None,
) -> Any:
  """The jitted step(state, batch, codes) -> (state, metrics).

  Metrics are sums over targets, but for three norms, of the gradient before
  clipping, of the update and of the new parameters, and the learning rate.

  Args:
    objective: the model and its loss.
    optimizer: of `optimizer.make_optimizer`.
    mesh: where state and batch lie.
    seed: of everything random.
    average_decay: of the parameters' moving average.
    dtype: compute dtype.
    accumulate: parts that the rows of a batch are gone through in. The mean
      runs over the targets of all parts, however many each has. (Losses that
      compare the targets of a batch with each other see a part alone.)
    schedule: the optimizer's, for the metrics; None: they lack it.

  Returns:
    The step; it takes the state's memory for the new state (donation). Rows
    that the parts and devices cannot share raise UserError when it is traced.
  """
  gradient = _make_gradient(objective, dtype, accumulate, mesh)

  def train_step(state: TrainState, batch: Batch, codes: Codes):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      grads, metrics = gradient(state.params, batch, codes, key)
      updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params
      )
    params = optax.apply_updates(state.params, updates)
    # Early on, an average over the steps done so far, not over the start.
    decay = jnp.minimum(average_decay, state.step / (state.step + 10.0))
    state = TrainState(
      step=state.step + 1,
      params=params,
      average=optax.incremental_update(params, state.average, 1.0 - decay),
      opt_state=opt_state,
    )
    norms = {
      "gradient_norm": optax.tree.norm(grads),
      "update_norm": optax.tree.norm(updates),
      "parameter_norm": optax.tree.norm(params),
    }
    if schedule is not None:
      norms["learning_rate"] = jnp.asarray(schedule(state.step - 1))
    return state, metrics | norms

  whole, rows = sharding.replicated(mesh), sharding.by_row(mesh)
  states = state_shardings(objective, optimizer, mesh)
  return jax.jit(
    train_step,
    in_shardings=(states, rows, whole),
    out_shardings=(states, whole),
    donate_argnums=0,
  )
