"""The optimiser: its schedule, what decays, and the bound on gradients."""

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
