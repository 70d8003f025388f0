"""REG4Rec's parallel quantizer: a mixture of expert codebooks (methods 3.1).

M experts read the same item vector, and each names it by the nearest code of
its own codebook; a dense router weighs the codes and one decoder rebuilds the
vector from their sum (REG4Rec, arXiv 2508.15308):

  e_r = E_r(x);  c_r = argmin_v |e_r - z_rv|^2;  h(x) = softmax(W x)
  q = sum_r h_r(x) z_{r, c_r};  L = |Dec(q) - x|^2 + VQ + w_o L_orth
                                    + w_r L_redundancy + w_g L_gate
  L_orth = mean over pairs of experts of (mean over items of cos(e_r, e_s))^2

The codes of an item are a set of (codebook, code) pairs without an order. In
this module M counts codebooks, which are experts. Two losses are ours:

L_gate = M sum_r (mean over items of h_r)^2 - 1, the squared coefficient of
variation of the experts' shares, keeps the router from closing experts.

L_redundancy = mean over pairs |C_rs|^2 / (|C_rr| |C_ss|), C_rs the covariance
of two experts' outputs (linear CKA, arXiv 1905.00414), makes experts tell
different things, which L_orth does not: experts orthogonal on average may
cluster the items alike. But a code is worth to the generator what it tells of
the next item's, and of four uncorrelated experts each has directions that tell
little. On Amazon Beauty, weight w_r:

  w_r                                            0          .2         6
  nats a code tells of the next item's         .59-.70   .30-.48   .25-.38
  items that share all codes with another        47 %      21 %       8 %

So REG4Rec's configs set 0, and move items of equal codes to free codes nearby
(`collisions.spread`): see `configs/systems.py`.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from holorec_jax.errors import UserError
from holorec_jax.quantize import nested, residual
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
  """The quantizer and its training.

  Attributes:
    codebooks: M, experts with a codebook each; the length of an item's codes.
    codes: V, codes per codebook.
    code_dim: width of a code vector.
    hidden: widths of every expert between item vector and code; the decoder
      mirrors them.
    orthogonality: weight of L_orth, which turns the experts apart.
    redundancy: weight of L_redundancy: the more, the fewer items collide, and
      the less each single code tells. REG4Rec's configs set 0.
    gate_balance: weight of L_gate, which keeps all experts in use.
    commitment: weight that pulls an expert to its codes.
    balance: pressure on crowded codes in training: a code used n times the
      mean looks 1 + balance (n - 1) times as far, clipped to 1 +- 2 balance,
      which has to stay positive.
    fit_items: items that the fit looks at. A larger catalogue is fitted on a
      sample of so many, at best a multiple of batch_size, and then coded.
    batch_size: items per step.
    learning_rate: AdamW's, constant.
    weight_decay: AdamW's.
    warmup_steps: steps of the plain autoencoder before the codebooks start.
    steps: steps with codebooks, at most. On Amazon Beauty, redundancy 6, more
      of them lower the error and raise collisions: .53 and 4.6 % at 600, .49
      and 5.6 % at 1200.
    patience: stop after so many rounds (of about `fit.ROUND_STEPS` steps)
      without progress in collision rate + reconstruction.
    seed: of initial weights, batches and clusters.
  """

  codebooks: int = 4
  codes: int = 256
  code_dim: int = 64
  hidden: tuple[int, ...] = (256, 128)
  orthogonality: float = 0.1
  redundancy: float = 6.0
  gate_balance: float = 0.1
  commitment: float = 0.25
  balance: float = 0.2
  fit_items: int = 262_144
  batch_size: int = 1024
  learning_rate: float = 1e-3
  weight_decay: float = 1e-4
  warmup_steps: int = 300
  steps: int = 600
  patience: int = 5
  seed: int = 0

  def __post_init__(self):
    check_ranges(
      self,
      "config.sid.parallel",
      codebooks="[1, inf)",
      codes="[1, inf)",
      code_dim="[1, inf)",
      orthogonality="[0, inf)",
      redundancy="[0, inf)",
      gate_balance="[0, inf)",
      commitment="[0, inf)",
      balance="[0, 0.5)",
      fit_items=f"[{self.codes}, inf)",
      batch_size="[1, inf)",
      learning_rate="(0, inf)",
      weight_decay="[0, inf)",
      warmup_steps="[1, inf)",
      steps="[1, inf)",
      patience="[1, inf)",
      seed="[0, inf)",
    )
    if any(width < 1 for width in self.hidden):
      raise UserError(
        f"config.sid.parallel.hidden is {self.hidden}; expected widths of at"
        " least 1."
      )


class Quantized(NamedTuple):
  """What the codebooks make of the experts' outputs.

  Attributes:
    codes_BM: int32 code of each codebook.
    vectors_BMD: the chosen codes' vectors.
  """

  codes_BM: jax.Array
  vectors_BMD: jax.Array


def quantize(
  experts_BMD: jax.Array,
  codebooks_MVD: jax.Array,
  weight_MV: jax.Array | None = None,
) -> Quantized:
  """Every expert's nearest code; gradients reach the codebooks alone."""
  codes, vectors = [], []
  for m, codes_VD in enumerate(codebooks_MVD):
    code_B = residual.nearest(
      jax.lax.stop_gradient(experts_BMD[:, m]),
      jax.lax.stop_gradient(codes_VD),
      weight_V=None if weight_MV is None else weight_MV[m],
    )
    codes.append(code_B)
    vectors.append(codes_VD[code_B])
  return Quantized(jnp.stack(codes, 1), jnp.stack(vectors, 1))


def mix(gate_BM: jax.Array, vectors_BMD: jax.Array) -> jax.Array:
  """q, the gated sum of one vector per codebook; (B, D)."""
  return jnp.einsum("bm,bmd->bd", gate_BM, vectors_BMD)


def _pairs_mean(x_MM: jax.Array) -> jax.Array:
  """Mean over the pairs of different experts; 0 for a single expert."""
  return jnp.sum(jnp.triu(x_MM, 1)) / max(1, math.comb(len(x_MM), 2))


def orthogonality_loss(experts_BMD: jax.Array) -> jax.Array:
  """L_orth: whether experts point the same way, on average over items."""
  norm_BM1 = jnp.sqrt(jnp.sum(experts_BMD**2, -1, keepdims=True) + 1e-12)
  unit_BMD = experts_BMD / norm_BM1
  cosine_MM = jnp.einsum("bmd,bnd->mn", unit_BMD, unit_BMD) / len(experts_BMD)
  return _pairs_mean(cosine_MM**2)


def redundancy_loss(experts_BMD: jax.Array) -> jax.Array:
  """L_redundancy: 0 for uncorrelated experts, 1 for equal up to rotation."""
  items, experts, width = experts_BMD.shape
  centred_BX = (experts_BMD - experts_BMD.mean(0)).reshape(items, -1)
  # One large product: CPUs are slow at many small ones.
  covariance_XX = centred_BX.T @ centred_BX / items
  size_MM = jnp.sum(
    covariance_XX.reshape(experts, width, experts, width) ** 2, (1, 3)
  )
  own_M = jnp.sqrt(jnp.diagonal(size_MM) + 1e-12)
  return _pairs_mean(size_MM / (own_M[:, None] * own_M))


def gate_loss(gate_BM: jax.Array) -> jax.Array:
  """L_gate: 0 when all experts have equal shares, M - 1 when one has all."""
  share_M = jnp.mean(gate_BM, 0)
  return len(share_M) * jnp.sum(share_M**2) - 1.0


class ParallelQuantizer(nn.Module):
  """Item vectors (B, W) -> losses.

  Attributes:
    config: the quantizer.
    width: W.
  """

  config: ParallelConfig
  width: int

  def setup(self):
    config = self.config
    self.experts = [
      nested.Mlp((*config.hidden, config.code_dim))
      for _ in range(config.codebooks)
    ]
    self.router = nn.Dense(config.codebooks, use_bias=False)
    self.decoder = nested.Mlp((*config.hidden[::-1], self.width))
    self.codebooks_MVD = self.param(
      "codebooks",
      nn.initializers.normal(0.1),
      (config.codebooks, config.codes, config.code_dim),
    )

  def encode(self, x_BW: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Item vectors (.., W) -> experts' (.., M, D) and the gate (.., M)."""
    experts_BMD = jnp.stack([expert(x_BW) for expert in self.experts], -2)
    return experts_BMD, nn.softmax(self.router(x_BW))

  def decode(self, q_BD: jax.Array) -> jax.Array:
    """Mixed codes -> item vectors (B, W)."""
    return self.decoder(q_BD)

  def autoencode(self, x_BW: jax.Array) -> dict[str, jax.Array]:
    """Losses without codes: experts learn what to say before they spell it."""
    experts_BMD, gate_BM = self.encode(x_BW)
    return self._losses(x_BW, experts_BMD, experts_BMD, gate_BM)

  def __call__(
    self, x_BW: jax.Array, weight_MV: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """Losses by name, weighted; weight_MV are factors on squared distances."""
    experts_BMD, gate_BM = self.encode(x_BW)
    vectors_BMD = quantize(experts_BMD, self.codebooks_MVD, weight_MV)[1]
    through_BMD = nested.straight_through(experts_BMD, vectors_BMD)
    losses = self._losses(x_BW, through_BMD, experts_BMD, gate_BM)
    mu = self.config.commitment
    return losses | {"quantization": nested.pull(experts_BMD, vectors_BMD, mu)}

  def _losses(self, x_BW, mixed_BMD, experts_BMD, gate_BM):
    config = self.config
    xhat_BW = self.decode(mix(gate_BM, mixed_BMD))
    return {
      "reconstruction": nested.mse(xhat_BW, x_BW),
      "orthogonality": config.orthogonality * orthogonality_loss(experts_BMD),
      "redundancy": config.redundancy * redundancy_loss(experts_BMD),
      "gate": config.gate_balance * gate_loss(gate_BM),
    }


def model(config: ParallelConfig, width: int) -> Any:
  """The module for item vectors of a width; its `apply` takes methods."""
  return ParallelQuantizer(config, width)
