"""The one jitted training step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.precision import Dtype, cast
from holorec_jax.train.objective import Objective
from holorec_jax.types import Batch, TrainState


def init_state(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  seed: int,
  mesh: Mesh,
) -> TrainState:
  """A fresh state, replicated over the mesh."""

  def create():
    params = objective.init_params(seed)
    return TrainState(
      step=jnp.int32(0),
      params=params,
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
    )

  return jax.jit(create, out_shardings=sharding.replicated(mesh))()


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  seed: int,
  average_decay: float,
  dtype: Dtype = "float32",
) -> Callable:
  """step(state, batch, codes) -> (state, summed metrics); state is donated."""

  def train_step(state: TrainState, batch: Batch, codes: Codes):
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss(params):
      return objective.loss(cast(params, dtype), batch, codes, key)

    grads, metrics = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Early on, an average over the steps done so far, not over the start.
    decay = jnp.minimum(average_decay, state.step / (state.step + 10.0))
    state = TrainState(
      step=state.step + 1,
      params=params,
      average=optax.incremental_update(params, state.average, 1.0 - decay),
      opt_state=opt_state,
    )
    return state, metrics | {"gradient_norm": optax.tree.norm(grads)}

  whole, rows = sharding.replicated(mesh), sharding.by_row(mesh)
  return jax.jit(
    train_step,
    in_shardings=(whole, rows, whole),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )
