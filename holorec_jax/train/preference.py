"""Preference alignment by GRPO: paths to learn from, and the loss.

REG4Rec (arXiv 2508.15308; the design's methods 3.3) aligns a generator that
was trained supervised: G paths a user are drawn, rewarded against the items
that came next (PARS, MSRA: `train/rewards.py`), and made more probable the
better they are than the user's other paths. The policy gradient is GRPO's
(arXiv 2402.03300, equation 3), per step of a path,

  L = mean(-min(rho A, clip(rho) A) + w_kl KL(policy || SFT)) + w_sft L_SFT

Paths are drawn in rounds: of a policy that stays as it was when the round
began, however often the round's paths are then trained on. A round of one
batch and one update is on-policy; longer ones are the paper's offline mode.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.codes import Codes
from holorec_jax.errors import UserError
from holorec_jax.precision import Dtype, cast
from holorec_jax.ranges import check_ranges
from holorec_jax.train import rewards
from holorec_jax.train.objective import Objective
from holorec_jax.train.preference_rewards import RewardTables, path_rewards
from holorec_jax.train.preference_sampling import Paths, Policy
from holorec_jax.train.rewards import RewardConfig
from holorec_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
  """Preference alignment of a trained system.

  Attributes:
    mode: "on_policy", where every update draws paths of its own, or "offline",
      where a frozen policy draws them once per round.
    steps: updates in all.
    rounds: offline, times that paths are drawn; divides steps.
    passes: offline, updates on each path; divides the updates of a round.
    users: histories of an update; rounded up to whole rows on every device.
    group: G, paths of a history.
    temperature: of the logits that paths are drawn from.
    learning_rate: peak; the rest of the optimiser is as in training, but
      nothing is accumulated.
    warmup_share: share of all steps with linear warm-up.
    clip: how far the probability of a step may move from what it was when its
      path was drawn, as a ratio.
    kl: weight of the divergence from the supervised model.
    sft: weight of the supervised loss of the same histories.
    reward: weights of the rewards, and the window of MSRA.
    validate_every: steps between validations, each of a checkpoint; rounded up
      to whole rounds.
    patience: validations without a better NDCG@10 before alignment stops.
    log_every: steps between lines in metrics.jsonl.
    seed: of histories, paths and dropout.
  """

  mode: Literal["on_policy", "offline"] = "on_policy"
  steps: int = 300
  rounds: int = 10
  passes: int = 3
  users: int = 64
  group: int = 16
  temperature: float = 1.0
  learning_rate: float = 1e-4
  warmup_share: float = 0.05
  clip: float = 0.2
  kl: float = 0.01
  sft: float = 0.1
  reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
  validate_every: int = 25
  patience: int = 6
  log_every: int = 5
  seed: int = 0

  def __post_init__(self):
    check_ranges(
      self,
      "config.preference",
      steps="[1, inf)",
      rounds="[1, inf)",
      passes="[1, inf)",
      users="[1, inf)",
      group="[2, inf)",
      temperature="(0, inf)",
      learning_rate="(0, inf)",
      warmup_share="[0, 0.5]",
      clip="(0, inf)",
      kl="[0, inf)",
      sft="[0, inf)",
      validate_every="[1, inf)",
      patience="[1, inf)",
      log_every="[1, inf)",
      seed="[0, inf)",
    )
    if self.mode == "offline" and self.steps % (self.rounds * self.passes):
      raise UserError(
        f"config.preference.steps is {self.steps}; expected a multiple of"
        f" config.preference.rounds * passes = {self.rounds} * {self.passes},"
        " so that every path of a round is trained on equally often."
      )

  @property
  def updates_per_round(self) -> int:
    return 1 if self.mode == "on_policy" else self.steps // self.rounds

  @property
  def updates_per_validation(self) -> int:
    rounds = -(-self.validate_every // self.updates_per_round)
    return rounds * self.updates_per_round

  @property
  def batches_per_round(self) -> int:
    """Batches of histories that paths are drawn for."""
    if self.mode == "on_policy":
      return 1
    return self.updates_per_round // self.passes


@struct.dataclass
class Ground:
  """What is known of the catalogue, on device.

  Attributes:
    codes: as in supervised training.
    index: as the system's engine places it.
    tables: of the rewards.
  """

  codes: Codes
  index: Any
  tables: RewardTables


@struct.dataclass
class Experience:
  """A batch of histories with drawn paths.

  Attributes:
    item_BT: histories, as in `data.windows`.
    target_BW: the items that came next, nearest first, -1 padded.
    paths: as they were drawn.
    reward_BG: float32.
    reference_BGM: log-probabilities under the supervised model.
  """

  item_BT: jax.Array
  target_BW: jax.Array
  paths: Paths
  reward_BG: jax.Array
  reference_BGM: jax.Array


@dataclasses.dataclass(frozen=True)
class PreferenceObjective:
  """GRPO with the supervised loss mixed in.

  An objective (`train.objective`) of Experience in place of a batch and Ground
  in place of codes, for the same training step.

  Attributes:
    policy: of the generator.
    supervised: its objective.
    config: weights.
  """

  policy: Policy
  supervised: Objective
  config: PreferenceConfig

  def init_params(self, seed: int) -> dict:
    """The system's own; alignment starts from trained ones."""
    return self.supervised.init_params(seed)

  def loss(
    self,
    params: dict,
    experience: Experience,
    ground: Ground,
    dropout_key: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean loss, and metrics summed over histories.

    Args:
      params: in the compute dtype.
      experience: paths to learn from.
      ground: the catalogue.
      dropout_key: of the supervised loss; paths know no dropout.

    Returns:
      The loss; "targets" (histories), "loss" and, to be divided by "targets",
      "reward" of a path, "hit" (share of the paths that lead to the next item),
      "kl" and "entropy" of a step, "clipped" (share of the steps that have
      moved beyond the clip), "sft".
    """
    config, drawn = self.config, experience.paths
    scored = self.policy.score(
      params,
      ground.codes,
      ground.index,
      experience.item_BT,
      drawn,
      config.temperature,
    )
    reward_BG = experience.reward_BG
    # Minus the first, so that equal rewards are no preference to the last bit.
    advantage_BG = rewards.advantages(reward_BG - reward_BG[:, :1])
    surrogate_BGM = rewards.clipped_surrogate(
      scored.log_prob_BGM,
      drawn.log_prob_BGM,
      advantage_BG[..., None],
      config.clip,
    )
    kl_BGM = rewards.kl_estimate(scored.log_prob_BGM, experience.reference_BGM)
    loss = jnp.mean(surrogate_BGM) + config.kl * jnp.mean(kl_BGM)
    means = {}
    if config.sft:
      means["sft"], _ = self.supervised.loss(
        params, _supervised(experience), ground.codes, dropout_key
      )
      loss += config.sft * means["sft"]
    ratio_BGM = jnp.exp(scored.log_prob_BGM - drawn.log_prob_BGM)
    means |= {
      "loss": loss,
      "reward": jnp.mean(reward_BG),
      "hit": jnp.mean(drawn.item_BG == experience.target_BW[:, :1]),
      "kl": jnp.mean(kl_BGM),
      "entropy": jnp.mean(scored.entropy_BGM),
      "clipped": jnp.mean(jnp.abs(ratio_BGM - 1.0) > config.clip),
    }
    rows = len(reward_BG)
    sums = {name: rows * mean for name, mean in means.items()}
    return loss, sums | {"targets": jnp.float32(rows)}


def _supervised(experience: Experience) -> Batch:
  """The same histories with the next item as their one target."""
  filled_BT = experience.item_BT >= 0
  return Batch(
    item_BT=experience.item_BT,
    segment_BT=filled_BT.astype(jnp.int32),
    last_BN=jnp.sum(filled_BT, axis=1, keepdims=True) - 1,
    target_BN=experience.target_BW[:, :1],
    weight_BN=jnp.ones((len(filled_BT), 1), jnp.float32),
  )


def make_collect(
  objective: PreferenceObjective, mesh: Mesh, dtype: Dtype
) -> Callable:
  """collect(params, reference, ground, item_BT, target_BW, key) -> Experience.

  Paths are drawn from `params`; both kinds of parameters are float32, stored as
  in training.
  """
  policy, config = objective.policy, objective.config

  def collect(params, reference, ground: Ground, item_BT, target_BW, key):
    catalog = ground.codes, ground.index
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      params, reference = (
        sharding.constrain(cast(x, dtype)) for x in (params, reference)
      )
      paths = policy.sample(
        params, *catalog, item_BT, config.group, config.temperature, key
      )
      reference_paths = policy.score(
        reference, *catalog, item_BT, paths, config.temperature
      )
    reward_BG = path_rewards(ground.tables, paths, target_BW, config.reward)
    return Experience(
      item_BT, target_BW, paths, reward_BG, reference_paths.log_prob_BGM
    )

  shapes = jax.eval_shape(lambda: objective.init_params(0))
  stored = sharding.param_shardings(shapes, mesh)
  whole, rows = sharding.replicated(mesh), sharding.by_row(mesh)
  return jax.jit(
    collect,
    in_shardings=(stored, stored, whole, rows, rows, whole),
    out_shardings=rows,
  )
