"""Preference alignment: draws, probabilities, loss, and that it learns."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.codes import device_codes
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.errors import UserError
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.train import rewards
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.preference import (
  Ground,
  PreferenceConfig,
  PreferenceObjective,
  make_collect,
)
from holorec_jax.train.preference_rewards import (
  make_tables,
  number_prefixes,
  path_rewards,
)
from holorec_jax.train.preference_sampling import (
  Paths,
  SetPolicy,
  TreePolicy,
)
from holorec_jax.train.rewards import RewardConfig
from holorec_jax.train.set_loss import SetLossConfig, SetObjective

ITEMS, LEVELS, GROUP = 24, 2, 16
# Items share leaves, and random histories with empty slots.
CATALOG = tiny.make_catalog(ITEMS, LEVELS, codes=4, distinct=False)
CATEGORY_I = np.arange(ITEMS) % 5 - 1
HISTORIES = np.array(
  [[3, 1, 2, -1], [5, -1, -1, -1], [7, 7, 0, 9], [2, 4, -1, -1]], np.int32
)
TARGETS = np.array([[4, 6, -1], [8, -1, -1], [1, 2, 3], [9, 9, 4]], np.int32)
MESH = sharding.make_mesh(jax.devices()[:2])
CONFIG = PreferenceConfig(users=4, group=GROUP)


def set_params(model):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(
    functools.partial(SetObjective(model, SetLossConfig()).init_params, 0)
  )
  return jax.tree.map(
    lambda x: jnp.asarray(
      rng.normal(size=x.shape) * max(x.shape[-1], 4) ** -0.5, jnp.float32
    ),
    shapes,
  )


def make_system(kind: str):
  """Policy, supervised objective, parameters and ground of one kind."""
  if kind == "sets":
    model = SetGenerator(tiny.make_config(), LEVELS, CATALOG.num_codes)
    params = set_params(model)
    policy, engine = SetPolicy(model), SetEngine(model)
    objective = SetObjective(model, SetLossConfig())
  else:
    model, params = tiny.make_model(
      CATALOG,
      thought=kind,
      softmax="tree",
      repeat_bias=True,
      history="pooled",
    )
    policy, engine = TreePolicy(model), TreeEngine(model)
    objective = GeneratorObjective(model, LossConfig())
  softmax = "level" if kind == "sets" else "tree"
  ground = Ground(
    device_codes(CATALOG, softmax),
    engine.place(CATALOG)[1],
    make_tables(CATALOG.codes_IL, CATEGORY_I, policy.ordered),
  )
  return policy, objective, params, ground


@functools.cache
def collected(kind: str):
  """A system with drawn paths."""
  policy, objective, params, ground = make_system(kind)
  aligned = PreferenceObjective(policy, objective, CONFIG)
  collect = make_collect(aligned, MESH, "float32")
  experience = collect(
    params, params, ground, HISTORIES, TARGETS, jax.random.key(0)
  )
  return policy, objective, params, ground, experience


every_kind = pytest.mark.parametrize(
  "kind", ["none", "holorec", "s2gr", "sets"]
)
ordered_and_not = pytest.mark.parametrize("kind", ["holorec", "sets"])


@every_kind
def test_paths_are_items_and_their_probabilities_agree(kind):
  experience = collected(kind)[-1]
  paths = experience.paths
  assert paths.item_BG.shape == (4, GROUP)
  assert (paths.item_BG >= 0).all()
  assert (paths.item_BG < ITEMS).all()
  np.testing.assert_array_equal(
    np.sort(paths.codebook_BGM, axis=-1),
    np.broadcast_to(np.arange(LEVELS), (4, GROUP, LEVELS)),
  )
  np.testing.assert_allclose(
    experience.reference_BGM, paths.log_prob_BGM, atol=1e-5
  )
  assert (paths.log_prob_BGM <= 1e-6).all()
  assert (paths.entropy_BGM >= -1e-6).all()


@ordered_and_not
def test_all_items_probabilities_sum_to_one_and_draws_follow_them(kind):
  """Exhaustively: every leaf once, then a thousand draws."""
  policy, _, params, ground = make_system(kind)
  _, leaf_I = np.unique(CATALOG.codes_IL, axis=0, return_inverse=True)
  first = np.unique(leaf_I, return_index=True)[1]
  history = HISTORIES[:1]
  draw = tiny.jit(
    lambda key: policy.sample(
      params, ground.codes, ground.index, history, 1000, 1.0, key
    )
  )
  drawn = draw(jax.random.key(3))
  # In a set's own order, which any draw of the item shows.
  order = {
    int(leaf_I[i]): np.asarray(c)
    for i, c in zip(drawn.item_BG[0], drawn.codebook_BGM[0])
  }
  known = [i for i in first if int(leaf_I[i]) in order]
  paths = Paths(
    jnp.asarray([known]),
    jnp.asarray([[order[int(leaf_I[i])] for i in known]]),
    jnp.zeros(()),
    jnp.zeros(()),
  )
  scored = tiny.jit(
    lambda paths: policy.score(
      params, ground.codes, ground.index, history, paths, 1.0
    )
  )(paths)
  share_X = np.exp(scored.log_prob_BGM.sum(-1))[0]
  # A leaf that was never drawn is missing, which then is an improbable one.
  assert 0.95 < share_X.sum() < 1.0001
  if len(known) == len(first):
    np.testing.assert_allclose(share_X.sum(), 1.0, atol=1e-4)
  count_X = np.bincount(leaf_I[np.asarray(drawn.item_BG[0])], minlength=99)
  np.testing.assert_allclose(count_X[leaf_I[known]] / 1000, share_X, atol=0.06)


def test_shared_leaves_are_drawn_by_popularity():
  policy, _, params, ground, _ = collected("none")
  _, leaf_I = np.unique(CATALOG.codes_IL, axis=0, return_inverse=True)
  shared = [i for i in range(ITEMS) if (leaf_I == leaf_I[i]).sum() > 1]
  assert shared
  histories = np.repeat(HISTORIES, 8, axis=0)
  sample = tiny.jit(
    lambda key: policy.sample(
      params, ground.codes, ground.index, histories, 256, 4.0, key
    )
  )
  drawn = sample(jax.random.key(1)).item_BG.reshape(-1)
  count_I = np.bincount(np.asarray(drawn), minlength=ITEMS)
  leaf_count_I = np.array([count_I[leaf_I == leaf].sum() for leaf in leaf_I])
  enough = [i for i in shared if leaf_count_I[i] > 300]
  assert enough
  np.testing.assert_allclose(
    (count_I / np.maximum(leaf_count_I, 1))[enough],
    np.exp(CATALOG.log_share_I[enough]),
    atol=0.1,
  )


def test_a_hit_needs_the_prefix_and_the_item():
  codes_IL = np.array([[0, 1, 1], [0, 2, 1], [3, 1, 1], [0, 1, 1]])
  number_IL = number_prefixes(codes_IL)
  assert number_IL[:, 0].tolist() == [0, 0, 1, 0]
  assert number_IL[0, 1] == number_IL[3, 1] != number_IL[1, 1]
  assert number_IL[0, 1] != number_IL[2, 1]  # the same code, another prefix
  assert number_IL[:, 2].tolist() == [0, 1, 2, 3]
  config = RewardConfig(category_hit=0.0, consistency=0.0, window=1)
  level_BGM = np.broadcast_to(np.arange(3), (1, 4, 3))
  paths = Paths(np.arange(4)[None], level_BGM, None, None)
  unknown_I = np.full(4, -1)
  for ordered, expected in (
    (True, [2.0, 1 / 3, 0.0, 2 / 3]),
    (False, [2.0, 2 / 3, 2 / 3, 2.0]),
  ):
    tables = make_tables(codes_IL, unknown_I, ordered)
    reward_BG = path_rewards(tables, paths, np.array([[0]]), config)
    np.testing.assert_allclose(reward_BG[0], expected, rtol=1e-6)


def test_rewards_count_steps_in_the_order_of_a_path():
  """Consistency is about adjacent steps: c0 c1 c0 is none, c0 c0 c1 one."""
  codes_IL = np.array([[0, 0, 1], [1, 1, 0]])
  tables = make_tables(codes_IL, np.array([0, 1]), ordered=False)
  config = RewardConfig(
    step_hit=0.0, global_path=0.0, category_hit=0.0, window=1
  )
  tables = tables.replace(category_MX=jnp.array([[0, 1], [0, 1], [0, 1]]))
  order_BGM = np.array([[[0, 1, 2], [0, 2, 1]]])
  paths = Paths(np.array([[0, 0]]), order_BGM, None, None)
  reward_BG = path_rewards(tables, paths, np.array([[1]]), config)
  np.testing.assert_allclose(reward_BG[0], [0.125, 0.0])


@functools.cache
def compiled(kind, sft):
  """Loss, metrics and gradient; equal rewards if told, by the weight of KL."""
  policy, supervised, *_ = collected(kind)

  def value(params, experience, ground, kl):
    config = types.SimpleNamespace(
      **dataclasses.asdict(CONFIG) | {"kl": kl, "sft": sft}
    )
    objective = PreferenceObjective(policy, supervised, config)
    return objective.loss(params, experience, ground, None)

  return tiny.jit(jax.value_and_grad(value, has_aux=True))


def gradient(kind, equal=False, params=None, kl=0.0, sft=0.0):
  _, _, own, ground, experience = collected(kind)
  if equal:
    reward_BG = jnp.full_like(experience.reward_BG, 0.7)
    experience = experience.replace(reward_BG=reward_BG)
  return compiled(kind, sft)(
    own if params is None else params, experience, ground, kl
  )


def norm(tree):
  return float(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree)) ** 0.5)


@ordered_and_not
def test_equal_rewards_leave_the_divergence_alone(kind):
  _, grads = gradient(kind, equal=True)
  assert norm(grads) == 0.0
  # At the supervised model it is 0, and so is its gradient.
  (_, metrics), grads = gradient(kind, equal=True, kl=1.0)
  assert float(metrics["kl"]) == pytest.approx(0.0, abs=1e-5)
  assert norm(grads) < 1e-4
  moved = jax.tree.map(lambda p: 1.3 * p, collected(kind)[2])
  (_, metrics), grads = gradient(kind, equal=True, params=moved, kl=1.0)
  assert float(metrics["kl"]) > 1e-3
  assert norm(grads) > 1e-3


@pytest.mark.parametrize(
  ("ratio", "clipped"), [(0.79, 1), (0.81, 0), (1.19, 0), (1.21, 1)]
)
def test_steps_beyond_the_clip_are_counted(ratio, clipped):
  """On either side as far from 1, not as many times as large."""
  _, _, params, ground, experience = collected("holorec")
  paths = experience.paths
  drawn = paths.replace(log_prob_BGM=paths.log_prob_BGM - np.log(ratio))
  (_, metrics), _ = compiled("holorec", 0.0)(
    params, experience.replace(paths=drawn), ground, 0.0
  )
  assert float(metrics["clipped"] / metrics["targets"]) == clipped


def test_equal_rewards_leave_the_supervised_loss_alone():
  (_, metrics), grads = gradient("sets", equal=True, sft=0.1)
  assert norm(grads) > 1e-3
  assert float(metrics["loss"]) == pytest.approx(
    0.1 * float(metrics["sft"]), rel=1e-5
  )


@ordered_and_not
def test_the_gradient_is_that_of_the_policy(kind):
  """On-policy: minus the mean of A times the gradient of log-probability."""
  _, grads = gradient(kind)
  policy, _, params, ground, experience = collected(kind)
  advantage_BG = rewards.advantages(experience.reward_BG)

  def expected(params, ground, paths):
    scored = policy.score(
      params, ground.codes, ground.index, HISTORIES, paths, 1.0
    )
    return -jnp.mean(advantage_BG[..., None] * scored.log_prob_BGM)

  wanted = tiny.jit(jax.grad(expected))(params, ground, experience.paths)
  assert norm(wanted) > 1e-3
  for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_round_divides_into_passes():
  with pytest.raises(UserError, match="multiple of"):
    PreferenceConfig(mode="offline", steps=100, rounds=7, passes=3)
  config = PreferenceConfig(mode="offline", steps=60, rounds=5, passes=3)
  assert (config.updates_per_round, config.batches_per_round) == (12, 4)
  assert config.updates_per_validation == 36
