"""S2GR's losses by hand, and what must hold of them in training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from flax import linen as nn

from holorec_jax.codes import device_codes
from holorec_jax.errors import UserError
from holorec_jax.models.generator import LevelOutput
from holorec_jax.models.history import HistoryEncoder
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.s2gr_loss import (
  S2grLossConfig,
  S2grObjective,
  cluster_logits,
  info_nce,
  thought_loss,
)

CATALOG = tiny.make_catalog(30, levels=2, codes=6)
CLUSTERS = np.array([[0, 1, 1, 0, 2, 2], [1, 0, 0, 0, 2, 1]])
OFF = dict(align=0.0, nce=0.0)
RICH = dict(start="last", cross_bias=True, repeat_bias=True)


def log_softmax(x):
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def cosine(x, y):
  return x @ y / np.sqrt((x @ x) * (y @ y))


def test_thoughts_are_compared_with_the_means_of_clusters():
  embedding_VD = jnp.array([[3.0, 0], [1, 0], [0, 2], [0, 8]])
  cluster_V = np.array([0, 0, 1, 1])
  # Centres lie on the two axes; lengths do not count.
  logits = cluster_logits(
    jnp.array([[[0.6, 0.8], [-5.0, 0], [0, 0]]]), embedding_VD, cluster_V, 0.5
  )
  np.testing.assert_allclose(logits, [[[1.2, 1.6], [-2, 0], [0, 0]]], atol=1e-6)


def test_a_cluster_moves_with_all_its_codes():
  def loss(embedding_VD):
    thought = jnp.ones((1, 1, 2))
    return cluster_logits(thought, embedding_VD, np.array([0, 1, 1]), 1)[
      0, 0, 1
    ]

  gradient = jax.grad(loss)(jnp.array([[1.0, 2], [3, 4], [5, 0]]))
  assert not gradient[0].any() and gradient[1].any()
  np.testing.assert_array_equal(gradient[1], gradient[2])


GUIDE = np.array([[[1.0, 0], [3, 4]], [[0, 2], [1, 1]]])
TARGET = np.array([[[2.0, 0], [0, 1]], [[1, 1], [2, 0]]])
# The last target is the first one again.
TARGET_CODES = np.array([[[0, 1], [2, 2]], [[0, 2], [0, 1]]])


def test_info_nce_by_hand():
  used_BN = np.array([[True, True], [False, True]])
  losses = info_nce(GUIDE, TARGET, TARGET_CODES, used_BN, 0.5)
  r = np.sqrt(0.5)
  # Rivals of 0: target 1. Of 1: 0 and 3. Of 2, which is not in use: the others.
  by_hand = [
    -log_softmax(np.array([1, 0]) / 0.5)[0],
    -log_softmax(np.array([0.8, 0.6, 0.6]) / 0.5)[0],
    -log_softmax(np.array([r, 0, 1, 0]) / 0.5)[0],
    -log_softmax(np.array([r, r]) / 0.5)[0],
  ]
  np.testing.assert_allclose(losses.reshape(-1), by_hand, rtol=1e-5)


def test_a_batch_of_one_target_has_nobody_to_tell_it_from():
  codes_BNL = np.zeros((2, 2, 2), int)
  losses = info_nce(GUIDE, TARGET, codes_BNL, np.ones((2, 2), bool), 0.1)
  np.testing.assert_allclose(losses, 0, atol=1e-6)


FINE_BNL = np.array([[[0, 1], [2, 2]]])
TABLE = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
THOUGHTS = np.random.default_rng(1).normal(size=(2, 1, 2, 4))
SUMMARY = np.random.default_rng(2).normal(size=(1, 2, 4))
TWO_CLUSTERS = np.array([[0, 1, 1], [1, 0, 1]])


def outputs_of(thoughts=THOUGHTS):
  return [
    LevelOutput(jnp.zeros((1, 2, 3)), thought_BND=jnp.asarray(t))
    for t in thoughts
  ]


def evaluate(
  weights=(1.0, 1.0), guide=SUMMARY, clusters=TWO_CLUSTERS, **config
):
  loss, metrics = thought_loss(
    outputs_of(),
    None if guide is None else jnp.asarray(guide),
    FINE_BNL,
    jnp.array([weights]),
    jnp.asarray(TABLE),
    clusters,
    S2grLossConfig(**config),
  )
  return float(loss), {name: float(value) for name, value in metrics.items()}


def test_all_terms_against_numpy():
  config = dict(align=0.7, nce=0.4, reg=0.3, temperature=0.2)
  weights = (1.0, 0.25)
  loss, metrics = evaluate(weights, **config)
  align = nce = reg = 0.0
  hits = [0.0, 0.0]
  embedded = [(TABLE[0, a] + TABLE[1, b]) / 2 for a, b in FINE_BNL[0]]
  for branch, weight in enumerate(weights):
    for level in range(2):
      cluster_V = TWO_CLUSTERS[level]
      centres = [TABLE[level][cluster_V == q].mean(0) for q in (0, 1)]
      logits = np.array(
        [cosine(THOUGHTS[level, 0, branch], c) / 0.2 for c in centres]
      )
      gold = cluster_V[FINE_BNL[0, branch, level]]
      align -= weight * log_softmax(logits)[gold] / 2
      hits[level] += weight * (logits.argmax() == gold)
    guide = SUMMARY[0, branch]
    logits = np.array([cosine(guide, e) / 0.2 for e in embedded])
    nce -= weight * log_softmax(logits)[branch]
    reg += weight * (1 - cosine(THOUGHTS[0, 0, branch], guide))
  assert metrics["loss/align"] == pytest.approx(0.7 * align, rel=1e-5)
  assert metrics["loss/nce"] == pytest.approx(0.4 * nce, rel=1e-5)
  assert metrics["loss/reg"] == pytest.approx(0.3 * reg, rel=1e-5)
  total = 0.7 * align + 0.4 * nce + 0.3 * reg
  assert loss == pytest.approx(total, rel=1e-5)
  for level in range(2):
    assert metrics[f"accuracy/cluster_{level}"] == hits[level]


def test_weights_switch_terms_off_and_accuracy_stays():
  _, whole = evaluate()
  loss, metrics = evaluate(align=0.0)
  assert "loss/align" not in metrics
  assert metrics["accuracy/cluster_1"] == whole["accuracy/cluster_1"]
  assert loss == pytest.approx(whole["loss/nce"] + whole["loss/reg"], rel=1e-5)
  _, metrics = evaluate(reg=0.0)
  assert "loss/reg" not in metrics and "loss/nce" in metrics
  loss, metrics = evaluate(guide=None)
  assert loss == pytest.approx(whole["loss/align"], rel=1e-5)
  assert evaluate(guide=None, align=0.0)[0] == 0.0


def test_a_branch_without_weight_is_no_rival_and_costs_nothing():
  _, alone = evaluate(weights=(1.0, 0.0))
  assert alone["loss/nce"] == pytest.approx(0, abs=1e-6)
  _, both = evaluate()
  _, other = evaluate(weights=(0.0, 1.0))
  for name in ("loss/align", "loss/reg", "accuracy/cluster_0"):
    assert alone[name] + other[name] == pytest.approx(both[name], rel=1e-5)


def test_a_collision_level_has_no_clusters():
  """Neither its thought nor its code's embedding counts."""
  _, metrics = evaluate(clusters=TWO_CLUSTERS[:1])
  assert "accuracy/cluster_1" not in metrics
  nce = 0.0
  for branch in range(2):
    logits = [
      cosine(SUMMARY[0, branch], TABLE[0, code]) / 0.1
      for code in FINE_BNL[0, :, 0]
    ]
    nce -= log_softmax(np.array(logits))[branch]
  assert metrics["loss/nce"] == pytest.approx(nce, rel=1e-5)


def test_the_first_thought_follows_the_guide_which_does_not_follow_it():
  def reg(guide, thoughts):
    return thought_loss(
      outputs_of(thoughts),
      guide,
      FINE_BNL,
      jnp.ones((1, 2)),
      TABLE,
      TWO_CLUSTERS,
      S2grLossConfig(),
    )[1]["loss/reg"]

  to_guide, to_thoughts = jax.grad(reg, argnums=(0, 1))(
    jnp.asarray(SUMMARY), jnp.asarray(THOUGHTS)
  )
  assert not to_guide.any() and not to_thoughts[1].any()
  assert np.abs(to_thoughts[0]).min() > 0


def make_objective(loss=None, **changes) -> tuple[S2grObjective, dict]:
  """An objective, and parameters none of which is idle."""
  changes = dict(thought="s2gr") | changes
  model, params = tiny.make_model(CATALOG, **changes)
  objective = S2grObjective(model, S2grLossConfig(**loss or {}), CLUSTERS)
  shapes = jax.eval_shape(functools.partial(objective.init_params, 0))
  rng = np.random.default_rng(7)

  def draw(leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    return jnp.asarray(1 + 0.2 * noise if leaf.ndim == 1 else 0.3 * noise)

  extra = {k: jax.tree.map(draw, v) for k, v in shapes.items()}
  return objective, extra | params


def test_zero_weights_are_the_plain_loss():
  """Bit for bit, dropout included."""
  objective, params = make_objective(OFF, softmax="tree", dropout=0.2)
  assert "guide" not in params
  plain = GeneratorObjective(objective.model, LossConfig())
  codes = device_codes(CATALOG, "tree")
  packed, key = tiny.make_packed(CATALOG), jax.random.key(3)
  loss, metrics = tiny.jit(objective.loss)(params, packed, codes, key)
  plain_loss, plain_metrics = tiny.jit(plain.loss)(params, packed, codes, key)
  assert loss == plain_loss
  for name, value in plain_metrics.items():
    assert metrics[name] == value, name
  assert {"accuracy/cluster_1", "accuracy/prefix_1"} <= metrics.keys()
  assert metrics["accuracy/prefix_0"] == metrics["accuracy/level_0"]


@pytest.mark.parametrize("think", ["stepwise", "upfront"])
def test_all_positions_are_one_target_per_row(think):
  """Rivals included: equal terms and metrics."""
  objective, params = make_objective(think=think, softmax="tree", **RICH)
  codes = device_codes(CATALOG, "tree")
  run = tiny.jit(objective.loss)
  packed = tiny.make_packed(CATALOG)
  ours, our_sums = run(params, packed, codes, None)
  theirs, their_sums = run(params, tiny.unpack(packed), codes, None)
  assert ours == pytest.approx(float(theirs), rel=1e-5)
  assert {"loss/align", "loss/nce", "loss/reg"} <= our_sums.keys()
  for name in our_sums:
    np.testing.assert_allclose(
      our_sums[name], their_sums[name], rtol=1e-5, err_msg=name
    )


def test_no_gradient_from_the_future_or_from_other_histories():
  """Exactly zero for every term, rivals included."""
  objective, params = make_objective(**RICH)
  packed, codes = tiny.make_packed(CATALOG), tiny.make_codes(CATALOG)

  def losses(delta_BTLD):
    def perturb(method, args, kwargs, context):
      if isinstance(context.module, HistoryEncoder) and (
        context.method_name == "__call__"
      ):
        args = (args[0] + delta_BTLD, *args[1:])
      return method(*args, **kwargs)

    def total(weight_BN):
      batch = packed.replace(weight_BN=weight_BN)
      with nn.intercept_methods(perturb):
        return objective.loss(params, batch, codes, None)[1]["loss"]

    # The loss is linear in the weights: their gradient is each branch's loss.
    return jax.grad(total)(jnp.asarray(packed.weight_BN))

  B, T = packed.item_BT.shape
  jacobian = tiny.jit(jax.jacrev(losses))(jnp.zeros((B, T, 2, 16)))
  flow_BNBT = np.abs(jacobian).max(axis=(-1, -2))
  own_row = np.eye(B, dtype=bool)[:, None, :, None]
  own_history = packed.segment_BT[:, :, None, None] == packed.segment_BT
  past = np.arange(T) <= np.arange(T)[:, None, None]
  seen = np.broadcast_to(own_row & own_history & past, flow_BNBT.shape)
  used = packed.weight_BN > 0
  assert (flow_BNBT[used][~seen[used]] == 0).all()
  assert (flow_BNBT[used][seen[used]] > 0).all()


def test_every_parameter_learns_and_every_term_falls():
  objective, params = make_objective()
  packed, codes = tiny.make_packed(CATALOG), tiny.make_codes(CATALOG)
  grad = tiny.jit(jax.grad(objective.loss, has_aux=True))
  history = []
  for step in range(100):
    gradient, metrics = grad(params, packed, codes, None)
    for path, leaf in jax.tree.leaves_with_path(gradient) if not step else ():
      name = jax.tree_util.keystr(path)
      assert np.abs(leaf).max() > 1e-6, f"{name} is idle"
    params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
    history.append({name: float(value) for name, value in metrics.items()})
  for name in ("loss/align", "loss/nce", "loss/fine"):
    assert history[-1][name] < 0.8 * history[0][name], name
  # v_g, which it follows, moves as well.
  assert history[-1]["loss/reg"] < history[0]["loss/reg"]
  for name in ("accuracy/cluster_1", "accuracy/prefix_1"):
    assert history[-1][name] > history[0][name], name


@pytest.mark.parametrize(
  "field", ["align", "nce", "reg", "temperature", "clusters", "guide_layers"]
)
def test_weights_are_held_to_their_ranges(field):
  with pytest.raises(UserError, match=rf"config\.s2gr\.{field} is -1"):
    S2grLossConfig(**{field: -1})
