"""The loss of code sets by hand, from literal logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.decode.set_space import index_of
from holorec_jax.errors import UserError
from holorec_jax.models.set_generator import SetGenerator, SetStep, restrict
from holorec_jax.train.set_loss import SetLossConfig, SetObjective, set_loss

# Probabilities of three codes of two codebooks at the first step, and of the
# second step after codebook 1.
FIRST = np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]])
SECOND = np.array([[0.2, 0.2, 0.6], [1.0, 1e-9, 1e-9]])


def make_steps(scale=1.0):
  def step(shares, unused, codebook):
    return SetStep(
      jnp.asarray(np.log(shares) * scale + 3.0)[None, None],
      jnp.array([[unused]]),
      jnp.array([[codebook]]),
    )

  return [step(FIRST, [True, True], 1), step(SECOND, [True, False], 0)]


@pytest.mark.parametrize("waiting", [0.0, 0.1, 1.0])
def test_codebooks_that_wait_count_less_than_the_one_that_comes_next(waiting):
  config = SetLossConfig(waiting=waiting)
  loss, metrics = set_loss(
    make_steps(), jnp.array([[[2, 0]]]), jnp.ones((1, 1)), config
  )
  # Codebook 0 waits while codebook 1 gets its code.
  weights = np.array([waiting, 1, 1])
  by_hand = -np.average(np.log([0.25, 0.8, 0.6]), weights=weights)
  assert float(loss) == pytest.approx(by_hand, rel=1e-5)
  assert {k: float(v) for k, v in metrics.items()} == pytest.approx(
    {
      "targets": 1,
      "loss": by_hand,
      "loss/codes": by_hand,
      # Along the order: codebook 1 at first, then codebook 0.
      "log_prob": np.log(0.8 * 0.6),
      "accuracy/step_0": 1,
      "accuracy/step_1": 1,
      "accuracy/codebook_0": 0,
      "accuracy/codebook_1": 1,
      "first/codebook_0": 0,
      "first/codebook_1": 1,
    },
    rel=1e-5,
  )


def test_smoothing_and_weights():
  target = jnp.array([[[2, 0]]])
  config = SetLossConfig(waiting=1.0, label_smoothing=0.3)
  loss, metrics = set_loss(make_steps(), target, jnp.ones((1, 1)), config)
  shares = np.stack([FIRST[0], FIRST[1], SECOND[0]])
  gold = -np.log([0.25, 0.8, 0.6])
  uniform = -np.log(shares).mean(axis=1)
  by_hand = (0.7 * gold + 0.3 * uniform).mean()
  assert float(loss) == pytest.approx(by_hand, rel=1e-5)
  assert float(metrics["log_prob"]) == pytest.approx(np.log(0.8 * 0.6), 1e-5)
  nothing, metrics = set_loss(make_steps(), target, jnp.zeros((1, 1)), config)
  assert float(nothing) == float(metrics["targets"]) == 0


def test_used_codebooks_have_no_gradient():
  def loss(logits_NMV):
    steps = make_steps()
    steps[1] = steps[1]._replace(logits_BNMV=logits_NMV[None])
    target, weight = jnp.array([[[2, 0]]]), jnp.ones((1, 1))
    return set_loss(steps, target, weight, SetLossConfig(waiting=1.0))[0]

  gradient_NMV = jax.grad(loss)(jnp.zeros((1, 2, 3)))
  assert (gradient_NMV[0, 1] == 0).all()
  np.testing.assert_allclose(
    gradient_NMV[0, 0], np.array([1, 1, -2]) / 9, rtol=1e-5
  )


CATALOG = tiny.make_catalog(30, levels=2, codes=6)


def test_objective_learns_and_is_random_by_its_key_alone():
  model = SetGenerator(tiny.make_config(dropout=0.2, softmax="tree"), 2, 6)
  config = SetLossConfig(random_order=0.5, label_smoothing=0.1)
  objective = SetObjective(model, config, index_of(CATALOG))
  params = tiny.jit(objective.init_params, static_argnums=0)(0)
  batch, codes = tiny.make_packed(CATALOG), tiny.make_codes(CATALOG)
  step = tiny.jit(jax.value_and_grad(objective.loss, has_aux=True))

  def run(params, key):
    return step(params, batch, codes, key)

  (first, metrics), _ = run(params, jax.random.key(0))
  assert float(metrics["targets"]) == 10
  assert float(metrics["loss"]) == pytest.approx(10 * float(first), rel=1e-5)
  assert float(run(params, jax.random.key(0))[0][0]) == float(first)
  assert float(run(params, jax.random.key(1))[0][0]) != float(first)
  for number in range(20):
    (loss, _), gradient = run(params, jax.random.key(number))
    params = jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient)
  assert loss < 0.8 * first
  # Without a key nothing is random: neither dropout nor orders.
  plain = SetObjective(
    SetGenerator(tiny.make_config(softmax="tree"), 2, 6),
    SetLossConfig(random_order=0.0, label_smoothing=0.1),
    index_of(CATALOG),
  )
  losses = [
    tiny.jit(of.loss)(params, batch, codes, key)[0]
    for of, key in ((objective, None), (plain, jax.random.key(0)))
  ]
  assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


def test_a_fixed_order_is_never_shuffled():
  model = SetGenerator(tiny.make_config(), 2, 6)
  config = SetLossConfig(random_order=1.0, fixed_order=True)
  objective = SetObjective(model, config)
  params = tiny.jit(objective.init_params, static_argnums=0)(0)
  batch, codes = tiny.make_packed(CATALOG), tiny.make_codes(CATALOG)
  step = tiny.jit(objective.loss)
  _, metrics = step(params, batch, codes, jax.random.key(0))
  assert float(metrics["first/codebook_0"]) == 10


def test_probability_is_shared_among_codes_of_items_alone():
  """What is invalid has no share of the loss, and no gradient."""
  valid = jnp.array([[[[True, False, True], [True, True, True]]]])

  def loss(logits_BNMV):
    steps = make_steps()
    steps[0] = steps[0]._replace(
      logits_BNMV=restrict(logits_BNMV, valid), valid_BNMV=valid
    )
    config = SetLossConfig(waiting=1.0, label_smoothing=0.3)
    return set_loss(steps, jnp.array([[[2, 0]]]), jnp.ones((1, 1)), config)[0]

  value, gradient = jax.value_and_grad(loss)(jnp.log(FIRST)[None, None])
  gold = -np.log([1 / 3, 0.8, 0.6])
  uniform = [-np.log([2 / 3, 1 / 3]), -np.log(FIRST[1]), -np.log(SECOND[0])]
  by_hand = 0.7 * gold + 0.3 * np.array([u.mean() for u in uniform])
  assert float(value) == pytest.approx(by_hand.mean(), rel=1e-5)
  assert np.isfinite(gradient).all()
  assert gradient[0, 0, 0, 1] == 0


def test_a_tree_of_items_is_needed():
  model = SetGenerator(tiny.make_config(softmax="tree"), 2, 6)
  with pytest.raises(UserError, match="their index"):
    SetObjective(model, SetLossConfig())


@pytest.mark.parametrize(
  "changes",
  [dict(random_order=1.5), dict(waiting=-0.1), dict(label_smoothing=1.0)],
)
def test_ranges(changes):
  with pytest.raises(UserError, match=f"config.reg4rec.{next(iter(changes))}"):
    SetLossConfig(**changes)
