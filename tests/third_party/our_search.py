"""Our own search, and what the comparators' tests ask of theirs."""

import jax.numpy as jnp
import numpy as np
import tiny_models as tiny

from holorec_jax.decode.filters import live_nodes
from holorec_jax.decode.search import search
from holorec_jax.decode.search_tree import device_tree

T5_LIKE = dict(
  history="codes",
  causal_history=False,
  cross_bias=False,
  start="bos",
  thought="none",
  encoder_layers=2,
  decoder_layers=2,
)
USERS, SLOTS = 6, 5
SEARCH = tiny.jit(search, static_argnums=(1, 7, 8))


def draw_histories(items: int) -> np.ndarray:
  """Left-aligned, of length 1 up to all slots."""
  rng = np.random.default_rng(2)
  item_BT = rng.integers(0, items, (USERS, SLOTS)).astype(np.int32)
  length_B = np.linspace(1, SLOTS, USERS).astype(int)
  item_BT[np.arange(SLOTS) >= length_B[:, None]] = -1
  return item_BT


def search_ours(params, model, catalog, item_BT, beam, k):
  """Items and scores as numpy arrays."""
  tree = device_tree(catalog)
  live = live_nodes(tree, jnp.ones(catalog.num_items, bool))
  codes = tiny.make_codes(catalog)
  found = SEARCH(params, model, codes, tree, live, item_BT, None, beam, k)
  return np.asarray(found.item_BK), np.asarray(found.score_BK)


def assert_same(theirs, ours) -> None:
  """The very items in the very order; scores up to rounding."""
  (their_item_BK, their_score_BK), (item_BK, score_BK) = theirs, ours
  assert their_item_BK.dtype == np.int32
  assert their_score_BK.dtype == np.float32
  np.testing.assert_array_equal(their_item_BK, item_BK)
  np.testing.assert_allclose(their_score_BK, score_BK, atol=1e-4)
