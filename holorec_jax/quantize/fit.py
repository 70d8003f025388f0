"""Fits the nested quantizer: whole epochs under jit, data on the device."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from holorec_jax.quantize import residual
from holorec_jax.quantize.nested import Mlp, NestedConfig, NestedQuantizer


@dataclasses.dataclass(frozen=True)
class FittedQuantizer:
  config: NestedConfig
  params: Any
  sids_IRL: np.ndarray
  history: list[dict[str, float]]

  @property
  def codebooks_LVd(self):
    return np.asarray(self.params["codebooks"])

  def encode(self, vectors_ID: np.ndarray) -> np.ndarray:
    return encode(self.params, vectors_ID, self.config)


@functools.partial(jax.jit, static_argnames="config")
def _encode(params, x_BD, config):
  z = Mlp((*config.hidden, config.dims[-1])).apply(
    {"params": params["encoder"]}, x_BD
  )
  rows = residual.rows(z, params["codebooks"], config.dims)
  return jnp.stack([r.codes_BL for r in rows], 1)


def encode(params, vectors_ID, config, chunk=1024):
  out = []
  for i in range(0, len(vectors_ID), chunk):
    x = np.asarray(vectors_ID[i : i + chunk], np.float32)
    pad = np.zeros((chunk - len(x), x.shape[1]), np.float32)
    out.append(
      np.asarray(_encode(params, np.concatenate([x, pad]), config))[: len(x)]
    )
  return np.concatenate(out)


def fit(
  vectors_ID: np.ndarray, config: NestedConfig, progress: bool = True
) -> FittedQuantizer:
  """Codes for every item; see FittedQuantizer."""
  x_ID = jnp.asarray(vectors_ID, jnp.float32)
  model = NestedQuantizer(config, x_ID.shape[1])
  key = jax.random.key(config.seed)
  batch = min(config.batch_size, len(x_ID))
  params = jax.jit(model.init)(key, x_ID[:batch])["params"]
  tx = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

  @functools.partial(jax.jit, donate_argnums=0)
  def epoch(state, x_ID, key):
    order = jax.random.permutation(key, x_ID.shape[0])
    order = order[: len(order) // batch * batch].reshape(-1, batch)

    def step(state, index_B):
      params, opt = state

      def loss(p):
        losses, _ = model.apply({"params": p}, x_ID[index_B])
        return sum(losses.values()), losses

      grads, losses = jax.grad(loss, has_aux=True)(params)
      updates, opt = tx.update(grads, opt, params)
      return (optax.apply_updates(params, updates), opt), losses

    return jax.lax.scan(step, state, order)

  state = (params, jax.jit(tx.init)(params))
  epochs = -(-config.steps // (len(x_ID) // batch))
  history = []
  bar = tqdm(range(epochs), disable=not progress, desc="quantizer")
  for e in bar:
    state, losses = epoch(state, x_ID, jax.random.fold_in(key, e))
    history.append({k: float(v[-1]) for k, v in losses.items()})
    bar.set_postfix(history[-1])
  sids = encode(state[0], vectors_ID, config)
  return FittedQuantizer(config, state[0], sids, history)
