"""The one jitted training step, and the one dtype policy.

Parameters and optimiser state are float32. They are cast to the compute dtype
here and nowhere else; norms, softmaxes and losses stay float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.models.generator import Generator
from holorec_jax.train.losses import LossConfig, generator_loss
from holorec_jax.types import Batch, TrainState


def cast(params: dict, dtype: str) -> dict:
  """Parameters in the compute dtype."""
  return jax.tree.map(lambda p: p.astype(dtype), params)


def init_params(model: Generator, seed: int) -> dict:
  """Float32 parameters; shapes depend on the model alone."""
  one = jnp.zeros((1, 1), jnp.int32)
  batch = Batch(one, one + 1, one, one, one.astype(jnp.float32))
  fine_IL = jnp.zeros((1, model.num_levels), jnp.int32)
  codes = Codes(fine_IL[:, None], fine_IL, fine_IL.astype(jnp.float32))
  return model.init(jax.random.key(seed), batch, codes)["params"]


def init_state(
  model: Generator, optimizer: optax.GradientTransformation, seed: int, mesh
) -> TrainState:
  """A fresh state, replicated over the mesh."""

  def create():
    params = init_params(model, seed)
    return TrainState(
      step=jnp.int32(0),
      params=params,
      average=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.init(params),
    )

  return jax.jit(create, out_shardings=sharding.replicated(mesh))()


def batch_loss(
  params: dict,
  model: Generator,
  batch: Batch,
  codes: Codes,
  loss_config: LossConfig,
  dropout_key: jax.Array | None,
  dtype: str = "float32",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Mean loss per target and summed metrics; no dropout without a key."""
  rngs = None if dropout_key is None else {"dropout": dropout_key}
  params = cast(params, dtype)
  outputs: Any = model.apply(
    {"params": params},
    batch,
    codes,
    deterministic=dropout_key is None,
    rngs=rngs,
  )
  continuations_BNLX = None
  if codes.continuations_ILX is not None:
    continuations_BNLX = codes.continuations_ILX[batch.target_BN]
  loss, metrics = generator_loss(
    outputs,
    codes.fine_IL[batch.target_BN],
    codes.sids_IRL[batch.target_BN],
    batch.weight_BN,
    params["code_embedding"],
    loss_config,
    continuations_BNLX,
  )
  return loss / jnp.maximum(metrics["targets"], 1.0), metrics


def make_train_step(
  model: Generator,
  optimizer: optax.GradientTransformation,
  loss_config: LossConfig,
  mesh: Mesh,
  seed: int,
  average_decay: float,
  dtype: str = "float32",
) -> Callable:
  """step(state, batch, codes) -> (state, summed metrics); state is donated."""

  def train_step(state: TrainState, batch: Batch, codes: Codes):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    grads, metrics = jax.grad(batch_loss, has_aux=True)(
      state.params, model, batch, codes, loss_config, key, dtype
    )
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
