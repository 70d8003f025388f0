"""Thoughts by hand, with the design's formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models as tiny

from holorec_jax.models.thoughts import HoloRecThought, PauseThought

D, L, V = 6, 3, 4
CONFIG = tiny.make_config(d_model=D, thought_temperature=0.5)


def normal(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_holorec_thinks_a_soft_coarse_code():
  thought = HoloRecThought(CONFIG, L, V)
  head_LDV, state_BND, table_VD = (
    normal(0, L, D, V),
    normal(1, 2, 3, D),
    normal(2, V, D),
  )
  params = {"params": {"coarse_head": head_LDV}}
  soft_BND, logits_BNV = thought.apply(
    params, state_BND, 1, table_VD, method="think"
  )
  np.testing.assert_allclose(logits_BNV, state_BND @ head_LDV[1], rtol=1e-4)
  share = np.exp(np.asarray(logits_BNV) / 0.5)
  share /= share.sum(-1, keepdims=True)
  np.testing.assert_allclose(soft_BND, share @ table_VD, rtol=1e-4, atol=1e-5)


def test_holorec_injects_through_a_gate_and_layer_norm():
  thought = HoloRecThought(CONFIG, L, V)
  gate_XD, bias_D, projection_DD = (
    normal(0, 2 * D, D),
    normal(1, D),
    normal(2, D, D),
  )
  scale_D, shift_D = normal(3, D), normal(4, D)
  h, c = normal(5, 2, 3, D), normal(6, 2, 3, D)
  params = {
    "coarse_head": normal(7, L, D, V),
    "gate": {"kernel": gate_XD, "bias": bias_D},
    "projection": {"kernel": projection_DD},
    "norm": {"scale": scale_D, "bias": shift_D},
  }
  joined = thought.apply({"params": params}, h, c, method="inject")
  gate = 1 / (1 + np.exp(-(np.concatenate([h, c], -1) @ gate_XD + bias_D)))
  x = h + gate * (c @ projection_DD)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(
    joined, x * scale_D + shift_D, rtol=1e-3, atol=1e-4
  )


def test_a_thought_is_fed_alone_or_with_the_state_it_came_from():
  h, c = normal(0, 2, 3, D), normal(1, 2, 3, D)
  params = {"params": {"coarse_head": normal(2, L, D, V)}}
  for carry, fed_BND in ((False, c), (True, h + c)):
    config = tiny.make_config(d_model=D, thought_carry=carry)
    thought = HoloRecThought(config, L, V)
    ours = thought.apply(params, h, c, method="feed")
    np.testing.assert_array_equal(ours, fed_BND)


def test_gradient_flows_through_the_thought_not_through_a_choice():
  """The thought is never hardened: the coarse head learns from fine codes."""
  thought = HoloRecThought(CONFIG, L, V)
  state_BND, table_VD = normal(1, 2, 3, D), normal(2, V, D)

  def loss(head_LDV):
    params = {"params": {"coarse_head": head_LDV}}
    return jnp.sum(
      thought.apply(params, state_BND, 1, table_VD, method="think")[0]
    )

  gradient_LDV = jax.grad(loss)(normal(0, L, D, V))
  assert np.abs(gradient_LDV[1]).min() > 0
  assert not gradient_LDV[0].any() and not gradient_LDV[2].any()


def test_pause_says_nothing():
  thought = PauseThought(CONFIG, L, V)
  pause_LD, state_BND = normal(0, L, D), normal(1, 2, 3, D)
  params = {"params": {"pause": pause_LD}}
  fed_BND, logits = thought.apply(params, state_BND, 2, None, method="think")
  assert logits is None
  np.testing.assert_array_equal(fed_BND, state_BND + pause_LD[2])
  joined = thought.apply(params, state_BND, fed_BND, method="inject")
  assert np.array_equal(joined, state_BND)
