"""The generator of code sets: orders, packing, and no future leaks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
import tiny_qwen3
from flax import linen as nn

from holorec_jax.errors import UserError
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.history import HistoryEncoder
from holorec_jax.models.set_generator import (
  Heads,
  SetGenerator,
  confidence,
  next_codebook,
)
from holorec_jax.train.set_loss import SetLossConfig, SetObjective, set_loss
from holorec_jax.types import Batch

RICH = dict(start="last", cross_bias=True, repeat_bias=True)
CATALOG = tiny.make_catalog(30, levels=3, codes=6)
CODES = tiny.make_codes(CATALOG, unordered=True)
CONFIG = SetLossConfig(label_smoothing=0.1)


def make_model(heads: Heads = "cosine", **changes) -> tuple[SetGenerator, dict]:
  """A tiny generator and parameters none of which is idle."""
  model = SetGenerator(tiny.make_config(**changes), 3, 6, heads)
  rng = np.random.default_rng(1)

  def draw(leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    return jnp.asarray(noise * max(leaf.shape[-1], 4) ** -0.5)

  objective = SetObjective(model, CONFIG)
  shapes = jax.eval_shape(functools.partial(objective.init_params, 0))
  return model, jax.tree.map(draw, shapes)


def spread(batch: Batch, rows: int, branches: int) -> Batch:
  """The same batch with empty rows and unused branches added."""

  def pad(x_BX, width, fill):
    missing = ((0, rows - len(x_BX)), (0, width - x_BX.shape[1]))
    return np.pad(x_BX, missing, constant_values=fill)

  slots = batch.item_BT.shape[1]
  return Batch(
    item_BT=pad(batch.item_BT, slots, -1),
    segment_BT=pad(batch.segment_BT, slots, 0),
    last_BN=pad(batch.last_BN, branches, 0),
    target_BN=pad(batch.target_BN, branches, -1),
    weight_BN=pad(batch.weight_BN, branches, 0),
  )


def branch_losses(model, params, batch, order):
  """One loss per branch, all terms of it."""
  steps = model.apply({"params": params}, batch, CODES, order=order)
  target_BNM = CODES.fine_IL[batch.target_BN]

  def one(weight_X):
    weight_BN = weight_X.reshape(batch.weight_BN.shape)
    return set_loss(steps, target_BNM, weight_BN, CONFIG)[0]

  return jax.vmap(one)(jnp.eye(batch.weight_BN.size))


def test_the_most_confident_unused_codebook_comes_next():
  shares_MV = np.array([[0.4, 0.6], [0.95, 0.05], [0.2, 0.8]])
  logits = jnp.log(shares_MV)[None, None] + 3.0
  np.testing.assert_allclose(
    confidence(logits)[0, 0], np.log([0.6, 0.95, 0.8]), rtol=1e-5
  )
  unused = jnp.array([[[True, True, True], [True, False, True]]])
  logits = jnp.repeat(logits, 2, axis=1)
  assert next_codebook(logits, unused, "confident").tolist() == [[1, 2]]
  assert next_codebook(logits, unused, "fixed").tolist() == [[0, 0]]


@pytest.mark.parametrize("tied", [False, True])
def test_linear_heads_are_products_with_the_codes(tied):
  model, params = make_model("linear", tied_heads=tied)
  h_ND = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
  logits_NMV = model.apply({"params": params}, h_ND[None], method="_logits")[0]
  # Tied codes are of size 1 each, not of length 1.
  code_MVD = params["code_embedding"] / 4 if tied else params["code"]
  expected_NMV = np.einsum("nd,mvd->nmv", h_ND, code_MVD)
  np.testing.assert_allclose(logits_NMV, expected_NMV, rtol=1e-4, atol=1e-5)


def test_cosine_heads_are_tenfold_cosines_of_towers_and_codes():
  model, params = make_model("cosine")
  h_ND = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
  logits_NMV = model.apply({"params": params}, h_ND[None], method="_logits")[0]

  def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  for codebook in range(3):
    own_DD = params["tower_in"][:, 16 * codebook : 16 * codebook + 16]
    tower_ND = np.maximum(h_ND @ own_DD, 0) @ params["tower_out"][codebook]
    expected_NV = 10 * unit(tower_ND) @ unit(params["code"][codebook]).T
    np.testing.assert_allclose(
      logits_NMV[:, codebook], expected_NV, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
  ("heads", "order", "history", "least"),
  # Losses that are told apart; linear heads' differ less.
  [
    ("cosine", "confident", "codes", 0.1),
    ("linear", "fixed", "pooled", 0.05),
    ("cosine", "fixed", "pooled", 0.1),
  ],
)
def test_all_positions_are_one_target_per_row(heads, order, history, least):
  """Same causal encoder: equal losses, target by target, equal gradients."""
  model, params = make_model(heads, history=history, **RICH)

  def total(params, weight_BN, batch):
    steps = model.apply({"params": params}, batch, CODES, order=order)
    return set_loss(steps, CODES.fine_IL[batch.target_BN], weight_BN, CONFIG)[0]

  differentiate = tiny.jit(jax.grad(total, argnums=(0, 1)))

  def run(batch):
    batch = spread(batch, rows=10, branches=6)  # One compilation.
    used_BN = batch.weight_BN > 0
    weight_BN = np.zeros(used_BN.shape, np.float32)
    weight_BN[used_BN] = np.random.default_rng(0).normal(size=used_BN.sum())
    # The loss is linear in the weights: their gradient is each target's loss.
    gradient, loss_BN = differentiate(params, weight_BN, batch)
    return gradient, np.asarray(loss_BN)[used_BN]

  packed = tiny.make_packed(CATALOG)
  packed_gradient, packed_X = run(packed)
  single_gradient, single_X = run(tiny.unpack(packed))
  assert len(packed_X) == 10 and np.std(packed_X) > least
  np.testing.assert_allclose(packed_X, single_X, rtol=1e-5, atol=1e-5)
  theirs = jax.tree.leaves(single_gradient)
  ours = jax.tree.leaves_with_path(packed_gradient)
  for (path, gradient), other in zip(ours, theirs):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(gradient, other, 1e-4, 1e-5, err_msg=name)
    assert np.abs(gradient).max() > 1e-6, f"{name} is idle"


def test_no_gradient_from_the_future_or_from_other_histories():
  """Exactly zero, for every pair of a branch and a history slot."""
  model, params = make_model(**RICH)
  packed = tiny.make_packed(CATALOG)

  def losses(delta_BTMD):
    def perturb(method, args, kwargs, context):
      if isinstance(context.module, HistoryEncoder) and (
        context.method_name == "__call__"
      ):
        args = (args[0] + delta_BTMD, *args[1:])
      return method(*args, **kwargs)

    with nn.intercept_methods(perturb):
      return branch_losses(model, params, packed, "confident")

  B, T = packed.item_BT.shape
  jacobian = tiny.jit(jax.jacrev(losses))(jnp.zeros((B, T, 3, 16)))
  flow_BNBT = np.abs(jacobian).max(axis=(-1, -2)).reshape(B, T, B, T)
  own_row = np.eye(B, dtype=bool)[:, None, :, None]
  own_history = packed.segment_BT[:, :, None, None] == packed.segment_BT
  past = np.arange(T) <= np.arange(T)[:, None, None]
  used = packed.weight_BN[:, :, None, None] > 0
  seen = own_row & own_history & past & used
  assert (flow_BNBT[np.broadcast_to(used, seen.shape) & ~seen] == 0).all()
  assert (flow_BNBT[seen] > 0).all()


def test_codes_chosen_later_and_the_order_itself_leak_nothing():
  """A step's logits depend on the codes fed before it, not on the target's."""
  model, params = make_model()
  packed = tiny.make_packed(CATALOG)

  @tiny.jit
  def run(fine_IM):
    # Targets alone change their codes; histories keep theirs.
    rows = jnp.concatenate([CODES.fine_IL, fine_IM])
    batch = packed.replace(target_BN=packed.target_BN + 30)
    codes = CODES.replace(fine_IL=rows)
    return model.apply({"params": params}, batch, codes)

  ours = run(CODES.fine_IL)
  used_BN = packed.weight_BN > 0
  first = np.array(ours[0].codebook_BN)
  assert len(np.unique(first[used_BN])) > 1, "orders differ between branches"
  for codebook in range(3):
    theirs = run(CODES.fine_IL.at[:, codebook].set(5))
    fed_BN = np.zeros(used_BN.shape, bool)
    for mine, other in zip(ours, theirs):
      same = (mine.logits_BNMV == other.logits_BNMV).all(axis=(-1, -2))
      assert same[used_BN & ~fed_BN].all()
      fed_BN |= np.array(mine.codebook_BN) == codebook
    assert fed_BN.all()


def test_every_codebook_has_its_turn_and_random_orders_are_a_share():
  model, params = make_model()
  packed = tiny.make_packed(CATALOG)
  wide = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), 50, 0), packed)

  @functools.partial(tiny.jit, static_argnums=0)
  def orders(share):
    steps = model.apply(
      {"params": params},
      wide,
      CODES,
      random_order=share,
      rngs={"order": jax.random.key(0)},
    )
    return jnp.stack([s.codebook_BN for s in steps], axis=-1)

  own_BNM = np.asarray(orders(0.0))[wide.weight_BN > 0]
  for share in (0.0, 0.3, 1.0):
    drawn_BNM = np.asarray(orders(share))[wide.weight_BN > 0]
    assert (np.sort(drawn_BNM, axis=-1) == np.arange(3)).all()
    # A random order is the model's own in one of six cases.
    differs = (drawn_BNM != own_BNM).any(axis=-1).mean()
    assert abs(differs - share * 5 / 6) < 0.1
  counts = np.unique(drawn_BNM, axis=0, return_counts=True)[1]
  assert len(counts) == 6 and counts.min() > 40


def test_code_sets_have_no_thoughts():
  with pytest.raises(UserError, match=r"config\.model\.thought"):
    SetGenerator(tiny.make_config(thought="holorec"), 3, 6)


def test_code_sets_have_one_backbone():
  with pytest.raises(UserError, match=r"config\.model\.backbone is 'qwen3'"):
    SetGenerator(
      GeneratorConfig(**tiny_qwen3.QWEN3, dropout=0.0, thought="none"), 3, 6
    )
