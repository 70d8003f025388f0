"""The stepwise decoder: cached == uncached, scanned == unrolled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

from holorec_jax.nn.layers import relative_bucket


def decode_uncached(params, inputs_BNSD, states_BCD, bias_BHNC):
  """T5's decoder over whole sequences, from its raw weights: no cache."""
  S = inputs_BNSD.shape[2]
  distance_SS = jnp.arange(S)[:, None] - jnp.arange(S)
  bucket_SS = relative_bucket(distance_SS, bidirectional=False)
  own_bias_HSS = params["relative_bias"]["table"][:, bucket_SS]
  own_bias_HSS = jnp.where(distance_SS >= 0, own_bias_HSS, -jnp.inf)
  cross_bias_BNHSC = jnp.swapaxes(bias_BHNC, 1, 2)[:, :, :, None]
  x_BNSD = inputs_BNSD
  for number in range(2):
    block = params[f"blocks_{number}"]
    normed = rms_norm(x_BNSD, block["self_norm"])
    x_BNSD += attention(block["self_attention"], normed, normed, own_bias_HSS)
    normed = rms_norm(x_BNSD, block["cross_norm"])
    x_BNSD += attention(
      block["cross_attention"], normed, states_BCD[:, None], cross_bias_BNHSC
    )
    hidden = rms_norm(x_BNSD, block["mlp_norm"]) @ block["mlp"]["wi"]["kernel"]
    x_BNSD += jax.nn.relu(hidden) @ block["mlp"]["wo"]["kernel"]
  return rms_norm(x_BNSD, params["final_norm"])


def rms_norm(x, params):
  mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
  return x * (mean_square + 1e-6) ** -0.5 * params["scale"]


def attention(params, x_BNSD, memory_BNCD, bias):
  """Every one of S positions reads all of C; two heads, no scaling."""

  def heads(name, x):
    projected = x @ params[name]["kernel"]
    return projected.reshape(*x.shape[:-1], 2, -1)

  key = jnp.broadcast_to(
    heads("key", memory_BNCD),
    (*x_BNSD.shape[:2], memory_BNCD.shape[2], 2, 4),
  )
  value = jnp.broadcast_to(heads("value", memory_BNCD), key.shape)
  logits = jnp.einsum("bnshk,bnchk->bnhsc", heads("query", x_BNSD), key)
  weights = jax.nn.softmax(logits + bias, axis=-1)
  mixed = jnp.einsum("bnhsc,bnchk->bnshk", weights, value)
  return mixed.reshape(*x_BNSD.shape[:3], -1) @ params["output"]["kernel"]


def unroll_uncached(model, params, batch, codes, outputs):
  """Thoughts and fine logits from one pass over the whole sequence.

  The sequence takes its thoughts from the cached unroll; that they are what
  the states of this pass think closes the circle.
  """
  bound = model.bind({"params": params})
  table_LVD = params["code_embedding"]
  context = bound.open_branches(
    batch.item_BT, codes, batch.segment_BT, batch.last_BN
  )
  codes_IL = codes.fine_IL
  embedded = table_LVD[jnp.arange(model.num_levels), codes_IL[batch.item_BT]]
  states_BCD = bound.encoder(embedded, batch.segment_BT, True)
  inputs = []
  for level, output in enumerate(outputs):
    code_BN = codes_IL[batch.target_BN, level - 1]
    inputs.append(table_LVD[level - 1, code_BN] if level else context.start_BND)
    if output.thought_BND is not None:
      inputs.append(output.thought_BND)
  decoded_BNSD = decode_uncached(
    params["decoder"], jnp.stack(inputs, 2), states_BCD, context.bias_BHNC
  )
  states = iter(jnp.moveaxis(decoded_BNSD, 2, 0))
  thoughts, fine = [], []
  for level in range(model.num_levels):
    state_BND = next(states)
    if bound.thought is not None:
      thought_BND, _ = bound.thought.think(state_BND, level, table_LVD[level])
      thoughts.append(thought_BND)
      state_BND = bound.thought.inject(next(states), thought_BND)
    fine.append(state_BND @ params["fine_head"][level])
  return thoughts, jnp.stack(fine)


def unroll_scanned(model, params, batch, codes):
  """The levels as the search runs them: as many slots at every level."""
  bound = model.bind({"params": params})
  context = bound.open_branches(
    batch.item_BT, codes, batch.segment_BT, batch.last_BN
  )
  state, first = bound.level(bound.start(context), context, 0, None)
  steps = model.steps_per_level
  spare = (model.num_levels - 1) * steps
  state = state.spread(batch.target_BN.shape[1], spare)

  def inner(state, level):
    code_BN = codes.fine_IL[batch.target_BN, level - 1]
    state, output = model.apply(
      {"params": params}, state, context, level, code_BN, method="level"
    )
    return state.drop_spare(steps, steps), output.fine_BNV

  state = jax.tree.map(jnp.asarray, state)
  levels = jnp.arange(1, model.num_levels)
  _, rest = jax.lax.scan(inner, state, levels)
  return jnp.concatenate([first.fine_BNV[None], rest])


@pytest.mark.parametrize("thought", tiny.every_thought)
def test_cached_is_uncached_and_scanned_is_unrolled(thought):
  catalog = tiny.make_catalog(20, levels=3, codes=5)
  # Two layers: what a layer caches depends on the layer below.
  model, params = tiny.make_model(catalog, thought=thought, decoder_layers=2)

  def run(params, batch, codes):
    outputs = model.apply({"params": params}, batch, codes)
    return (
      outputs,
      unroll_uncached(model, params, batch, codes, outputs),
      unroll_scanned(model, params, batch, codes),
    )

  outputs, (thoughts, uncached), scanned = tiny.jit(run)(
    params, tiny.make_packed(catalog), tiny.make_codes(catalog)
  )
  unrolled = np.stack([output.fine_BNV for output in outputs])
  np.testing.assert_allclose(uncached, unrolled, atol=1e-5)
  np.testing.assert_allclose(scanned, unrolled, atol=1e-5)
  for output, thought_BND in zip(outputs, thoughts):
    np.testing.assert_allclose(thought_BND, output.thought_BND, atol=1e-5)
  assert np.std(unrolled) > 0.1


@pytest.mark.parametrize("form", [{}, {"scan_layers": True}, QWEN3])
def test_all_levels_at_once_are_one_by_one(form):
  """With dropout, which drops the same units at every level."""
  catalog = tiny.make_catalog(20, levels=3, codes=5)
  model, params = tiny.make_model(
    catalog,
    **dict(decoder_layers=2, dropout=0.3, repeat_bias=True) | form,
  )
  batch, codes = tiny.make_packed(catalog), tiny.make_codes(catalog)
  target_BNL = codes.fine_IL[batch.target_BN]

  def one_by_one(bound, context):
    state, outputs = bound.start(context), []
    for level in range(bound.num_levels):
      code_BN = target_BNL[..., level - 1] if level else None
      state, output = bound.level(state, context, level, code_BN, False)
      outputs.append(output)
    return outputs

  def run(bound):
    context = bound.open_branches(
      batch.item_BT, codes, batch.segment_BT, batch.last_BN, False
    )
    at_once = bound.unroll(context, target_BNL, deterministic=False)
    return [
      jnp.stack([output.fine_BNV for output in outputs])
      for outputs in (at_once, one_by_one(bound, context))
    ]

  def apply(params):
    rngs = {"dropout": jax.random.key(0)}
    return model.apply({"params": params}, method=run, rngs=rngs)

  at_once, by_level = tiny.jit(apply)(params)
  np.testing.assert_allclose(at_once, by_level, rtol=1e-5, atol=1e-5)
  assert np.std(at_once) > 0.1


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("thought", ["none", "holorec"])
def test_few_branches_read_the_states_that_search_projects(
  scan_layers, thought
):
  catalog = tiny.make_catalog(20, levels=2, codes=5)
  model, params = tiny.make_model(
    catalog,
    thought=thought,
    head_dim=8,
    decoder_layers=2,
    scan_layers=scan_layers,
  )
  batch, codes = (
    tiny.unpack(tiny.make_packed(catalog)),
    tiny.make_codes(catalog),
  )

  def run(params, unrolled: bool):
    bound = model.bind({"params": params})
    context = bound.open_branches(
      batch.item_BT, codes, batch.segment_BT, batch.last_BN, unrolled=unrolled
    )
    assert isinstance(context.layers, jax.Array) == unrolled
    outputs = bound.unroll(context, codes.fine_IL[batch.target_BN])
    return sum(jnp.sum(jnp.sin(o.fine_BNV)) for o in outputs), outputs

  differentiate = tiny.jit(jax.grad(run, has_aux=True), static_argnums=1)
  ours = jax.tree.leaves_with_path(differentiate(params, True))
  theirs = jax.tree.leaves(differentiate(params, False))
  for (path, one), other in zip(ours, theirs):
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(one, other, 1e-4, 1e-5, err_msg=name)
