"""S2GR's training losses (arXiv 2601.18664; methods 2.2).

  L       = CE(s) + align L_align + nce L_nce + reg L_reg
  L_align = mean_l CE(cos(t_l, centre_{l,k}) / tau over k), gold the cluster of
            the target's code; a centre is the mean embedding of its codes
  L_nce   = InfoNCE(v_g, mean_l E_l[target's code]) among the batch's targets
  L_reg   = 1 - cos(t_1, sg(v_g))

t_l are the thoughts, v_g the guide's summary (`models/guide.py`). All are means
over branches and, as CE(s), over levels. A collision level, which has no
clusters, is left out of both L_align and the mean of embeddings.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.codes import Codes
from holorec_jax.models.generator import Generator, LevelOutput
from holorec_jax.models.guide import GuidedGenerator
from holorec_jax.ranges import check_ranges
from holorec_jax.train.losses import (
  LossConfig,
  cross_entropy,
  generator_loss,
  is_best,
)
from holorec_jax.train.objective import Metrics, init_params
from holorec_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class S2grLossConfig:
  """Weights of the loss terms; see the module's docstring.

  Attributes:
    align: weight of L_align; 0 leaves thoughts without clusters to aim at.
    nce: weight of L_nce; 0: there is no guide, hence no L_reg either.
    reg: lambda, weight of L_reg.
    temperature: tau of both softmaxes over cosines.
    label_smoothing: mass spread over all codes of a level, in CE(s) only.
    clusters: K_c, clusters that the codes of a level form.
    guide_layers: depth of the guide.
  """

  align: float = 1.0
  nce: float = 1.0
  reg: float = 0.1
  temperature: float = 0.1
  label_smoothing: float = 0.0
  clusters: int = 16
  guide_layers: int = 2

  def __post_init__(self):
    check_ranges(
      self,
      "config.s2gr",
      align="[0, inf)",
      nce="[0, inf)",
      reg="[0, inf)",
      temperature="(0, inf)",
      label_smoothing="[0, 1)",
      clusters="[2, inf)",
      guide_layers="[1, inf)",
    )


def unit(x: jax.Array) -> jax.Array:
  """Of length one along the last axis, float32; zeros stay."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def cluster_centres(
  embedding_VD: jax.Array, cluster_V: np.ndarray
) -> jax.Array:
  """Directions of the clusters of a level, float32 (Q, D) of length one."""
  member_QV = np.arange(cluster_V.max() + 1)[:, None] == cluster_V
  share_QV = member_QV / member_QV.sum(axis=1, keepdims=True)
  return unit(
    jnp.asarray(share_QV, jnp.float32) @ embedding_VD.astype(jnp.float32)
  )


def cluster_logits(
  thought_BND: jax.Array,
  embedding_VD: jax.Array,
  cluster_V: np.ndarray,
  temperature: float,
) -> jax.Array:
  """cos(thought, centre) / tau for every cluster of a level, (B, N, Q)."""
  centre_QD = cluster_centres(embedding_VD, cluster_V)
  return unit(thought_BND) @ centre_QD.T / temperature


def info_nce(
  guide_BND: jax.Array,
  target_BND: jax.Array,
  codes_BNL: jax.Array,
  used_BN: jax.Array,
  temperature: float,
) -> jax.Array:
  """-log of the target's share among the targets of all branches in use.

  Targets of equal codes are no rivals. Memory grows with (B * N)^2.

  Args:
    guide_BND: v_g.
    target_BND: embeddings of the targets.
    codes_BNL: the targets' codes.
    used_BN: bool, branches whose targets are rivals of the others'.
    temperature: tau of the softmax over cosines.

  Returns:
    float32 loss of each branch (B, N).
  """
  flat = (-1, guide_BND.shape[-1])
  logits_XX = unit(guide_BND.reshape(flat)) @ unit(target_BND.reshape(flat)).T
  codes_XL = codes_BNL.reshape(-1, codes_BNL.shape[-1])
  equal_XX = jnp.all(codes_XL[:, None] == codes_XL[None], axis=-1)
  own_X = jnp.arange(len(codes_XL))
  rival_XX = used_BN.reshape(-1) & ~equal_XX
  loss_X = cross_entropy(
    logits_XX / temperature,
    own_X,
    valid_BNV=rival_XX | (own_X[:, None] == own_X),
  )
  return loss_X.reshape(used_BN.shape)


def thought_loss(
  outputs: list[LevelOutput],
  guide_BND: jax.Array | None,
  fine_BNL: jax.Array,
  weight_BN: jax.Array,
  code_embedding_LVD: jax.Array,
  cluster_LV: np.ndarray,
  config: S2grLossConfig,
) -> tuple[jax.Array, Metrics]:
  """What S2GR adds to CE(s), summed over branches.

  Args:
    outputs: one LevelOutput per level.
    guide_BND: v_g; None leaves L_nce and L_reg out.
    fine_BNL: identifying codes of the targets.
    weight_BN: 1 for branches in use.
    code_embedding_LVD: E.
    cluster_LV: cluster of each code, none empty; it may have fewer levels.
    config: weights.

  Returns:
    The summed loss, 0.0 where all weights are, and summed metrics: the terms
    and how often the cluster nearest to a thought is the target's.
  """
  levels = len(cluster_LV)
  parts, metrics = {}, {}

  def total(x_BN):
    return jnp.sum(x_BN * weight_BN)

  align_BN = jnp.zeros_like(weight_BN)
  for level, cluster_V in enumerate(cluster_LV):
    thought_BND = outputs[level].thought_BND
    if thought_BND is None:
      continue
    logits_BNQ = cluster_logits(
      thought_BND, code_embedding_LVD[level], cluster_V, config.temperature
    )
    gold_BN = jnp.asarray(cluster_V)[fine_BNL[..., level]]
    align_BN += cross_entropy(logits_BNQ, gold_BN)
    hit_BN = is_best(logits_BNQ, gold_BN)
    metrics[f"accuracy/cluster_{level}"] = total(hit_BN)
  if config.align:
    parts["align"] = config.align * total(align_BN) / levels
  if guide_BND is not None:
    codes_BNL = fine_BNL[..., :levels]
    embedded_BNLD = code_embedding_LVD[jnp.arange(levels), codes_BNL]
    nce_BN = info_nce(
      guide_BND,
      jnp.mean(embedded_BNLD, axis=-2),
      codes_BNL,
      weight_BN > 0,
      config.temperature,
    )
    parts["nce"] = config.nce * total(nce_BN)
    if config.reg and outputs[0].thought_BND is not None:
      cosine_BN = jnp.sum(
        unit(outputs[0].thought_BND) * unit(jax.lax.stop_gradient(guide_BND)),
        axis=-1,
      )
      parts["reg"] = config.reg * total(1.0 - cosine_BN)
  loss = sum(parts.values(), jnp.float32(0))
  return loss, metrics | {f"loss/{name}": x for name, x in parts.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class S2grObjective:
  """S2GR's losses on a generator that thinks.

  Attributes:
    model: the generator; what it trains with beside itself is not in it.
    config: weights of the terms.
    cluster_LV: clusters of the codes (`quantize/clusters.py`).
  """

  model: Generator
  config: S2grLossConfig
  cluster_LV: np.ndarray

  def init_params(self, seed: int) -> dict:
    """The generator's, and "guide" unless nce is 0."""
    return init_params(self._trained, seed)

  @property
  def _trained(self) -> Generator | GuidedGenerator:
    if not self.config.nce:
      return self.model
    return GuidedGenerator(self.model, self.config.guide_layers)

  def loss(
    self,
    params: dict,
    batch: Batch,
    codes: Codes,
    dropout_key: jax.Array | None,
  ) -> tuple[jax.Array, Metrics]:
    outputs: Any = self._trained.apply(
      {"params": params},
      batch,
      codes,
      deterministic=dropout_key is None,
      rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    outputs, guide_BND = outputs if self.config.nce else (outputs, None)
    fine_BNL = codes.fine_IL[batch.target_BN]
    packed_BNLX = None
    if codes.continuations_ILX is not None:
      packed_BNLX = codes.continuations_ILX[batch.target_BN]
    plain, metrics = generator_loss(
      outputs,
      fine_BNL,
      codes.sids_IRL[batch.target_BN],
      batch.weight_BN,
      params["code_embedding"],
      LossConfig(label_smoothing=self.config.label_smoothing),
      packed_BNLX,
    )
    added, thoughts = thought_loss(
      outputs,
      guide_BND,
      fine_BNL,
      batch.weight_BN,
      params["code_embedding"],
      self.cluster_LV,
      self.config,
    )
    metrics |= thoughts | {"loss": plain + added}
    return metrics["loss"] / jnp.maximum(metrics["targets"], 1.0), metrics
