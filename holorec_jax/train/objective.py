"""What a system minimises: parameters to start from, and a loss.

The loop trains any objective; the generator's is here, others lie beside it.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from holorec_jax.codes import Codes
from holorec_jax.models.generator import Generator
from holorec_jax.set_index import MAX_CODEBOOKS
from holorec_jax.train.losses import LossConfig, generator_loss
from holorec_jax.types import Batch

Metrics = dict[str, jax.Array]


class Objective(Protocol):
  """A model with its loss."""

  def init_params(self, seed: int) -> dict:
    """Float32 parameters; shapes depend on the model alone."""

  def loss(
    self,
    params: dict,
    batch: Batch,
    codes: Codes,
    dropout_key: jax.Array | None,
  ) -> tuple[jax.Array, Metrics]:
    """Mean loss per target and metrics summed over targets.

    Args:
      params: in the compute dtype.
      batch: histories and targets.
      codes: of the catalogue.
      dropout_key: of everything random; None: nothing is.

    Returns:
      The mean, and sums among which are "targets" and "loss".
    """


def init_params(model: Any, seed: int) -> dict:
  """Parameters of a model of (batch, codes); shapes depend on it alone."""
  return _init(model, jax.random.key(seed))


# Traced once a model, however often a run asks for shapes.
@functools.partial(jax.jit, static_argnames="model")
def _init(model: Any, key: jax.Array) -> dict:
  one = jnp.zeros((1, 1), jnp.int32)
  batch = Batch(one, one + 1, one, one, one.astype(jnp.float32))
  fine_IL = jnp.zeros((1, model.num_levels), jnp.int32)
  codes = Codes(
    sids_IRL=fine_IL[:, None],
    fine_IL=fine_IL,
    share_IL=fine_IL.astype(jnp.float32),
    share_IX=jnp.zeros((1, 1 << min(model.num_levels, MAX_CODEBOOKS))),
  )
  return model.init(key, batch, codes)["params"]


@dataclasses.dataclass(frozen=True)
class GeneratorObjective:
  """HoloRec's losses (`train/losses.py`) on the generator's levels.

  Attributes:
    model: the generator.
    config: weights of the terms.
  """

  model: Generator
  config: LossConfig

  def init_params(self, seed: int) -> dict:
    return init_params(self.model, seed)

  def loss(
    self,
    params: dict,
    batch: Batch,
    codes: Codes,
    dropout_key: jax.Array | None,
  ) -> tuple[jax.Array, Metrics]:
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    outputs: Any = self.model.apply(
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
      self.config,
      continuations_BNLX,
    )
    return loss / jnp.maximum(metrics["targets"], 1.0), metrics
