"""The generator: all positions == one target a row, and no future leaks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from flax import linen as nn
from tiny_qwen3 import QWEN3

from holorec_jax.models.generator import Generator
from holorec_jax.models.history import HistoryEncoder
from holorec_jax.models.qwen3 import Qwen3
from holorec_jax.train.losses import LossConfig, generator_loss
from holorec_jax.types import Batch

# The forms of the generator that all-position training has to serve.
RICH = dict(start="last", cross_bias=True, repeat_bias=True, thought_carry=True)
FLAT = QWEN3 | dict(decoder_layers=1)
SCANNED = QWEN3 | dict(start="last", repeat_bias=True, scan_layers=True)
CATALOG = tiny.make_catalog(30, levels=2, codes=6)
CODES = tiny.make_codes(CATALOG)


def weighted_loss(outputs, params, batch, weight_BN):
  loss, _ = generator_loss(
    outputs,
    CODES.fine_IL[batch.target_BN],
    CODES.sids_IRL[batch.target_BN],
    weight_BN,
    params["code_embedding"],
    LossConfig(label_smoothing=0.1),
  )
  return loss


def spread(batch, rows: int, branches: int):
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


@pytest.mark.parametrize(
  ("form", "thought", "history"),
  [
    *((RICH, t, h) for t in tiny.every_thought for h in ("codes", "pooled")),
    (FLAT, "none", "codes"),
    (FLAT, "s2gr", "codes"),
    (SCANNED, "holorec", "pooled"),
  ],
)
def test_all_positions_are_one_target_per_row(form, thought, history):
  """Same causal encoder: equal losses, target by target, equal gradients."""
  model, params = tiny.make_model(
    CATALOG, num_aligned=1, thought=thought, history=history, **form
  )

  def total(params, weight_BN, batch):
    outputs = model.apply({"params": params}, batch, CODES)
    return weighted_loss(outputs, params, batch, weight_BN)

  differentiate = tiny.jit(jax.grad(total, argnums=(0, 1)))

  def run(batch):
    batch = spread(batch, rows=10, branches=6)  # One shape, one compilation.
    used_BN = batch.weight_BN > 0
    importance = np.random.default_rng(0).normal(size=used_BN.sum())
    weight_BN = np.zeros(used_BN.shape, np.float32)
    weight_BN[used_BN] = importance
    # The loss is linear in the weights: their gradient is each target's loss.
    gradient, loss_BN = differentiate(params, weight_BN, batch)
    return gradient, np.asarray(loss_BN)[used_BN]

  packed = tiny.make_packed(CATALOG)
  packed_gradient, packed_X = run(packed)
  single_gradient, single_X = run(tiny.unpack(packed))
  assert len(packed_X) == 10 and np.std(packed_X) > 0.1
  np.testing.assert_allclose(packed_X, single_X, rtol=1e-5, atol=1e-5)
  theirs = jax.tree.leaves(single_gradient)
  ours = jax.tree.leaves_with_path(packed_gradient)
  for (path, gradient), other in zip(ours, theirs):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(gradient, other, 1e-4, 1e-5, err_msg=name)
    assert np.abs(gradient).max() > 1e-6, f"{name} is idle"


@pytest.mark.parametrize(
  ("form", "thought"),
  [(form, t) for form in (RICH, FLAT) for t in tiny.every_thought]
  + [(SCANNED, "holorec")],
)
def test_no_gradient_from_the_future_or_from_other_histories(form, thought):
  """Exactly zero, for every pair of a branch and a history slot."""
  model, params = tiny.make_model(
    CATALOG, num_aligned=1, thought=thought, **form
  )
  packed = tiny.make_packed(CATALOG)

  def losses(delta_BTLD):
    def perturb(method, args, kwargs, context):
      if isinstance(context.module, HistoryEncoder | Qwen3) and (
        context.method_name == "__call__"
      ):
        args = (args[0] + delta_BTLD, *args[1:])
      return method(*args, **kwargs)

    with nn.intercept_methods(perturb):
      outputs = model.apply({"params": params}, packed, CODES)
    # One loss per branch, all terms of it.
    return jax.vmap(
      lambda one_X: weighted_loss(
        outputs, params, packed, one_X.reshape(packed.weight_BN.shape)
      )
    )(jnp.eye(packed.weight_BN.size))

  B, T = packed.item_BT.shape
  jacobian = tiny.jit(jax.jacrev(losses))(jnp.zeros((B, T, 2, 16)))
  flow_BNBT = np.abs(jacobian).max(axis=(-1, -2)).reshape(B, T, B, T)
  own_row = np.eye(B, dtype=bool)[:, None, :, None]
  own_history = packed.segment_BT[:, :, None, None] == packed.segment_BT
  past = np.arange(T) <= np.arange(T)[:, None, None]
  used = packed.weight_BN[:, :, None, None] > 0
  seen = own_row & own_history & past & used
  assert (flow_BNBT[np.broadcast_to(used, seen.shape) & ~seen] == 0).all()
  assert (flow_BNBT[seen] > 0).all()


@pytest.mark.parametrize("form", [RICH, FLAT])
def test_later_and_other_items_change_nothing_bit_for_bit(form):
  model, params = tiny.make_model(CATALOG, thought="holorec", **form)
  packed = tiny.make_packed(CATALOG)
  other = tiny.make_packed(CATALOG, seed=1)
  # Row 0: the second history from its second slot on; row 1: the first one.
  item_BT = packed.item_BT.copy()
  item_BT[0, 3:5] = other.item_BT[0, 3:5]
  item_BT[1, 0] = other.item_BT[1, 0]
  changed = dataclasses.replace(packed, item_BT=item_BT)

  def run(batch):
    outputs = model.apply({"params": params}, batch, CODES)
    return jnp.stack([output.fine_BNV for output in outputs])

  run = tiny.jit(run)
  same = np.asarray(run(packed)) == np.asarray(run(changed))
  same_BN = same.all(axis=(0, -1))
  assert same_BN[0, :3].all() and same_BN[1, 1:5].all()
  assert not same_BN[0, 3:5].any() and not same_BN[1, 0]


def test_alignment_heads_vanish_at_inference():
  model, params = tiny.make_model(CATALOG, num_aligned=1)
  bare = Generator(model.config, model.num_levels, model.num_codes)
  batch = tiny.unpack(tiny.make_packed(CATALOG))
  bare_params = {k: v for k, v in params.items() if k != "align_head"}

  def decode(model, params):
    bound = model.bind({"params": params})
    context = bound.open_branches(
      batch.item_BT, CODES, batch.segment_BT, batch.last_BN
    )
    return bound.level(bound.start(context), context, 0, None)[1]

  decode = tiny.jit(decode, static_argnums=0)
  ours, theirs = decode(model, params), decode(bare, bare_params)
  assert ours.align_RBNV is None
  assert np.array_equal(ours.fine_BNV, theirs.fine_BNV)
  outputs = jax.eval_shape(
    lambda: model.apply({"params": params}, batch, CODES)
  )
  assert outputs[0].align_RBNV.shape == (1, 10, 1, 6)


@pytest.mark.parametrize(
  ("thought", "slots"), [("none", 2), ("holorec", 4), ("pause", 4)]
)
def test_decoder_steps_per_mode(thought, slots):
  """Non-thinking costs exactly L steps, a thought one more per level."""
  model, params = tiny.make_model(CATALOG, thought=thought)
  item_BT, one_B1 = jnp.zeros((1, 3), jnp.int32), jnp.ones((1, 1), int)

  def decode(params):
    bound = model.bind({"params": params})
    context = bound.open_branches(item_BT, CODES, jnp.ones((1, 3), int), one_B1)
    state, _ = bound.level(bound.start(context), context, 0, None)
    return bound.level(state, context, 1, jnp.zeros((1, 1), int))[0]

  state = jax.eval_shape(decode, params)
  assert [len(cache) for cache in state.caches] == [slots]
  assert all(slot.key.shape == (1, 1, 2, 4) for slot in state.caches[0])
