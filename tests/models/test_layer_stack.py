"""Stacked layers: scanned == unrolled, in training and in search."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

from holorec_jax.decode.filters import live_nodes
from holorec_jax.decode.search import make_search
from holorec_jax.decode.search_tree import device_tree
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.models.layer_stack import (
  scan_layers,
  stack_layers,
  unstack_layers,
)
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective, init_params

# The search goes in a loop through the levels between the first and the last.
CATALOG = tiny.make_catalog(30, levels=3, codes=6)
CODES = tiny.make_codes(CATALOG)
PAIRS = tiny.make_catalog(30, levels=2, codes=6)
SHORT = tiny.make_catalog(30, levels=1, codes=30)
DEEP = dict(encoder_layers=2, decoder_layers=2)


def scanned(model, **changes):
  config = dataclasses.replace(model.config, scan_layers=True, **changes)
  return model.clone(config=config)


def make_set_model():
  config = tiny.make_config(repeat_bias=True, **DEEP)
  model = SetGenerator(config, 2, PAIRS.num_codes)
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(functools.partial(init_params, model, 0))
  draw = functools.partial(rng.normal, scale=0.3)
  return model, jax.tree.map(lambda x: jnp.float32(draw(size=x.shape)), shapes)


def assert_close(ours, theirs, **tolerance):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
    np.testing.assert_allclose(x, y, **tolerance)


def test_layouts_go_back_and_forth():
  model, params = tiny.make_model(CATALOG, thought="holorec", **DEEP)
  stacked = stack_layers(params)
  expected = jax.eval_shape(functools.partial(init_params, scanned(model), 0))
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(jnp.shape, expected)
  kernel = stacked["decoder"]["layers"]["mlp"]["wi"]["kernel"]
  own = params["decoder"]["blocks_1"]["mlp"]["wi"]["kernel"]
  np.testing.assert_array_equal(kernel[1], own)
  assert_close(unstack_layers(stacked), params, rtol=0)
  # What is no stack stays, whatever it is called.
  guide = {"guide": {"blocks_0": params["bos"]}}
  assert_close(stack_layers(guide), guide, rtol=0)


def test_initial_layers_differ_and_are_scaled_as_the_unrolled_ones():
  model, _ = tiny.make_model(CATALOG, d_ff=64, **DEEP)
  init = tiny.jit(lambda: init_params(scanned(model), 0))
  layers = unstack_layers(init())["decoder"]
  first, last = (layers[f"blocks_{n}"]["mlp"]["wi"]["kernel"] for n in (0, 1))
  assert np.abs(first - last).max() > 0.1
  assert np.std(first) == pytest.approx(16**-0.5, rel=0.1)
  np.testing.assert_array_equal(layers["blocks_1"]["mlp_norm"]["scale"], 1.0)


def test_scanned_and_rematerialised_train_as_unrolled():
  model, params = tiny.make_model(SHORT, thought="holorec", **DEEP)
  batch, codes = tiny.make_packed(SHORT), tiny.make_codes(SHORT)

  @functools.partial(tiny.jit, static_argnums=0)
  def run(model, params):
    objective = GeneratorObjective(model, LossConfig())
    return jax.value_and_grad(objective.loss, has_aux=True)(
      params, batch, codes, None
    )

  (loss, metrics), gradient = run(model, params)
  remat = model.clone(config=dataclasses.replace(model.config, remat="layers"))
  results = [(run(remat, params), lambda tree: tree)]
  for kept in ("none", "products", "layers"):
    changed = run(scanned(model, remat=kept), stack_layers(params))
    results.append((changed, unstack_layers))
  for ((other, measured), changed), convert in results:
    np.testing.assert_allclose(other, loss, rtol=1e-5)
    assert_close(measured, metrics, rtol=1e-5)
    assert_close(convert(changed), gradient, atol=1e-5)


@pytest.mark.parametrize(
  "backbone, scan, attentions",
  [
    ({}, False, 2),
    ({}, True, 2),
    # Nothing reads what the last layer makes of histories but its keys.
    (QWEN3, False, 3),
    # A loop's body counts once: of histories and of branches.
    (QWEN3, True, 2),
  ],
  ids=["t5", "t5_scanned", "qwen3", "qwen3_scanned"],
)
def test_remat_goes_through_layers_again(backbone, scan, attentions):
  def products(remat):
    model, params = tiny.make_model(
      SHORT, scan_layers=scan, remat=remat, **backbone
    )
    objective = GeneratorObjective(model, LossConfig())
    gradient = jax.grad(objective.loss, has_aux=True)
    batch, codes = tiny.make_packed(SHORT), tiny.make_codes(SHORT)
    lowered = jax.jit(gradient).lower(params, batch, codes, None)
    return lowered.as_text().count("dot_general")

  # A layer has eight or nine products: four projections, two of the attention
  # and two or three of the MLP, the last of which nothing needs.
  assert products("layers") - products("none") >= attentions * 7
  # Of the attention the two products alone.
  assert products("products") - products("none") == attentions * 2


def test_every_layer_drops_units_of_its_own():
  """And the same whenever it is called with the same key."""

  def layer(params, x, own, rngs):
    return x, jax.random.bits(rngs["dropout"], (4,))

  def masks(seed):
    key = jax.random.key(seed)
    return np.asarray(scan_layers(layer, np.zeros(3), 0.0, None, key)[1])

  first = masks(0)
  assert len(np.unique(first)) == first.size == 12
  np.testing.assert_array_equal(first, masks(0))
  assert not np.array_equal(first, masks(1))


def test_scanned_layers_drop_units():
  model, params = tiny.make_model(CATALOG, dropout=0.5, scan_layers=True)
  objective = GeneratorObjective(model, LossConfig())

  @tiny.jit
  def run(seed, params):
    key = jax.random.key(seed)
    batch = tiny.make_packed(CATALOG)
    return objective.loss(params, batch, CODES, key)[0]

  first, again, other = (run(seed, params) for seed in (0, 0, 1))
  assert first == again
  assert abs(first - other) > 1e-3


def histories() -> np.ndarray:
  rng = np.random.default_rng(2)
  item_BT = rng.integers(0, CATALOG.num_items, (4, 6)).astype(np.int32)
  item_BT[np.arange(6) >= np.array([1, 3, 5, 6])[:, None]] = -1
  return item_BT


@pytest.mark.parametrize(
  "thought, backend", [("none", "cpu"), ("holorec", "gpu")]
)
def test_search_finds_the_same_beams(thought, backend, monkeypatch):
  # The search unrolls its levels on CPU and scans them elsewhere.
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  changes = dict(start="last", cross_bias=True, repeat_bias=True)
  model, params = tiny.make_model(CATALOG, thought=thought, **changes, **DEEP)
  tree = device_tree(CATALOG)
  live = live_nodes(tree, jnp.ones(CATALOG.num_items, bool))

  def find(model, params):
    run = make_search(model, beam=7, k=5)
    return run(params, CODES, tree, live, histories())

  unrolled = find(model, params)
  stacked = find(scanned(model), stack_layers(params))
  np.testing.assert_array_equal(stacked.item_BK, unrolled.item_BK)
  np.testing.assert_array_equal(stacked.parent_LBM, unrolled.parent_LBM)
  np.testing.assert_allclose(stacked.score_BK, unrolled.score_BK, atol=1e-5)
  assert np.isfinite(unrolled.score_BK).all()


def test_set_search_finds_the_same():
  model, params = make_set_model()

  def find(model, params):
    engine = SetEngine(model)
    codes, index = engine.place(PAIRS)
    live = engine.live(index, jnp.ones(PAIRS.num_items, bool))
    return engine.make_search(7, 5)(params, codes, index, live, histories())

  unrolled = find(model, params)
  stacked = find(scanned(model), stack_layers(params))
  np.testing.assert_array_equal(stacked.item_BK, unrolled.item_BK)
  np.testing.assert_allclose(stacked.score_BK, unrolled.score_BK, atol=1e-5)
  assert np.isfinite(unrolled.score_BK).all()


def test_a_program_of_many_layers_is_no_longer():
  def lines(depth):
    model, params = tiny.make_model(
      CATALOG, scan_layers=True, encoder_layers=depth, decoder_layers=depth
    )
    tree = device_tree(CATALOG)
    live = live_nodes(tree, jnp.ones(CATALOG.num_items, bool))
    search = make_search(model, beam=7, k=5)
    lowered = search.lower(params, CODES, tree, live, histories())
    return len(lowered.as_text().splitlines())

  assert lines(2) == lines(9)
