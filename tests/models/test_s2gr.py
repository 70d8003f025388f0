"""S2GR's model: the guide stands apart, thoughts may all come upfront."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
import tiny_qwen3

from holorec_jax.decode.exhaustive import score_all
from holorec_jax.decode.filters import live_nodes
from holorec_jax.decode.search import search
from holorec_jax.decode.search_tree import device_tree
from holorec_jax.models.guide import GuidedGenerator
from holorec_jax.train.objective import init_params

CATALOG = tiny.make_catalog(30, levels=3, codes=4)
CODES = tiny.make_codes(CATALOG)
SEARCH = tiny.jit(search, static_argnums=(1, 7, 8))
SCORE_ALL = tiny.jit(score_all, static_argnums=1)
HISTORIES = np.array(
  [[3, 7, 7, 1], [20, -1, -1, -1], [5, 29, -1, -1]], np.int32
)


def make_guided(**changes) -> tuple[GuidedGenerator, dict]:
  """A guided generator, and parameters none of which is idle."""
  generator, params = tiny.make_model(CATALOG, thought="s2gr", **changes)
  guided = GuidedGenerator(generator)
  shapes = jax.eval_shape(functools.partial(init_params, guided, 0))
  rng = np.random.default_rng(7)

  def draw(leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    return jnp.asarray(1 + 0.2 * noise if leaf.ndim == 1 else 0.3 * noise)

  return guided, params | {"guide": jax.tree.map(draw, shapes["guide"])}


@pytest.mark.parametrize("backbone", [{}, tiny_qwen3.QWEN3])
def test_a_guide_is_one_more_subtree_and_changes_no_output(backbone):
  """Dropout included: the generator's random numbers stay what they are."""
  guided, params = make_guided(**backbone, dropout=0.3)
  shapes = jax.eval_shape(functools.partial(init_params, guided, 0))
  assert jax.tree.structure(shapes) == jax.tree.structure(params)
  packed = tiny.make_packed(CATALOG)

  def run(model, params, key):
    return model.apply(
      {"params": params}, packed, CODES, False, rngs={"dropout": key}
    )

  run = tiny.jit(run, static_argnums=0)
  key = jax.random.key(0)
  outputs, guide_BND = run(guided, params, key)
  bare = {k: v for k, v in params.items() if k != "guide"}
  plain = run(guided.generator, bare, key)
  assert guide_BND.shape == (2, 6, 16)
  for ours, theirs in zip(outputs, plain):
    np.testing.assert_array_equal(ours.fine_BNV, theirs.fine_BNV)
    np.testing.assert_array_equal(ours.thought_BND, theirs.thought_BND)
  assert not np.array_equal(
    run(guided, params, jax.random.key(1))[1], guide_BND
  )


def check_search(model, params, catalog, trained=None):
  """A wide beam, cached and scanned, scores what the unroll does."""
  codes, tree = tiny.make_codes(catalog), device_tree(catalog)
  I = catalog.num_items
  live = live_nodes(tree, jnp.ones(I, bool))
  item_BT = np.where(HISTORIES < 0, -1, HISTORIES % I)
  found = SEARCH(params, model, codes, tree, live, item_BT, None, I, I)
  score_BI = SCORE_ALL(
    trained or params, model, codes, catalog.log_share_I, item_BT
  )
  assert (np.sort(found.item_BK) == np.arange(I)).all()
  np.testing.assert_allclose(
    found.score_BK,
    np.take_along_axis(np.asarray(score_BI), np.asarray(found.item_BK), 1),
    atol=1e-4,
  )


def test_search_does_without_the_guide():
  guided, params = make_guided()
  bare = {k: v for k, v in params.items() if k != "guide"}
  check_search(guided.generator, bare, CATALOG, trained=params)


@pytest.mark.parametrize("levels", [1, 3])
def test_upfront_search_is_the_unroll(levels):
  catalog = tiny.make_catalog(7, levels, codes=7 if levels == 1 else 3)
  model, params = tiny.make_model(catalog, thought="s2gr", think="upfront")
  check_search(model, params, catalog)


def test_upfront_thoughts_know_no_code_and_every_level_has_one():
  packed = tiny.make_packed(CATALOG)
  others = dataclasses.replace(packed, target_BN=packed.target_BN[::-1].copy())

  def think(model, params, batch):
    outputs = model.apply({"params": params}, batch, CODES)
    return jnp.stack([output.thought_BND for output in outputs])

  think = tiny.jit(think, static_argnums=0)
  for mode, lasting in (("upfront", 3), ("stepwise", 1)):
    model, params = tiny.make_model(CATALOG, thought="s2gr", think=mode)
    ours, theirs = (think(model, params, b) for b in (packed, others))
    assert ours.shape == (3, 2, 6, 16)
    equal_L = (np.asarray(ours) == np.asarray(theirs)).all(axis=(1, 2, 3))
    assert equal_L.tolist() == [level < lasting for level in range(3)]
    assert np.std(np.diff(ours, axis=0)) > 0.1


@pytest.mark.parametrize(
  ("thought", "think", "steps"),
  [
    ("none", "stepwise", (1, 1)),
    ("none", "upfront", (1, 1)),
    ("s2gr", "stepwise", (2, 2)),
    ("s2gr", "upfront", (4, 1)),
  ],
)
def test_steps_are_counted_as_they_are_done(thought, think, steps):
  model, params = tiny.make_model(CATALOG, thought=thought, think=think)
  assert (model.first_steps, model.steps_per_level) == steps

  def decode(params):
    bound = model.bind({"params": params})
    context = bound.open_branches(
      HISTORIES, CODES, (HISTORIES >= 0).astype(int), jnp.zeros((3, 1), int)
    )
    first, _ = bound.level(bound.start(context), context, 0, None)
    return first, bound.level(first, context, 1, jnp.zeros((3, 1), int))[0]

  first, second = jax.eval_shape(decode, params)
  slots = [len(state.caches[0]) for state in (first, second)]
  assert slots == [steps[0], sum(steps)]
