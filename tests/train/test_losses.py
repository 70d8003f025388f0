"""Losses by hand, from literal logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.models.generator import LevelOutput
from holorec_jax.train.losses import (
  LossConfig,
  cross_entropy,
  generator_loss,
  is_best,
  unpack_bits,
)

# Probabilities of three codes; the log of them are logits.
SHARES = np.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]])
LOGITS = jnp.log(SHARES) + 3.0  # A constant changes nothing.


def test_cross_entropy_is_minus_log_probability():
  loss_BN = cross_entropy(LOGITS, jnp.array([[0, 1]]))
  np.testing.assert_allclose(loss_BN, -np.log([[0.5, 0.1]]), rtol=1e-5)


def test_label_smoothing_spreads_mass_over_all_codes():
  loss_BN = cross_entropy(LOGITS, jnp.array([[0, 1]]), smoothing=0.3)
  uniform = -np.log(SHARES).mean(-1)
  expected = 0.7 * -np.log([[0.5, 0.1]]) + 0.3 * uniform
  np.testing.assert_allclose(loss_BN, expected, rtol=1e-5)


def test_codes_that_no_item_has_take_no_share():
  valid_BNV = jnp.array([[[True, False, True], [False, True, False]]])
  loss_BN = cross_entropy(
    LOGITS, jnp.array([[0, 1]]), smoothing=0.3, valid_BNV=valid_BNV
  )
  share = 0.5 / 0.75
  expected = -0.7 * np.log(share) - 0.3 * np.log([share, 1 - share]).mean()
  np.testing.assert_allclose(loss_BN, [[expected, 0.0]], atol=1e-6)


def test_bits_unpack_as_numpy_packed_them():
  mask = np.random.default_rng(0).random((3, 2, 11)) < 0.5
  packed = np.packbits(mask, axis=-1, bitorder="little")
  np.testing.assert_array_equal(unpack_bits(jnp.asarray(packed), 11), mask)


def test_smoothing_makes_certainty_costly():
  def loss(scale):
    logits = jnp.array([[[scale, 0.0, 0.0]]])
    return cross_entropy(logits, jnp.array([[0]]), smoothing=0.3)[0, 0]

  assert jax.grad(loss)(0.0) < 0 < jax.grad(loss)(20.0)
  # Least where the probability is 0.7 + 0.3 / 3.
  assert abs(jax.grad(loss)(np.log(0.8 / 0.1))) < 1e-6


FINE_BNL = jnp.array([[[0, 2], [1, 2]]])
SIDS_BNRL = jnp.array([[[[2, 1], [0, 2]], [[0, 1], [1, 2]]]])


def uniform_level(**changes) -> LevelOutput:
  return LevelOutput(fine_BNV=jnp.zeros((1, 2, 3)), **changes)


def evaluate(outputs, weights=(1.0, 1.0), **config):
  return generator_loss(
    outputs,
    FINE_BNL if len(outputs) == 2 else jnp.zeros((1, 2, 3), int),
    SIDS_BNRL,
    jnp.array([weights]),
    jnp.zeros((3, 3, 4)),
    LossConfig(**config),
  )


def test_fine_codes_alone():
  outputs = [LevelOutput(LOGITS), uniform_level()]
  loss, metrics = evaluate(outputs)
  by_hand = (-np.log(0.5 * 0.1) + 2 * np.log(3)) / 2
  assert float(loss) == pytest.approx(by_hand, rel=1e-5)
  assert float(metrics["loss/fine"]) == pytest.approx(by_hand, rel=1e-5)
  assert float(metrics["targets"]) == 2
  # The first branch's code is the likeliest, the second's is not.
  assert float(metrics["accuracy/level_0"]) == 1


def test_weights_switch_branches_off():
  outputs = [LevelOutput(LOGITS), uniform_level()]
  loss, metrics = evaluate(outputs, weights=(0.0, 1.0))
  assert float(loss) == pytest.approx((-np.log(0.1) + np.log(3)) / 2, rel=1e-5)
  assert float(metrics["targets"]) == 1
  assert float(metrics["accuracy/level_0"]) == 0
  nothing, _ = evaluate(outputs, weights=(0.0, 0.0))
  assert float(nothing) == 0


def test_alignment_heads_learn_the_coarse_rows():
  outputs = [
    uniform_level(align_RBNV=align_RBNV)
    for align_RBNV in (LOGITS[None], jnp.zeros((1, 1, 2, 3)))
  ]
  loss, metrics = evaluate(outputs, align=0.25)
  # Coarse codes of level 0 are 2 and 0.
  coarse = (-np.log(0.25 * 0.1) + 2 * np.log(3)) / 2
  assert float(metrics["loss/align"]) == pytest.approx(0.25 * coarse, rel=1e-5)
  assert float(loss) == pytest.approx(2 * np.log(3) + 0.25 * coarse, rel=1e-5)


def test_thoughts_learn_the_coarse_code_and_its_embedding():
  table_LVD = np.zeros((2, 3, 4), np.float32)
  table_LVD[0, 2] = [1, 0, 0, 0]
  table_LVD[0, 0] = [0, 0, 2, 0]
  thought_BND = jnp.array([[[0.0, 0, 0, 0], [0, 1, 2, 0]]])
  quiet = dict(
    coarse_BNV=jnp.zeros((1, 2, 3)), thought_BND=jnp.zeros((1, 2, 4))
  )
  outputs = [
    uniform_level(coarse_BNV=LOGITS, thought_BND=thought_BND),
    uniform_level(**quiet),
  ]
  loss, metrics = generator_loss(
    outputs,
    FINE_BNL,
    SIDS_BNRL,
    jnp.ones((1, 2)),
    table_LVD,
    LossConfig(thought=0.5, thought_match=10.0, align=9.0),
  )
  coarse = 0.5 * (-np.log(0.25 * 0.1) + 2 * np.log(3)) / 2
  # Mean squared gaps of 1/4 and 1/4, over two levels.
  match = 10.0 * (0.25 + 0.25) / 2
  assert float(metrics["loss/thought"]) == pytest.approx(coarse, rel=1e-5)
  assert float(metrics["loss/match"]) == pytest.approx(match, rel=1e-5)
  total = 2 * np.log(3) + coarse + match
  assert float(loss) == pytest.approx(total, rel=1e-5)
  assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
  assert float(metrics["accuracy/thought_0"]) == 0


def test_a_collision_level_has_no_coarse_supervision():
  full = dict(
    coarse_BNV=jnp.zeros((1, 2, 3)),
    thought_BND=jnp.ones((1, 2, 4)),
    align_RBNV=jnp.zeros((1, 1, 2, 3)),
  )
  # Wild on the third level, which the quantizer does not have.
  wild = {name: x + 1e6 for name, x in full.items()}
  outputs = [
    uniform_level(**full),
    uniform_level(**full),
    uniform_level(**wild),
  ]
  loss, metrics = evaluate(outputs, align=0.5, thought=0.5, thought_match=10.0)
  # Means over the two supervised levels, fine codes over all three.
  assert float(metrics["loss/fine"]) == pytest.approx(2 * np.log(3), rel=1e-5)
  assert float(metrics["loss/thought"]) == pytest.approx(np.log(3), rel=1e-5)
  assert float(metrics["loss/align"]) == pytest.approx(np.log(3), rel=1e-5)
  assert float(metrics["loss/match"]) == pytest.approx(20.0, rel=1e-5)
  assert "accuracy/level_2" in metrics
  assert "accuracy/thought_2" not in metrics
  assert float(loss) == pytest.approx(4 * np.log(3) + 20, rel=1e-5)


def test_smoothing_concerns_fine_codes_only():
  outputs = [
    LevelOutput(LOGITS, align_RBNV=LOGITS[None]),
    uniform_level(align_RBNV=jnp.zeros((1, 1, 2, 3))),
  ]
  _, plain = evaluate(outputs)
  _, smooth = evaluate(outputs, label_smoothing=0.2)
  assert float(plain["loss/align"]) == float(smooth["loss/align"])
  assert float(plain["loss/fine"]) != float(smooth["loss/fine"])


def test_a_prefix_is_right_when_all_its_codes_are():
  def level(*best):
    return LevelOutput(jax.nn.one_hot(jnp.array([best]), 3))

  outputs = [level(0, 1, 2), level(1, 1, 1), level(2, 2, 0)]
  gold_BNL = jnp.array([[[0, 1, 2], [0, 1, 2], [2, 1, 1]]])
  weight_BN = jnp.array([[1.0, 1.0, 0.5]])
  embedding_LVD = jnp.zeros((3, 3, 2))

  def prefixes(packed_BNLX=None):
    _, metrics = generator_loss(
      outputs,
      gold_BNL,
      gold_BNL[:, :, None],
      weight_BN,
      embedding_LVD,
      LossConfig(),
      packed_BNLX,
    )
    return [float(metrics[f"accuracy/prefix_{level}"]) for level in range(3)]

  assert prefixes() == [1.5, 1.5, 1.0]
  # Where no item has the code that ranks first, the next one does.
  packed_BNLX = np.full((1, 3, 3, 1), 0b111, np.uint8)
  packed_BNLX[0, 1, 0] = 0b101
  assert prefixes(jnp.asarray(packed_BNLX)) == [2.5, 2.5, 2.0]


def test_is_best():
  logits_BNV = jnp.array([[[1.0, 2.0, 0.0], [3.0, 3.0, -1e9]]])
  for code, expected in (
    (0, [False, True]),
    (1, [True, True]),
    (2, [False] * 2),
  ):
    code_BN = jnp.full((1, 2), code)  # Of equals all are the best.
    assert is_best(logits_BNV, code_BN).tolist() == [expected]
