"""Fits the nested quantizer (methods 1.1).

Of a catalogue larger than `fit_items` all this sees a sample, and at the end
the frozen quantizer codes all items (`stream`).

1. A short plain autoencoder. Then its latent is turned to its principal axes,
   which the neighbouring linear layers absorb: a coarse granularity, a prefix
   of the latent, then sees what tells items apart most. Without it the coarse
   rows of the paper's losses are arbitrary directions: on Amazon Beauty an
   item decoded from 8 of 32 dims has error 1.07, and .74 with it.
2. Balanced k-means, level by level on the fine row's residuals of all items.
3. AdamW on all losses, in rounds of whole epochs under one jit each, data on
   the device. After a round all items are encoded: that gives the curves, the
   early stop, and the codes that some row leaves unused, which are revived.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.quantize import (
  collisions,
  fitted,
  kmeans,
  nested,
  residual,
  stream,
)
from holorec_jax.quantize.nested import NestedConfig

# Steps between two looks at all items.
ROUND_STEPS = 100
# A round must better collision rate + reconstruction by this share of the
# items' variance to count as progress.
PROGRESS = 1e-3
# Random items among which `revive` looks for the worst.
SAMPLE = 4096

Loss = Callable[[Any, jax.Array, jax.Array, NestedConfig], dict[str, jax.Array]]


class State(NamedTuple):
  """Parameters and the optimizer's state."""

  params: Any
  opt_state: Any


def autoencoder_losses(
  params: Any, x_BW: jax.Array, weight_RLV: jax.Array, config: NestedConfig
) -> dict[str, jax.Array]:
  """Reconstruction without codes."""
  del weight_RLV
  z_BD = nested.encode(params, x_BW, config)
  xhat_BW = nested.decode(params, z_BD, x_BW.shape[-1], config)
  return {"reconstruction": nested.mse(xhat_BW, x_BW)}


def quantizer_losses(
  params: Any, x_BW: jax.Array, weight_RLV: jax.Array, config: NestedConfig
) -> dict[str, jax.Array]:
  """The quantizer's losses; all have weight one."""
  model: Any = nested.NestedQuantizer(config)
  return model.apply({"params": params}, x_BW, weight_RLV)


def _optimizer(config: NestedConfig) -> optax.GradientTransformation:
  return optax.adamw(config.learning_rate, weight_decay=config.weight_decay)


def start_state(params: Any, config: NestedConfig) -> State:
  """Parameters with a fresh optimizer state."""
  return State(params, _optimizer(config).init(params))


def _steps_per_epoch(num_items: int, config: NestedConfig) -> int:
  return -(-num_items // config.batch_size)


def batch_size(num_items: int, config: Any) -> int:
  """Items of each of an epoch's equal batches."""
  return num_items // _steps_per_epoch(num_items, config)


def place(x_IW: np.ndarray, config: Any, mesh: Mesh) -> tuple[jax.Array, Mesh]:
  """All vectors on each device that shares the batches, and the mesh of these.

  Copies, since every device needs any rows next: of `fit_items` at most.
  """
  sharers = stream.training_mesh(batch_size(len(x_IW), config), mesh)
  return jax.device_put(x_IW, sharding.replicated(sharers)), sharers


@functools.partial(
  jax.jit,
  static_argnames=("losses", "config", "epochs", "mesh"),
  donate_argnums=0,
)
def train_epochs(
  state: State,
  x_IW: jax.Array,
  weight_RLV: jax.Array,
  key: jax.Array,
  *,
  losses: Loss,
  config: NestedConfig,
  epochs: int,
  mesh: Mesh | None = None,
) -> tuple[State, dict[str, jax.Array]]:
  """Whole epochs in equal batches; at most steps - 1 items sit one out.

  Args:
    state: parameters and optimizer state; donated.
    x_IW: all item vectors.
    weight_RLV: what `losses` takes.
    key: of the order of the items.
    losses: parameters, vectors, weights, config -> named losses, summed.
    config: the quantizer and its training.
    epochs: passes over the items.
    mesh: devices that hold x_IW and share each batch, by `place`; None: one.

  Returns:
    The new state and the last epoch's mean losses.
  """
  steps = _steps_per_epoch(len(x_IW), config)
  batch = batch_size(len(x_IW), config)
  optimizer = _optimizer(config)

  def step(state, index_B):
    x_BW = x_IW[index_B]
    if mesh is not None:
      x_BW = jax.lax.with_sharding_constraint(x_BW, sharding.by_row(mesh))

    def total(params):
      parts = losses(params, x_BW, weight_RLV, config)
      return sum(parts.values()), parts

    grads, parts = jax.grad(total, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state), parts

  def epoch(state, key):
    order_I = jax.random.permutation(key, len(x_IW))
    order_SB = order_I[: steps * batch].reshape(steps, batch)
    return jax.lax.scan(step, state, order_SB)

  state, parts = jax.lax.scan(epoch, state, jax.random.split(key, epochs))
  return state, jax.tree.map(lambda part_ES: jnp.mean(part_ES[-1]), parts)


@functools.partial(jax.jit, static_argnames="config")
def _latents(params, x_IW, config):
  return jax.lax.map(
    lambda x_W: nested.encode(params, x_W, config),
    x_IW,
    batch_size=stream.CHUNK,
  )


def to_principal_axes(
  encoder: dict[str, Any], decoder: dict[str, Any], z_ID: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Centres, rotates and scales the latent; decode(encode) stays.

  The latent's axes become uncorrelated, its variance one per dimension on
  average and falling from the first to the last. Only the encoder's last and
  the decoder's first layer change.
  """
  mean_D = z_ID.mean(0)
  covariance_DD = np.cov(z_ID.T).reshape(2 * mean_D.shape)
  variance_D, axes_DD = np.linalg.eigh(covariance_DD)
  scale = 1.0 / np.sqrt(max(float(variance_D.mean()), 1e-12))
  forth_DD = jnp.asarray(axes_DD[:, ::-1] * scale, jnp.float32)
  back_DD = jnp.asarray(axes_DD[:, ::-1].T / scale, jnp.float32)
  last = f"Dense_{len(encoder) - 1}"
  kernel, bias = encoder[last]["kernel"], encoder[last]["bias"]
  encoder = {
    **encoder,
    last: {"kernel": kernel @ forth_DD, "bias": (bias - mean_D) @ forth_DD},
  }
  kernel, bias = decoder["Dense_0"]["kernel"], decoder["Dense_0"]["bias"]
  first = {"kernel": back_DD @ kernel, "bias": bias + mean_D @ kernel}
  return encoder, {**decoder, "Dense_0": first}


def initial_codebooks(z_ID: np.ndarray, config: NestedConfig) -> jax.Array:
  """Balanced k-means, level by level on the fine row's residuals."""
  codebooks = []
  for level in range(config.levels):
    centres_VD, _ = kmeans.balanced_kmeans(
      z_ID, config.codes, config.seed + level
    )
    code_I = np.asarray(kmeans.assign(z_ID, centres_VD))
    z_ID = z_ID - centres_VD[code_I]
    codebooks.append(centres_VD)
  return jnp.asarray(np.stack(codebooks))


@functools.partial(jax.jit, static_argnames="config")
def revive(
  params: Any, x_SW: jax.Array, unused_RLV: jax.Array, config: NestedConfig
) -> jax.Array:
  """Moves the codes that a row leaves unused to where that row errs most.

  A code unused in row r becomes the residual of an item among the worst of
  x_SW in that row: the fine row's residual, with row r's own in the
  dimensions that row r sees.

  Returns:
    the codebooks (L, V, D).
  """
  z_SD = nested.encode(params, x_SW, config)
  rows = residual.rows(z_SD, params["codebooks"], config.dims)
  books = list(params["codebooks"])
  for row, unused_LV in zip(rows, unused_RLV):
    worst_S = jnp.argsort(-jnp.sum(row.residuals[-1] ** 2, -1))
    for level, unused_V in enumerate(unused_LV):
      # The levels take turns, so that no item is revived at two of them.
      turn_V = (jnp.cumsum(unused_V) - 1) * config.levels + level
      item_V = worst_S[turn_V % len(x_SW)]
      own_Vd = row.residuals[level][item_V]
      code_VD = rows[-1].residuals[level][item_V]
      code_VD = code_VD.at[:, : own_Vd.shape[-1]].set(own_Vd)
      books[level] = jnp.where(unused_V[:, None], code_VD, books[level])
  return jnp.stack(books)


def sample(rng: np.random.Generator, count: int) -> np.ndarray:
  """Of so many items those that `revive` looks at: all, or SAMPLE draws.

  Of few items draws would repeat the worst, and codes would be moved to it
  together.
  """
  if count <= SAMPLE:
    return np.arange(count)
  return rng.integers(count, size=SAMPLE)


def usage(sids_IRL: np.ndarray, num_codes: int) -> np.ndarray:
  """Items of each code; (R, L, V) int64."""
  _, rows, levels = sids_IRL.shape
  use_RLV = np.zeros((rows, levels, num_codes), np.int64)
  for r in range(rows):
    for level in range(levels):
      use_RLV[r, level] = np.bincount(
        sids_IRL[:, r, level], minlength=num_codes
      )
  return use_RLV


def balance_weights(use_RLV: np.ndarray, balance: float) -> jax.Array:
  """Factors on squared distances that make crowded codes look far.

  The load balance of S2GR's quantizer (methods 2.1); export uses none.
  """
  crowd_RLV = use_RLV / use_RLV.mean(-1, keepdims=True) - 1.0
  bound = 2.0 * balance
  return jnp.asarray(
    1.0 + np.clip(balance * crowd_RLV, -bound, bound), jnp.float32
  )


def _start(
  x_IW: jax.Array, key: jax.Array, config: NestedConfig, epochs: int, mesh: Mesh
):
  """Parameters after the autoencoder and k-means."""
  params = jax.jit(nested.NestedQuantizer(config).init)(key, x_IW[:1])["params"]
  params = {name: params[name] for name in ("encoder", "decoder")}
  state, _ = train_epochs(
    start_state(params, config),
    x_IW,
    jnp.ones(()),
    key,
    losses=autoencoder_losses,
    config=config,
    epochs=epochs,
    mesh=mesh,
  )
  encoder, decoder = to_principal_axes(
    **state.params, z_ID=np.asarray(_latents(state.params, x_IW, config))
  )
  params = {"encoder": encoder, "decoder": decoder}
  z_ID = np.asarray(_latents(params, x_IW, config))
  return {**params, "codebooks": initial_codebooks(z_ID, config)}


def plateau(history: list[dict[str, float]], patience: int) -> bool:
  """Whether the last `patience` rounds bettered nothing worth PROGRESS."""
  score = [look["collision_rate"] + look["reconstruction"] for look in history]
  if len(score) <= patience:
    return False
  return min(score[-patience:]) > min(score[:-patience]) - PROGRESS


def _check_fit(num_items: int, config: NestedConfig) -> None:
  if num_items < config.codes:
    raise UserError(
      f"{config.codes} codes per level are more than {num_items} items can "
      f"fill; lower codes to {max(1, num_items // 4)} or less."
    )


def fit(
  vectors_IW: np.ndarray,
  config: NestedConfig,
  progress: bool = True,
  mesh: Mesh | None = None,
) -> fitted.FittedQuantizer:
  """Fits the quantizer and codes every item; the same seed, the same codes.

  Args:
    vectors_IW: finite item vectors, standardised per column by the caller; a
      memory map will do.
    config: the quantizer and its training.
    progress: whether to show a progress bar on stderr.
    mesh: the devices; all of this process by default. Another mesh, another
      rounding, and nothing else.

  Raises:
    UserError: the vectors are not finite, or codes are more than items.
  """
  fitted.check_vectors(vectors_IW)
  _check_fit(len(vectors_IW), config)
  mesh = stream.local_mesh() if mesh is None else mesh
  sample_SW = stream.sample(vectors_IW, config.fit_items, config.seed)
  steps = _steps_per_epoch(len(sample_SW), config)
  warmup = -(-config.warmup_steps // steps)
  per_round = max(1, ROUND_STEPS // steps)
  rounds = -(-config.steps // (per_round * steps))
  with tqdm(
    total=warmup + rounds * per_round,
    desc="quantizer",
    unit="epoch",
    disable=not progress,
  ) as bar:
    quantizer = _fit(sample_SW, config, bar, mesh, warmup, per_round, rounds)
  if len(sample_SW) == len(vectors_IW):
    return quantizer
  sids_IRL, error = fitted.encode_items(
    quantizer.params, vectors_IW, config, mesh, progress
  )
  return dataclasses.replace(quantizer, sids_IRL=sids_IRL, reconstruction=error)


def _fit(vectors_IW, config, bar, mesh, warmup, per_round, rounds):
  """`fit` with epochs counted: `rounds` of `per_round` after `warmup`."""
  x_IW, sharers = place(vectors_IW, config, mesh)
  key = jax.random.key(config.seed)
  rng = np.random.default_rng(config.seed)
  params = _start(x_IW, key, config, warmup, sharers)
  bar.update(warmup)
  state = start_state(params, config)
  sids_IRL, error = fitted.encode_items(params, vectors_IW, config, mesh)
  history: list[dict[str, float]] = []
  for index in range(rounds):
    use_RLV = usage(sids_IRL, config.codes)
    if (use_RLV == 0).any():
      x_SW = x_IW[sample(rng, len(x_IW))]
      books_LVD = revive(state.params, x_SW, use_RLV == 0, config)
      state = state._replace(params={**state.params, "codebooks": books_LVD})
    state, parts = train_epochs(
      state,
      x_IW,
      balance_weights(use_RLV, config.balance),
      jax.random.fold_in(key, index),
      losses=quantizer_losses,
      config=config,
      epochs=per_round,
      mesh=sharers,
    )
    sids_IRL, error = fitted.encode_items(
      state.params, vectors_IW, config, mesh
    )
    rate = collisions.collision_rate(sids_IRL[:, -1])
    history.append(
      {"epoch": (index + 1) * per_round, "collision_rate": rate}
      | {"reconstruction": error}
      | {f"loss_{name}": float(loss) for name, loss in parts.items()}
    )
    bar.update(per_round)
    bar.set_postfix(collisions=f"{rate:.2%}", error=f"{error:.3f}")
    if plateau(history, config.patience):
      break
  return fitted.FittedQuantizer(config, state.params, sids_IRL, error, history)
