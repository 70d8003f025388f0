"""The optimiser: its schedule, what decays, and the bound on gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.train.optimizer import OptimConfig, make_optimizer


def first_updates(config: OptimConfig, steps: int, params, grads) -> list:
  optimizer = make_optimizer(config, steps)
  state, updates = optimizer.init(params), []
  for _ in range(steps):
    update, state = optimizer.update(grads, state, params)
    updates.append(update)
  return updates


def test_warm_up_then_cosine():
  """With constant gradients, Adam's update is the learning rate itself."""
  config = OptimConfig(
    learning_rate=0.1, warmup_share=0.2, final_share=0.1, weight_decay=0.0
  )
  params, grads = jnp.zeros(1), jnp.ones(1)
  rates = -np.array(first_updates(config, 10, params, grads))[:, 0]
  cosine = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
  expected = 0.1 * np.concatenate([[0, 0.5], 0.1 + 0.9 * cosine])
  np.testing.assert_allclose(rates, expected, rtol=1e-3, atol=1e-6)


def test_only_matrices_decay():
  config = OptimConfig(learning_rate=0.1, warmup_share=0.5, weight_decay=0.3)
  params = {"matrix": jnp.full((2, 2), 2.0), "vector": jnp.full(2, 2.0)}
  grads = jax.tree.map(jnp.zeros_like, params)
  _, update = first_updates(config, 2, params, grads)
  # The second step runs at the peak.
  np.testing.assert_allclose(update["matrix"], -0.1 * 0.3 * 2.0, rtol=1e-5)
  assert not update["vector"].any()


def test_gradients_are_clipped_by_their_global_norm():
  """Adam undoes any common factor, but not one that changes in between."""
  config = OptimConfig(learning_rate=0.1, weight_decay=0.0, clip_norm=5.0)
  optimizer = make_optimizer(config, 100)
  params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
  big = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
  clipped = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
  small = {"a": jnp.array([0.3]), "b": jnp.array([-0.4])}
  results = []
  for first in (big, clipped):
    state = optimizer.init(params)
    for grads in (first, small):
      update, state = optimizer.update(grads, state, params)
    results.append(jax.tree.leaves(update))
  assert np.ravel(results[0]) == pytest.approx(np.ravel(results[1]))


NAMES = ("adamw", "adafactor", "muon")


def draw(rng, *shape):
  return rng.normal(size=shape).astype(np.float32)


def make_params(rng, stacked: bool):
  """A dense layer, its norm and a table of codes; layers may be stacked."""
  lead = (3,) if stacked else ()
  return {
    "layers" if stacked else "block": {
      "wi": {"kernel": draw(rng, *lead, 8, 6)},
      "norm": {"scale": draw(rng, *lead, 8)},
    },
    "code_embedding": draw(rng, 2, 8, 6),
  }


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_is_the_size_of_an_update(name):
  """By its root mean square, whatever the gradient's; 0.2 of it with Muon."""
  config = OptimConfig(
    name=name, learning_rate=0.01, warmup_share=0.5, weight_decay=0.0
  )
  rng = np.random.default_rng(0)
  params = make_params(rng, stacked=False)
  grads = jax.tree.map(lambda x: 30 * draw(rng, *x.shape), params)
  update = first_updates(config, 2, params, grads)[1]
  assert jax.tree.structure(update) == jax.tree.structure(params)

  def size(x):
    return float(np.sqrt(np.mean(np.square(x))))

  assert size(update["code_embedding"]) == pytest.approx(0.01, rel=0.25)
  kernel = size(update["block"]["wi"]["kernel"])
  share = 0.2 if name == "muon" else 1.0
  assert kernel == pytest.approx(0.01 * share, rel=0.25)
  # Downhill.
  for step, grad in zip(jax.tree.leaves(update), jax.tree.leaves(grads)):
    assert np.sum(step * grad) < 0


def test_muon_orthogonalises_kernels_alone():
  config = OptimConfig(name="muon", warmup_share=0.5, weight_decay=0.0)
  rng = np.random.default_rng(0)
  params = make_params(rng, stacked=False)
  grads = jax.tree.map(lambda x: draw(rng, *x.shape), params)
  update = first_updates(config, 2, params, grads)[1]

  def spread(matrix):
    values = np.linalg.svd(matrix, compute_uv=False)
    return values.max() / values.min()

  kernel = update["block"]["wi"]["kernel"]
  assert spread(grads["block"]["wi"]["kernel"]) > 3
  assert spread(kernel) < 2
  assert spread(update["code_embedding"][0]) > 3


@pytest.mark.parametrize("name", NAMES)
def test_stacked_layers_are_updated_as_if_they_were_not(name):
  """Norms of stacked layers are matrices by shape, and do not decay either."""
  config = OptimConfig(name=name, warmup_share=0.5, weight_decay=0.3)
  params = make_params(np.random.default_rng(0), stacked=True)
  grads = make_params(np.random.default_rng(1), stacked=True)
  stacked = first_updates(config, 2, params, grads)[1]
  # The bound on the global norm acts on what is not there, too.
  config = dataclasses.replace(config, clip_norm=np.inf)
  for layer in range(3):

    def own(tree, layer=layer):
      return {"block": jax.tree.map(lambda x: x[layer], tree["layers"])}

    alone = first_updates(config, 2, own(params), own(grads))[1]
    for ours, theirs in zip(
      jax.tree.leaves(own(stacked)), jax.tree.leaves(alone)
    ):
      np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_adafactor_keeps_rows_and_columns_of_large_matrices():
  optimizer = make_optimizer(OptimConfig(name="adafactor"), 10)
  state = jax.eval_shape(optimizer.init, {"kernel": jnp.zeros((256, 512))})
  kept = sum(leaf.size for leaf in jax.tree.leaves(state))
  assert kept < 2 * (256 + 512)
