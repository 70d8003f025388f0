"""A fitted parallel quantizer: parameters, codes, gate and its files."""

import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from holorec_jax.quantize import collisions, fitted, parallel, stream
from holorec_jax.quantize.parallel import ParallelConfig

KIND = "parallel"


class Encoded(NamedTuple):
  """What the quantizer says of items.

  Attributes:
    codes_IM: int32 code of each codebook.
    gate_IM: the router's weights.
    error_I: mean squared error of each item's decoding.
  """

  codes_IM: Any
  gate_IM: Any
  error_I: Any


@functools.partial(jax.jit, static_argnames="config")
def encode_block(
  params: Any,
  x_BW: jax.Array,
  gate_M: np.ndarray | None,
  config: ParallelConfig,
) -> Encoded:
  """The program that codes items, decoded with gate_M where it is given."""
  model = parallel.model(config, x_BW.shape[-1])
  experts_BMD, gate_BM = model.apply({"params": params}, x_BW, method="encode")
  codes_BM, vectors_BMD = parallel.quantize(experts_BMD, params["codebooks"])
  used_BM = gate_BM
  if gate_M is not None:
    used_BM = jnp.broadcast_to(gate_M, gate_BM.shape)
  xhat_BW = model.apply(
    {"params": params}, parallel.mix(used_BM, vectors_BMD), method="decode"
  )
  error_B = jnp.mean((xhat_BW - x_BW) ** 2, -1)
  return Encoded(codes_BM, gate_BM, error_B)


@functools.partial(jax.jit, static_argnames="config")
def gaps_block(
  params: Any, x_BW: jax.Array, config: ParallelConfig
) -> jax.Array:
  """Squared distances (B, M, V) of experts' outputs to all their codes."""
  model = parallel.model(config, x_BW.shape[-1])
  experts_BMD, _ = model.apply({"params": params}, x_BW, method="encode")
  inner_BMV = jnp.einsum("bmd,mvd->bmv", experts_BMD, params["codebooks"])
  size_MV = jnp.sum(params["codebooks"] ** 2, axis=-1)
  return jnp.sum(experts_BMD**2, -1, keepdims=True) - 2 * inner_BMV + size_MV


def encode_items(
  params: Any,
  vectors_IW: np.ndarray,
  config: ParallelConfig,
  gate_M: np.ndarray | None = None,
  mesh: Mesh | None = None,
) -> Encoded:
  """Quantizes items.

  Args:
    params: of the `ParallelQuantizer`.
    vectors_IW: item vectors.
    config: the quantizer.
    gate_M: decode every item with this gate instead of its own, which tells
      the decoder of x what no code says.
    mesh: as of `stream.encode`.
  """
  program = functools.partial(encode_block, gate_M=gate_M, config=config)
  return Encoded(
    *stream.encode(program, params, vectors_IW, lambda block: block, mesh)
  )


def encode_codes(
  params: Any,
  vectors_IW: np.ndarray,
  config: ParallelConfig,
  mesh: Mesh | None = None,
  progress: bool = False,
) -> tuple[np.ndarray, float]:
  """Codes (I, M) and the mean error alone, which is little of an `Encoded`."""
  codes_IM, error_I = stream.encode(
    functools.partial(encode_block, gate_M=None, config=config),
    params,
    vectors_IW,
    lambda block: (block.codes_IM, block.error_I),
    mesh,
    progress,
  )
  return codes_IM, float(error_I.mean())


def gate_report(gate_IM: np.ndarray) -> dict[str, float]:
  """How the router is used.

  Returns:
    gate_least and gate_most, the smallest and the largest share of an expert
    over all items; gate_entropy, of an item's gate on average in bits, log2(M)
    at most.
  """
  share_M = gate_IM.mean(0)
  bits_IM = -gate_IM * np.log2(np.maximum(gate_IM, 1e-12))
  return {
    "gate_least": float(share_M.min()),
    "gate_most": float(share_M.max()),
    "gate_entropy": float(bits_IM.sum(1).mean()),
  }


@dataclasses.dataclass(frozen=True)
class FittedParallel:
  """What `parallel_fit.fit` returns; one of `quantizers.Fitted`.

  Attributes:
    config: how it was fitted.
    params: weights of experts, router and decoder, codebooks (M, V, D).
    sids_IRL: int32 codes of the fitted items, one granularity (R = 1) and a
      codebook per level (L = M); collisions not handled.
    reconstruction: mean squared error of the items decoded from their codes
      and their own gate.
    history: one dict of losses, health and `gate_report` per round of training.
  """

  config: ParallelConfig
  params: Any
  sids_IRL: np.ndarray
  reconstruction: float
  history: list[dict[str, float]]

  @property
  def codebooks_LVD(self) -> np.ndarray:
    """Code vectors."""
    return np.asarray(self.params["codebooks"])

  @property
  def dims(self) -> tuple[int, ...]:
    """Width of the codes, of the only granularity."""
    return (self.config.code_dim,)

  def describe(self, vectors_NW: np.ndarray) -> Encoded:
    """Codes, gate and decoding error of any items."""
    self._check_width(vectors_NW)
    return encode_items(self.params, vectors_NW, self.config)

  def encode(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, 1, M) of any items, new ones too, by the frozen quantizer."""
    self._check_width(vectors_NW)
    return encode_codes(self.params, vectors_NW, self.config)[0][:, None]

  def reassign(
    self, codes_NM: np.ndarray, vectors_NW: np.ndarray
  ) -> np.ndarray:
    """Distinct codes of any items (`collisions.spread`)."""
    self._check_width(vectors_NW)
    program = functools.partial(gaps_block, config=self.config)

    def gaps(items_S: np.ndarray) -> np.ndarray:
      rows_SW = vectors_NW[items_S]
      return stream.encode(program, self.params, rows_SW, lambda gap: (gap,))[0]

    return collisions.spread(codes_NM, gaps)

  def _check_width(self, vectors_NW):
    fitted.check_width(vectors_NW, len(self.params["router"]["kernel"]))

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes quantizer.npz and quantizer.json into an existing folder."""
    fitted.write_files(folder, KIND, self)


def load(folder: str | os.PathLike[str]) -> FittedParallel:
  """Reads what `FittedParallel.save` wrote; UserError as `fitted.load`."""
  return FittedParallel(**fitted.read_files(folder, KIND, ParallelConfig))
