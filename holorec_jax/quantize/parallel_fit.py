"""Fits the parallel quantizer (methods 3.1): REG4Rec's codes for every item.

As `fit` does for the nested quantizer: a short plain autoencoder, balanced
k-means of each expert's output, then AdamW on all losses in rounds of whole
epochs; after a round all items are encoded, which gives the curves, the early
stop and the unused codes to revive. Large catalogues by a sample, likewise.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax.errors import UserError
from holorec_jax.quantize import (
  collisions,
  fitted,
  kmeans,
  parallel,
  parallel_fitted,
  stream,
)
from holorec_jax.quantize import fit as nested_fit
from holorec_jax.quantize.parallel import ParallelConfig


@functools.partial(jax.jit, static_argnames="config")
def _experts(params, x_IW, config):
  """All experts' outputs (I, M, D)."""
  model = parallel.model(config, x_IW.shape[-1])
  return jax.lax.map(
    lambda x_W: model.apply({"params": params}, x_W, method="encode")[0],
    x_IW,
    batch_size=stream.CHUNK,
  )


def _losses(method: str | None) -> Any:
  """The module's losses in the form that `fit.train_epochs` takes."""

  def losses(params, x_BW, weight_RMV, config):
    model = parallel.model(config, x_BW.shape[-1])
    if method:
      return model.apply({"params": params}, x_BW, method=method)
    return model.apply({"params": params}, x_BW, weight_RMV[0])

  return losses


autoencoder_losses = _losses("autoencode")
quantizer_losses = _losses(None)


@functools.partial(jax.jit, static_argnames="config")
def revive(
  params: Any, x_SW: jax.Array, unused_MV: jax.Array, config: ParallelConfig
) -> jax.Array:
  """Moves unused codes to the items that their expert's codes fit worst.

  Returns:
    the codebooks (M, V, D).
  """
  experts_SMD = _experts(params, x_SW, config)
  books_MVD = params["codebooks"]
  vectors_SMD = parallel.quantize(experts_SMD, books_MVD).vectors_BMD
  worst_SM = jnp.argsort(-jnp.sum((experts_SMD - vectors_SMD) ** 2, -1), 0)
  # Each unused code of a codebook takes the next of its worst items.
  turn_MV = (jnp.cumsum(unused_MV, 1) - 1) % len(x_SW)
  item_MV = jnp.take_along_axis(worst_SM.T, turn_MV, 1)
  place_M1 = jnp.arange(len(books_MVD))[:, None]
  fresh_MVD = experts_SMD[item_MV, place_M1]
  return jnp.where(unused_MV[..., None], fresh_MVD, books_MVD)


def _start(x_IW, key, config, epochs, mesh):
  """Parameters after the autoencoder and k-means."""
  model = parallel.model(config, x_IW.shape[1])
  params = jax.jit(model.init)(key, x_IW[:1])["params"]
  state, _ = nested_fit.train_epochs(
    nested_fit.start_state(params, config),
    x_IW,
    jnp.ones(()),
    key,
    losses=autoencoder_losses,
    config=config,
    epochs=epochs,
    mesh=mesh,
  )
  experts_IMD = np.asarray(_experts(state.params, x_IW, config))
  books = [
    kmeans.balanced_kmeans(experts_IMD[:, m], config.codes, config.seed + m)[0]
    for m in range(config.codebooks)
  ]
  return {**state.params, "codebooks": jnp.asarray(np.stack(books))}


def fit(
  vectors_IW: np.ndarray,
  config: ParallelConfig,
  progress: bool = True,
  mesh: Mesh | None = None,
) -> parallel_fitted.FittedParallel:
  """Fits the quantizer and codes every item; the same seed, the same codes.

  Args:
    vectors_IW: as of `fit.fit`, and so are progress and mesh.
    config: the quantizer and its training.

  Raises:
    UserError: the vectors are not finite, or codes are more than items.
  """
  fitted.check_vectors(vectors_IW)
  if len(vectors_IW) < config.codes:
    raise UserError(
      f"{config.codes} codes per codebook are more than {len(vectors_IW)} "
      f"items can fill; lower codes to {max(1, len(vectors_IW) // 4)} or less."
    )
  mesh = stream.local_mesh() if mesh is None else mesh
  sample_SW = stream.sample(vectors_IW, config.fit_items, config.seed)
  steps = -(-len(sample_SW) // config.batch_size)
  warmup = -(-config.warmup_steps // steps)
  per_round = max(1, nested_fit.ROUND_STEPS // steps)
  rounds = -(-config.steps // (per_round * steps))
  with tqdm(
    total=warmup + rounds * per_round,
    desc="parallel quantizer",
    unit="epoch",
    disable=not progress,
  ) as bar:
    quantizer = _fit(sample_SW, config, bar, mesh, warmup, per_round, rounds)
  if len(sample_SW) == len(vectors_IW):
    return quantizer
  codes_IM, error = parallel_fitted.encode_codes(
    quantizer.params, vectors_IW, config, mesh, progress
  )
  return dataclasses.replace(
    quantizer, sids_IRL=codes_IM[:, None], reconstruction=error
  )


def _fit(vectors_IW, config, bar, mesh, warmup, per_round, rounds):
  """`fit`, epochs counted: `rounds` of `per_round` after `warmup`."""
  x_IW, sharers = nested_fit.place(vectors_IW, config, mesh)
  key = jax.random.key(config.seed)
  rng = np.random.default_rng(config.seed)
  params = _start(x_IW, key, config, warmup, sharers)
  state = nested_fit.start_state(params, config)
  bar.update(warmup)
  encoded = parallel_fitted.encode_items(
    state.params, vectors_IW, config, mesh=mesh
  )
  history: list[dict[str, float]] = []
  for index in range(rounds):
    use_RMV = nested_fit.usage(encoded.codes_IM[:, None], config.codes)
    if (use_RMV == 0).any():
      x_SW = x_IW[nested_fit.sample(rng, len(x_IW))]
      books_MVD = revive(state.params, x_SW, use_RMV[0] == 0, config)
      state = state._replace(params={**state.params, "codebooks": books_MVD})
    state, parts = nested_fit.train_epochs(
      state,
      x_IW,
      nested_fit.balance_weights(use_RMV, config.balance),
      jax.random.fold_in(key, index),
      losses=quantizer_losses,
      config=config,
      epochs=per_round,
      mesh=sharers,
    )
    encoded = parallel_fitted.encode_items(
      state.params, vectors_IW, config, mesh=mesh
    )
    rate = collisions.collision_rate(encoded.codes_IM)
    error = float(encoded.error_I.mean())
    history.append(
      {"epoch": (index + 1) * per_round, "collision_rate": rate}
      | {"reconstruction": error}
      | parallel_fitted.gate_report(encoded.gate_IM)
      | {f"loss_{name}": float(loss) for name, loss in parts.items()}
    )
    bar.update(per_round)
    bar.set_postfix(collisions=f"{rate:.2%}", error=f"{error:.3f}")
    if nested_fit.plateau(history, config.patience):
      break
  return parallel_fitted.FittedParallel(
    config,
    state.params,
    encoded.codes_IM[:, None],
    float(encoded.error_I.mean()),
    history,
  )
