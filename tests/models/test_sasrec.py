"""SASRec: what a state depends on, and where its history may lie."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.errors import UserError
from holorec_jax.models.sasrec import SasRec, SasRecConfig

ITEMS = 30
CATALOG = tiny.make_catalog(ITEMS, 2, 6)
CONFIG = SasRecConfig(d_model=16, num_heads=2, layers=2, d_ff=24, dropout=0.0)
MODEL = SasRec(CONFIG, ITEMS)


def init(model: SasRec = MODEL) -> dict:
  one = jnp.ones((1, 1), jnp.int32)
  key = jax.random.key(0)
  return model.init(key, one, one, method=SasRec.states)["params"]


@pytest.fixture(scope="module")
def params() -> dict:
  return tiny.jit(init)()


@tiny.jit
def states(params, item_BT, segment_BT):
  return MODEL.apply(
    {"params": params}, item_BT, segment_BT, method=SasRec.states
  )


@tiny.jit
def branches(params, batch):
  return MODEL.apply(
    {"params": params},
    batch.item_BT,
    batch.segment_BT,
    batch.last_BN,
    method=SasRec.branches,
  )


def test_packed_histories_have_the_states_of_histories_alone(params):
  packed = tiny.make_packed(CATALOG)
  together = np.asarray(branches(params, packed))[packed.weight_BN > 0]
  alone = np.asarray(branches(params, tiny.unpack(packed)))[:, 0]
  assert len(alone) == 10
  np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_state_sees_its_own_past_and_nothing_else(params):
  """By gradients: every item stands once, so its row tells its slot."""
  item_BT = np.array([[3, 9, 4, 7, 8, 5]])
  segment_BT = np.array([[1, 1, 1, 2, 2, 0]])

  @tiny.jit
  def slope(params, weight_BTD):
    def total(table_ID):
      return jnp.sum(
        weight_BTD
        * MODEL.apply(
          {"params": params | {"item_embedding": table_ID}},
          item_BT,
          segment_BT,
          method=SasRec.states,
        )
      )

    return jax.grad(total)(params["item_embedding"])

  noise = np.random.default_rng(0).normal(size=(1, 6, 16))
  for slot in range(5):
    weight_BTD = np.zeros((1, 6, 16), np.float32)
    weight_BTD[:, slot] = noise[:, slot]
    moved_I = np.asarray(slope(params, weight_BTD)).any(axis=1)
    own_T = (segment_BT[0] == segment_BT[0, slot]) & (np.arange(6) <= slot)
    assert set(np.flatnonzero(moved_I)) == set(item_BT[0, own_T])


def test_order_matters(params):
  segment_BT = np.ones((1, 3), np.int32)
  ways = [
    states(params, np.array([w]), segment_BT) for w in ([1, 2, 3], [2, 1, 3])
  ]
  assert np.abs(ways[0][0, -1] - ways[1][0, -1]).max() > 1e-2


@pytest.mark.parametrize(("items", "rows"), [(30, 128), (128, 128), (129, 256)])
def test_the_table_has_whole_blocks_of_rows(items, rows):
  shapes = jax.eval_shape(lambda: init(SasRec(CONFIG, items)))
  assert shapes["item_embedding"].shape == (rows, 16)


def test_dropout_is_random_and_off_by_default(params):
  model = SasRec(dataclasses.replace(CONFIG, dropout=0.5), ITEMS)

  @tiny.jit
  def run(key):
    return model.apply(
      {"params": params},
      np.array([[1, 2, 3]]),
      np.ones((1, 3), np.int32),
      deterministic=key is None,
      rngs=None if key is None else {"dropout": key},
      method=SasRec.states,
    )

  first, second = run(jax.random.key(0)), run(jax.random.key(1))
  assert not np.allclose(first, second)
  np.testing.assert_allclose(
    run(None),
    states(params, np.array([[1, 2, 3]]), np.ones((1, 3), int)),
    atol=1e-5,
  )


def test_heads_divide_the_width():
  with pytest.raises(UserError, match=r"d_model is 10, which.*num_heads = 4"):
    SasRecConfig(d_model=10, num_heads=4)
  with pytest.raises(UserError, match=r"config\.sasrec\.dropout is 1\.0"):
    SasRecConfig(dropout=1.0)
