"""HoloRec's training losses (methods 1.2).

  L_NT = CE(f) + sum_{r < fine} lambda_r CE(c^r)
  L_T  = CE(f) + lambda_c CE(c^0) + lambda_a mean ||c~_l - E_l[c*_l]||^2

Means run over the branches in use, over levels and, in the last term, over the
embedding's dimensions. A collision level that only the identifying codes have
carries no coarse supervision.
"""

import dataclasses

import jax
import jax.numpy as jnp

from holorec_jax.models.generator import LevelOutput
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Weights of the loss terms.

  Attributes:
    align: lambda_r of the non-thinking mode's alignment heads.
    thought: weight of the thought's coarse cross-entropy.
    thought_match: lambda_a, pulling a thought to its code's embedding.
    label_smoothing: mass spread over all codes of a level, fine codes only.
  """

  align: float = 0.5
  thought: float = 0.5
  thought_match: float = 10.0
  label_smoothing: float = 0.0

  def __post_init__(self):
    check_ranges(
      self,
      "config.loss",
      align="[0, inf)",
      thought="[0, inf)",
      thought_match="[0, inf)",
      label_smoothing="[0, 1)",
    )


# Logit of a code that no item continues with.
INVALID = -1e9


def unpack_bits(packed_BNX: jax.Array, num_codes: int) -> jax.Array:
  """Little-endian bits (..., ceil(V / 8)) uint8 -> (..., V) bool."""
  bits = (packed_BNX[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
  flat = bits.reshape(*packed_BNX.shape[:-1], -1)
  return flat[..., :num_codes].astype(bool)


def cross_entropy(
  logits_BNV: jax.Array,
  code_BN: jax.Array,
  smoothing: float = 0.0,
  valid_BNV: jax.Array | None = None,
) -> jax.Array:
  """Cross-entropy per branch (B, N), float32, over the valid codes if given."""
  share_BNV = jnp.full_like(logits_BNV, 1.0 / logits_BNV.shape[-1])
  if valid_BNV is not None:
    share_BNV = valid_BNV / jnp.sum(valid_BNV, axis=-1, keepdims=True)
    logits_BNV = jnp.where(valid_BNV, logits_BNV, INVALID)
  log_norm_BN = jax.nn.logsumexp(logits_BNV, axis=-1)
  gold_BN = jnp.take_along_axis(logits_BNV, code_BN[..., None], axis=-1)[..., 0]
  loss_BN = log_norm_BN - gold_BN
  if smoothing:
    uniform_BN = log_norm_BN - jnp.sum(share_BNV * logits_BNV, axis=-1)
    loss_BN = (1.0 - smoothing) * loss_BN + smoothing * uniform_BN
  return loss_BN


def is_best(logits_BNV: jax.Array, code_BN: jax.Array) -> jax.Array:
  """Whether no other code's logit is greater, bool (B, N).

  By the greatest value, which a CPU finds much sooner than its place.
  """
  own_BN = jnp.take_along_axis(logits_BNV, code_BN[..., None], axis=-1)[..., 0]
  return own_BN >= jnp.max(logits_BNV, axis=-1)


def generator_loss(
  outputs: list[LevelOutput],
  fine_BNL: jax.Array,
  sids_BNRL: jax.Array,
  weight_BN: jax.Array,
  code_embedding_LVD: jax.Array,
  config: LossConfig,
  continuations_BNLX: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss and metrics of a batch, summed over branches.

  Sums, not means: the caller divides by the number of targets, which may be
  spread over devices or micro-batches.

  Args:
    outputs: one LevelOutput per level.
    fine_BNL: identifying codes of the targets.
    sids_BNRL: the targets' codes of every granularity, coarse to fine.
    weight_BN: 1 for branches in use.
    code_embedding_LVD: E, compared with thoughts.
    config: weights.
    continuations_BNLX: packed bits of the codes that may come at each level of
      the targets (`tree.continuations`); None shares among all codes.

  Returns:
    The summed loss and a dict of summed metrics, "targets" among them.
  """
  levels = len(outputs)
  supervised = sids_BNRL.shape[-1]

  def total(x_BN):
    return jnp.sum(x_BN * weight_BN)

  parts: dict[str, jax.Array] = {}

  def add(name, value):
    parts[name] = parts.get(name, jnp.float32(0)) + value

  metrics = {"targets": jnp.sum(weight_BN)}
  right_BN = jnp.ones(weight_BN.shape, bool)
  for level, output in enumerate(outputs):
    gold_BN = fine_BNL[..., level]
    fine_BNV, valid_BNV = output.fine_BNV, None
    if continuations_BNLX is not None:
      valid_BNV = unpack_bits(
        continuations_BNLX[:, :, level], fine_BNV.shape[-1]
      )
      fine_BNV = jnp.where(valid_BNV, fine_BNV, INVALID)
    fine = cross_entropy(
      output.fine_BNV, gold_BN, config.label_smoothing, valid_BNV
    )
    add("fine", total(fine) / levels)
    hit_BN = is_best(fine_BNV, gold_BN)
    metrics[f"accuracy/level_{level}"] = total(hit_BN)
    right_BN &= hit_BN
    metrics[f"accuracy/prefix_{level}"] = total(right_BN)
    if level >= supervised:
      continue
    coarse_BN = sids_BNRL[:, :, 0, level]
    if output.coarse_BNV is not None:
      loss_BN = cross_entropy(output.coarse_BNV, coarse_BN)
      add("thought", config.thought * total(loss_BN) / supervised)
      assert output.thought_BND is not None  # comes with the coarse logits
      gap_BND = output.thought_BND - code_embedding_LVD[level][coarse_BN]
      gap_BN = jnp.mean(jnp.square(gap_BND.astype(jnp.float32)), axis=-1)
      add("match", config.thought_match * total(gap_BN) / supervised)
      hit_BN = is_best(output.coarse_BNV, coarse_BN)
      metrics[f"accuracy/thought_{level}"] = total(hit_BN)
    if output.align_RBNV is not None:
      for row, logits_BNV in enumerate(output.align_RBNV):
        loss_BN = cross_entropy(logits_BNV, sids_BNRL[:, :, row, level])
        add("align", config.align * total(loss_BN) / supervised)
  loss = jnp.stack(list(parts.values())).sum()
  metrics |= {f"loss/{name}": value for name, value in parts.items()}
  return loss, metrics | {"loss": loss}
