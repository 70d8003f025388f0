"""Rewards by hand: the paper's worked examples and literal paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.train import rewards
from holorec_jax.train.rewards import RewardConfig

ORDERED = jnp.array([0, 1, 2])
TARGET = jnp.array([5, 6, 7])
# Three codebooks of eight codes: codes 5 to 7 are of category 30, 4 of 27,
# the others of none.
CATEGORY_MV = jnp.tile(jnp.array([-1, -1, -1, -1, 27, 30, 30, 30]), (3, 1))


def _hits(codebook, code):
  return rewards.step_hits(jnp.array(codebook), jnp.array(code), TARGET)


@pytest.mark.parametrize(
  ("codebook", "code", "hits", "path"),
  [
    ([0, 1, 2], [5, 6, 0], 2, 0),  # 2 of 3 right
    ([0, 1, 2], [5, 6, 7], 3, 1),
    ([2, 0, 1], [7, 5, 6], 3, 1),  # the same set in another order
    ([2, 0, 1], [5, 6, 7], 0, 0),  # right codes of wrong codebooks
    ([0, 1, 2], [1, 1, 1], 0, 0),
  ],
)
def test_step_hit_and_global_path(codebook, code, hits, path):
  hit_M = _hits(codebook, code)
  assert rewards.step_hit(hit_M) == hits
  assert rewards.global_path(hit_M) == path


@pytest.mark.parametrize(
  ("category", "agree", "hits"),
  [
    ([30, 30, 30], 2, 3),
    ([27, 30, 30], 1, 2),
    ([30, 27, 30], 0, 2),
    ([27, 27, 27], 2, 0),  # consistent, whatever the target
    ([-1, -1, 30], 0, 1),  # unknown agrees with nothing
    ([30], 0, 1),
  ],
)
def test_step_consistency_and_category_hit(category, agree, hits):
  assert rewards.step_consistency(jnp.array(category)) == agree
  assert rewards.category_hit(jnp.array(category), jnp.array(30)) == hits
  assert rewards.category_hit(jnp.array(category), jnp.array(-1)) == 0


def _reward(codebook, code, **weights):
  return rewards.path_reward(
    jnp.array(codebook),
    jnp.array(code),
    TARGET,
    jnp.array(30),
    CATEGORY_MV,
    RewardConfig(**weights),
  )


def test_reward_is_the_weighted_sum_of_shares():
  np.testing.assert_allclose(
    _reward([2, 0, 1], [7, 5, 6]), 1 + 1 + 0.5 + 0.25, rtol=1e-6
  )
  # Hits 5 and 6; categories 30, 27, 30: two of the target's, none adjacent.
  np.testing.assert_allclose(
    _reward([0, 2, 1], [5, 4, 6]), 2 / 3 + 0.5 * 2 / 3, rtol=1e-6
  )
  # Categories 27, 30, 30: one adjacent pair of two.
  np.testing.assert_allclose(
    _reward([2, 0, 1], [4, 5, 6]),
    2 / 3 + 0.5 * 2 / 3 + 0.25 / 2,
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ("name", "part"),
  [
    ("step_hit", 2 / 3),
    ("global_path", 0.0),
    ("category_hit", 0.5 * 2 / 3),
    ("consistency", 0.25 / 2),
  ],
)
def test_each_reward_can_be_left_out(name, part):
  whole = _reward([2, 0, 1], [4, 5, 6])
  without = _reward([2, 0, 1], [4, 5, 6], **{name: 0.0})
  np.testing.assert_allclose(whole - without, part, atol=1e-6)


def test_a_single_code_has_no_neighbours_to_agree_with():
  reward = rewards.path_reward(
    jnp.array([0]),
    jnp.array([5]),
    jnp.array([5]),
    jnp.array(30),
    CATEGORY_MV,
    RewardConfig(),
  )
  np.testing.assert_allclose(reward, 2.5)


def test_later_items_count_half_as_much_each():
  reward_PW = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
  known_PW = jnp.ones((4, 3), bool)
  np.testing.assert_allclose(
    rewards.multi_step_reward(reward_PW, known_PW, 0.5),
    np.array([1, 0.5, 0.25, 1.75]) / 1.75,
    rtol=1e-6,
  )


def test_items_beyond_the_boundary_do_not_count():
  reward_PW = jnp.array([[0.5, jnp.nan, 7.0], [1.0, 0.0, jnp.nan]])
  cut_PW = jnp.array([[True, False, False], [True, True, False]])
  np.testing.assert_allclose(
    rewards.multi_step_reward(reward_PW, cut_PW, 0.5), [0.5, 1 / 1.5]
  )
  none_PW = jnp.zeros((2, 3), bool)
  assert rewards.multi_step_reward(reward_PW, none_PW, 0.5).tolist() == [0, 0]


def _random_paths(rng, users=5, paths=4, window=3):
  order = np.argsort(rng.random((users, paths, 3)), -1)
  return (
    jnp.asarray(order),
    jnp.asarray(rng.integers(4, 8, (users, paths, 3))),
    jnp.asarray(rng.integers(4, 8, (users, window, 3))),
    jnp.asarray(rng.choice([27, 30, -1], (users, window))),
    jnp.asarray(rng.random((users, window)) < 0.7),
  )


def test_window_reward_is_path_reward_item_by_item():
  config = RewardConfig(global_path=0.7, consistency=0.3, decay=0.4)
  codebook, code, target, category, known = _random_paths(
    np.random.default_rng(0)
  )
  one = rewards.window_reward(
    codebook, code, target, category, known, CATEGORY_MV, config
  )
  for b, p in np.ndindex(*one.shape):
    total, weights = 0.0, 0.0
    for n in range(3):
      if known[b, n]:
        weights += 0.4**n
        total += 0.4**n * rewards.path_reward(
          codebook[b, p],
          code[b, p],
          target[b, n],
          category[b, n],
          CATEGORY_MV,
          config,
        )
    np.testing.assert_allclose(
      one[b, p], total / weights if weights else 0.0, rtol=1e-5, atol=1e-6
    )


def test_batched_equals_vmapped_and_jitted():
  paths = _random_paths(np.random.default_rng(1))

  def reward(*paths):
    return rewards.window_reward(*paths, CATEGORY_MV, RewardConfig())

  batched = reward(*paths)
  mapped = jax.jit(jax.vmap(reward))(*paths)
  np.testing.assert_allclose(batched, mapped, rtol=1e-6)


def test_reordering_steps_changes_consistency_alone():
  config = RewardConfig(consistency=0.0)
  codebook, code, target, category, known = _random_paths(
    np.random.default_rng(2)
  )
  turned = rewards.window_reward(
    codebook[..., ::-1],
    code[..., ::-1],
    target,
    category,
    known,
    CATEGORY_MV,
    config,
  )
  plain = rewards.window_reward(
    codebook, code, target, category, known, CATEGORY_MV, config
  )
  np.testing.assert_allclose(turned, plain, rtol=1e-6)


def test_advantages_by_hand():
  advantage_BP = rewards.advantages(
    jnp.array([[1.0, 3.0], [2.0, 2.0], [0.1, 0.3]])
  )
  np.testing.assert_allclose(
    advantage_BP, [[-1, 1], [0, 0], [-1, 1]], atol=1e-4
  )


@pytest.mark.parametrize(
  ("ratio", "advantage", "loss", "slope"),
  [
    (1.0, 2.0, -2.0, -2.0),
    (1.1, 2.0, -2.2, -2.2),
    (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2: no more to gain
    (0.5, 2.0, -1.0, -1.0),  # moved the wrong way: pulled back
    (0.5, -2.0, 1.6, 0.0),  # clipped at .8
    (1.5, -2.0, 3.0, 3.0),
  ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, slope):
  value, grad = jax.value_and_grad(rewards.clipped_surrogate)(
    jnp.log(ratio) - 3.0, -3.0, advantage, 0.2
  )
  np.testing.assert_allclose(value, loss, rtol=1e-5)
  np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=1e-6)


def test_a_gradient_step_favours_paths_with_an_advantage():
  logits_V = jnp.array([0.3, -0.2, 0.1])
  old_V = jax.nn.log_softmax(logits_V)
  advantage_V = rewards.advantages(jnp.array([[1.0, 0.0, 0.2]]))[0]

  def loss(logits_V):
    log_prob_V = jax.nn.log_softmax(logits_V)
    surrogate_V = rewards.clipped_surrogate(log_prob_V, old_V, advantage_V)
    return (
      surrogate_V.mean() + 0.01 * rewards.kl_estimate(log_prob_V, old_V).mean()
    )

  moved_V = jax.nn.log_softmax(logits_V - 0.1 * jax.grad(loss)(logits_V))
  assert advantage_V[0] > 0 > advantage_V[1]
  assert moved_V[0] > old_V[0] and moved_V[1] < old_V[1]


def test_old_policy_and_advantage_are_constants():
  def loss(old, advantage, reference):
    return rewards.clipped_surrogate(
      -1.0, old, advantage
    ) + rewards.kl_estimate(-1.0, reference)

  grads = jax.grad(loss, (0, 1, 2))(-1.1, 2.0, -0.9)
  assert [float(grad) for grad in grads] == [0, 0, 0]


def test_kl_estimate_by_hand():
  np.testing.assert_allclose(
    rewards.kl_estimate(jnp.log(0.5), jnp.log(jnp.array([0.5, 0.25, 1.0]))),
    [0.0, 0.5 + np.log(2) - 1, 2 - np.log(2) - 1],
    atol=1e-6,
  )


def test_kl_estimate_has_the_mean_of_the_kl():
  policy_V = jnp.array([0.5, 0.3, 0.2])
  reference_V = jnp.array([0.2, 0.3, 0.5])
  estimate_V = rewards.kl_estimate(jnp.log(policy_V), jnp.log(reference_V))
  np.testing.assert_allclose(
    jnp.sum(policy_V * estimate_V),
    jnp.sum(policy_V * jnp.log(policy_V / reference_V)),
    rtol=1e-5,
  )


def test_kl_pulls_back_to_the_reference():
  grad = jax.grad(rewards.kl_estimate)
  assert grad(-1.0, -2.0) > 0 > grad(-2.0, -1.0)


def test_bad_weights_are_explained():
  name = r"config\.preference\.reward\.category_hit is -1"
  with pytest.raises(UserError, match=name):
    RewardConfig(category_hit=-1)
  with pytest.raises(UserError, match=r"config\.preference\.reward\.decay"):
    RewardConfig(decay=0.0)
