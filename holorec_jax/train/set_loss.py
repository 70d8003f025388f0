"""REG4Rec's supervised loss: every unused codebook predicts at every step.

Source: REG4Rec (arXiv 2508.15308); the design's methods 3.2. After the codes
chosen so far, the loss of a step is the cross-entropy of the codebook that
comes next, and w times that of every other one that has no code yet,

  L = 1 / (M + w M (M - 1) / 2) * sum over steps s of sum over unused r of
      (1 if r comes next else w) * CE(logits_r at s, the target's code of r)

The likelihood of an item, by which search ranks, is made of the former alone;
the latter make probabilities of different codebooks comparable, as the choice
of the order needs. With w = 1, their plain sum, they outweigh it. With
softmax="tree" probabilities are shared among the codes that continue the chosen
ones to an item of the catalogue, as the lattice of code sets says
(`set_index`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.codes import Codes
from holorec_jax.decode.set_space import device_lattice, needs
from holorec_jax.errors import UserError
from holorec_jax.models.set_generator import (
  Heads,
  Order,
  SetGenerator,
  SetStep,
  ValidFn,
)
from holorec_jax.ranges import check_ranges
from holorec_jax.set_index import SetIndex
from holorec_jax.train import objective
from holorec_jax.train.losses import cross_entropy, is_best
from holorec_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class SetLossConfig:
  """How the orders of training are chosen, and what counts how much.

  Attributes:
    random_order: share of targets whose codebooks come in a random order.
    fixed_order: codebook 0, 1, .. always instead of the most confident one
      (the ablation); random_order does not count then.
    waiting: w, weight of the codebooks whose turn it is not yet. On residual
      codes of Amazon Beauty in a fixed order validation NDCG@10 after one epoch
      of 18 was .0106 with 1 and .0154 with 0 (2,000 users, one seed).
    label_smoothing: mass spread over all codes of a codebook that probability
      is shared among.
    heads: of the generator: "cosine", as in the paper, or "linear".
  """

  random_order: float = 0.1
  fixed_order: bool = False
  waiting: float = 1.0
  label_smoothing: float = 0.0
  heads: Heads = "cosine"

  def __post_init__(self):
    check_ranges(
      self,
      "config.reg4rec",
      random_order="[0, 1]",
      waiting="[0, 1]",
      label_smoothing="[0, 1)",
    )

  @property
  def order(self) -> Order:
    """Of the codebooks, in training and search."""
    return "fixed" if self.fixed_order else "confident"


def set_loss(
  steps: list[SetStep],
  target_BNM: jax.Array,
  weight_BN: jax.Array,
  config: SetLossConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss and metrics of a batch, summed over branches.

  Args:
    steps: one SetStep per codebook.
    target_BNM: the targets' codes.
    weight_BN: 1 for branches in use.
    config: of the weights and the smoothing.

  Returns:
    The summed loss and summed metrics: "targets", "loss", "loss/codes";
    "log_prob" of the target along its order; for every step "accuracy/step_s"
    of the codebook that comes next; for every codebook "accuracy/codebook_r"
    without any code given and "first/codebook_r", how often it comes first.
  """
  M = len(steps)

  def total(x_BN):
    return jnp.sum(x_BN * weight_BN)

  loss = log_prob = jnp.float32(0)
  metrics = {"targets": jnp.sum(weight_BN)}
  for number, step in enumerate(steps):
    chosen_BN1 = step.codebook_BN[..., None]
    exact_BNM = loss_BNM = cross_entropy(step.logits_BNMV, target_BNM)
    if config.label_smoothing:
      loss_BNM = cross_entropy(
        step.logits_BNMV, target_BNM, config.label_smoothing, step.valid_BNMV
      )
    weight_BNM = jnp.where(jnp.arange(M) == chosen_BN1, 1.0, config.waiting)
    loss += total(jnp.sum(weight_BNM * loss_BNM, -1, where=step.unused_BNM))
    log_prob -= total(jnp.take_along_axis(exact_BNM, chosen_BN1, -1)[..., 0])
    hit_BNM = is_best(step.logits_BNMV, target_BNM)
    hit_BN = jnp.take_along_axis(hit_BNM, chosen_BN1, axis=-1)[..., 0]
    metrics[f"accuracy/step_{number}"] = total(hit_BN)
    if number == 0:
      for codebook in range(M):
        metrics[f"accuracy/codebook_{codebook}"] = total(hit_BNM[..., codebook])
        metrics[f"first/codebook_{codebook}"] = total(
          step.codebook_BN == codebook
        )
  loss /= M + config.waiting * M * (M - 1) / 2
  return loss, metrics | {
    "loss": loss,
    "loss/codes": loss,
    "log_prob": jax.lax.stop_gradient(log_prob),
  }


@dataclasses.dataclass(frozen=True)
class SetObjective:
  """The generator of code sets with its loss (see `train.objective`).

  Attributes:
    model: the generator.
    config: orders and smoothing.
    index: the lattice of the items' codes; needed with softmax="tree".
  """

  model: SetGenerator
  config: SetLossConfig
  index: SetIndex | None = None

  def __post_init__(self):
    if self.model.config.softmax == "tree" and self.index is None:
      raise UserError(
        'softmax="tree" shares probabilities among the codes of items: give'
        " SetObjective their index (`set_space.index_of(catalog)`)"
      )

  def init_params(self, seed: int) -> dict:
    """Float32 parameters; shapes depend on the model alone."""
    return objective.init_params(self.model, seed)

  def loss(
    self,
    params: dict,
    batch: Batch,
    codes: Codes,
    dropout_key: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss per target and summed metrics; without a key all confident."""
    rngs, random_order = None, 0.0
    if dropout_key is not None:
      rngs = {
        "dropout": dropout_key,
        "order": jax.random.fold_in(dropout_key, 1),
      }
      if not self.config.fixed_order:
        random_order = self.config.random_order
    steps: Any = self.model.apply(
      {"params": params},
      batch,
      codes,
      deterministic=dropout_key is None,
      order=self.config.order,
      random_order=random_order,
      valid=self.valid(batch.target_BN),
      rngs=rngs,
    )
    target_BNM = codes.fine_IL[batch.target_BN]
    loss, metrics = set_loss(steps, target_BNM, batch.weight_BN, self.config)
    return loss / jnp.maximum(metrics["targets"], 1.0), metrics

  def valid(self, target_BN: jax.Array) -> ValidFn | None:
    """What continues the targets' codes; None: all codes share."""
    if self.index is None or self.model.config.softmax == "level":
      return None
    # Codes alone: shares within leaves play no part.
    no_share_I = np.zeros(len(self.index.node_IX), np.float32)
    lattice = device_lattice(self.index, no_share_I, needs(self.index))

    def continuations(size: int, unused_BNM: jax.Array) -> jax.Array:
      bit_M = 1 << jnp.arange(unused_BNM.shape[-1])
      subset_BN = jnp.sum(jnp.where(unused_BNM, 0, bit_M), axis=-1)
      return lattice.valid(size, lattice.node_IX[target_BN, subset_BN])

    return continuations
