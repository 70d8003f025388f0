"""Rewards of sampled code paths and the loss they train by (methods 3.3).

A path of REG4Rec (arXiv 2508.15308) is M steps, each a (codebook, code) pair;
codebooks come in any order. The same functions serve ordered codes: there the
codebook of step m is m. All are elementwise over leading axes: `P` paths of one
user, `W` the target items of the window that MSRA looks at.

  R = w_s step_hit / M + w_g global_path + w_c category_hit / M
      + w_a step_consistency / (M - 1)
  MSRA:  R = sum_n decay^(n - 1) R_n / sum_n decay^(n - 1) over the next items
  GRPO:  A = (R - mean R) / (std R + 1e-6) over one user's paths
         -min(rho A, clip(rho) A) + w_kl KL,  rho = pi / pi_old

Which four rewards there are is published, with worked examples; their weights,
and an average where only "decaying weights" are known, are ours.
"""

import dataclasses

import jax
import jax.numpy as jnp

from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """Weights of the rewards; 0 leaves one out.

  Attributes:
    step_hit: of the share of codes that are the target's.
    global_path: of generating all of the target's codes.
    category_hit: of the share of codes whose category is the target's.
    consistency: of the share of adjacent codes with one category.
    window: next items that a path is compared with; 1 for the target alone.
    decay: weight of each further item relative to the one before.
  """

  step_hit: float = 1.0
  global_path: float = 1.0
  category_hit: float = 0.5
  consistency: float = 0.25
  window: int = 3
  decay: float = 0.5

  def __post_init__(self):
    check_ranges(
      self,
      "config.preference.reward",
      step_hit="[0, inf)",
      global_path="[0, inf)",
      category_hit="[0, inf)",
      consistency="[0, inf)",
      window="[1, inf)",
      decay="(0, 1]",
    )


def step_hits(
  step_codebook_PM: jax.Array, step_code_PM: jax.Array, target_PM: jax.Array
) -> jax.Array:
  """Whether each step's code is the target's; bool (..., M).

  Args:
    step_codebook_PM: int codebook of each step.
    step_code_PM: int code of each step.
    target_PM: the target's codes in the order of the codebooks.
  """
  wanted_PM = jnp.take_along_axis(target_PM, step_codebook_PM, axis=-1)
  return step_code_PM == wanted_PM


def step_categories(
  step_codebook_PM: jax.Array, step_code_PM: jax.Array, category_MV: jax.Array
) -> jax.Array:
  """Category of each step's code (`quantize.categories`), -1 for none."""
  return category_MV[step_codebook_PM, step_code_PM]


def step_hit(hit_PM: jax.Array) -> jax.Array:
  """Generated codes that belong to the target: 2 of 3 right -> 2."""
  return jnp.sum(hit_PM, -1, dtype=jnp.float32)


def global_path(hit_PM: jax.Array) -> jax.Array:
  """1 if all codes are the target's, else 0."""
  return jnp.all(hit_PM, -1).astype(jnp.float32)


def category_hit(
  category_PM: jax.Array, target_category_P: jax.Array
) -> jax.Array:
  """Steps whose category is the target's; none where that is unknown."""
  known_P1 = target_category_P[..., None] >= 0
  hit_PM = (category_PM == target_category_P[..., None]) & known_P1
  return jnp.sum(hit_PM, -1, dtype=jnp.float32)


def step_consistency(category_PM: jax.Array) -> jax.Array:
  """Adjacent steps of one category: c30, c30, c30 -> 2; c27, c30, c30 -> 1.

  The target does not matter. Codes without a category agree with nothing.
  """
  before_PM, after_PM = category_PM[..., :-1], category_PM[..., 1:]
  agree_PM = (before_PM == after_PM) & (after_PM >= 0)
  return jnp.sum(agree_PM, -1, dtype=jnp.float32)


def path_reward(
  step_codebook_PM: jax.Array,
  step_code_PM: jax.Array,
  target_PM: jax.Array,
  target_category_P: jax.Array,
  category_MV: jax.Array,
  config: RewardConfig,
) -> jax.Array:
  """R against one target; every part is a share, so R <= the weights' sum.

  Args:
    step_codebook_PM: int codebook of each step.
    step_code_PM: int code of each step.
    target_PM: the target's codes in the order of the codebooks.
    target_category_P: the target's leaf category, -1 for none.
    category_MV: category of every code, -1 for none.
    config: weights.

  Returns:
    float32 of the broadcast leading axes.
  """
  steps = step_code_PM.shape[-1]
  hit_PM = step_hits(step_codebook_PM, step_code_PM, target_PM)
  category_PM = step_categories(step_codebook_PM, step_code_PM, category_MV)
  return (
    config.step_hit * step_hit(hit_PM) / steps
    + config.global_path * global_path(hit_PM)
    + config.category_hit * category_hit(category_PM, target_category_P) / steps
    + config.consistency * step_consistency(category_PM) / max(1, steps - 1)
  )


def multi_step_reward(
  reward_PW: jax.Array, known_PW: jax.Array, decay: float
) -> jax.Array:
  """MSRA: rewards against the next items, weighed by decay^(n - 1).

  An average over the items that are there: a window that the training boundary
  cuts keeps the scale, and advantages are those of the plain sum.

  Args:
    reward_PW: reward against each of the next items, nearest first.
    known_PW: whether there is such an item; False gives no reward.
    decay: weight of each further item relative to the one before.
  """
  weight_PW = known_PW * decay ** jnp.arange(reward_PW.shape[-1])
  total_P = jnp.sum(weight_PW, -1)
  # What is unknown may hold anything, NaN included.
  known_sum_P = jnp.sum(weight_PW * jnp.where(known_PW, reward_PW, 0.0), -1)
  return jnp.where(total_P > 0, known_sum_P / jnp.maximum(total_P, 1e-9), 0.0)


def window_reward(
  step_codebook_PM: jax.Array,
  step_code_PM: jax.Array,
  target_WM: jax.Array,
  target_category_W: jax.Array,
  known_W: jax.Array,
  category_MV: jax.Array,
  config: RewardConfig,
) -> jax.Array:
  """R of one user's paths against the items of one window.

  Args:
    step_codebook_PM: (..., P, M) int codebook of each step.
    step_code_PM: (..., P, M) int code of each step.
    target_WM: (..., W, M) codes of the next items, nearest first.
    target_category_W: (..., W) their leaf categories, -1 for none.
    known_W: (..., W) whether there is such an item before the boundary.
    category_MV: category of every code, -1 for none.
    config: weights.

  Returns:
    (..., P) float32.
  """
  reward_PW = path_reward(
    step_codebook_PM[..., :, None, :],
    step_code_PM[..., :, None, :],
    target_WM[..., None, :, :],
    target_category_W[..., None, :],
    category_MV,
    config,
  )
  return multi_step_reward(reward_PW, known_W[..., None, :], config.decay)


def advantages(reward_BP: jax.Array) -> jax.Array:
  """GRPO's: rewards standardised over each user's own paths."""
  mean_B1 = jnp.mean(reward_BP, -1, keepdims=True)
  std_B1 = jnp.std(reward_BP, -1, keepdims=True)
  return (reward_BP - mean_B1) / (std_B1 + 1e-6)


def clipped_surrogate(
  log_prob: jax.Array,
  old_log_prob: jax.Array,
  advantage: jax.Array,
  clip: float = 0.2,
) -> jax.Array:
  """PPO's objective as a loss, elementwise: -min(rho A, clip(rho) A).

  A ratio that has moved beyond 1 +- clip in the direction of its advantage has
  no gradient.

  Args:
    log_prob: of the policy in training, per step or per path.
    old_log_prob: of the policy that sampled; taken as constant.
    advantage: broadcast to them; taken as constant.
    clip: how far the ratio may move.
  """
  stop = jax.lax.stop_gradient
  ratio = jnp.exp(log_prob - stop(old_log_prob))
  bounded = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
  return -jnp.minimum(ratio * stop(advantage), bounded * stop(advantage))


def kl_estimate(
  log_prob: jax.Array, reference_log_prob: jax.Array
) -> jax.Array:
  """KL(policy || reference) at samples of the policy, elementwise, >= 0.

  The low-variance estimator k3 = r - log r - 1 with r = reference / policy
  (GRPO, arXiv 2402.03300 eq. 4).
  """
  log_ratio = jax.lax.stop_gradient(reference_log_prob) - log_prob
  return jnp.exp(log_ratio) - log_ratio - 1.0
