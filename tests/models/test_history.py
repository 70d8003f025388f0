"""The history encoder: what each slot may see, in both forms of history."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.models.history import HistoryEncoder

L, T, D = 2, 6, 16
CATALOG = tiny.make_catalog(30, L, 6)


def encode(history: str, causal: bool):
  model, params = tiny.make_model(
    CATALOG, history=history, causal_history=causal, encoder_layers=2
  )
  encoder = HistoryEncoder(model.config)

  def run(embedded_BTLD, segment_BT):
    return encoder.apply(
      {"params": params["encoder"]}, embedded_BTLD, segment_BT, True
    ).reshape(len(segment_BT), segment_BT.shape[1], -1)

  return tiny.jit(run)


def embedded(seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.normal(size=(1, T, L, D)).astype(np.float32)


@pytest.mark.parametrize("history", ["codes", "pooled"])
@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_whom(history, causal):
  run = encode(history, causal)
  segment_BT = np.array([[1, 1, 1, 1, 2, 0]])
  before = np.asarray(run(embedded(0), segment_BT))
  for changed in range(T):
    x_BTLD = embedded(0)
    x_BTLD[:, changed] = embedded(1)[:, changed]
    after = np.asarray(run(x_BTLD, segment_BT))
    moved_T = (before != after).any(axis=(0, 2))
    own_T = segment_BT[0] == segment_BT[0, changed]
    if causal:
      own_T &= np.arange(T) >= changed
    filled_T = segment_BT[0] > 0
    np.testing.assert_array_equal(moved_T[filled_T], own_T[filled_T])


@pytest.mark.parametrize("history", ["codes", "pooled"])
def test_where_a_history_lies_in_its_row_does_not_matter(history):
  run = encode(history, True)
  x_BTLD = embedded(0)
  first = run(x_BTLD, np.array([[1, 1, 1, 0, 0, 0]]))
  moved = run(np.roll(x_BTLD, 2, axis=1), np.array([[1, 1, 2, 2, 2, 0]]))
  np.testing.assert_allclose(first[:, :3], moved[:, 2:5], atol=1e-5)


def test_codes_are_tokens_and_pooled_items_are_one_vector():
  for history, tokens in (("codes", L), ("pooled", 1)):
    states = encode(history, True)(embedded(0), np.ones((1, T), np.int32))
    assert states.shape == (1, T, tokens * D)


def test_pooling_knows_the_order_of_codes():
  run = encode("pooled", True)
  segment_BT = np.ones((1, T), np.int32)
  swapped = embedded(0)[:, :, ::-1]
  assert not jnp.allclose(
    run(embedded(0), segment_BT), run(swapped, segment_BT), atol=1e-2
  )
