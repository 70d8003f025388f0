"""Search with the decoder-only backbone: a wide beam is exhaustive."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

from holorec_jax.decode.exhaustive import score_all
from holorec_jax.decode.filters import live_nodes
from holorec_jax.decode.search import search
from holorec_jax.decode.search_tree import device_tree

CATALOG = tiny.make_catalog(30, levels=4, codes=3)
SEARCH = tiny.jit(search, static_argnums=(1, 7, 8, 9))
SCORE_ALL = tiny.jit(score_all, static_argnums=1)


@pytest.mark.parametrize(
  ("thought", "think", "scan"),
  [
    ("none", "stepwise", False),
    ("holorec", "stepwise", True),
    ("s2gr", "upfront", True),
  ],
)
def test_a_wide_beam_is_exhaustive(thought, think, scan):
  """Cached, scanned over levels, reordered with the beams."""
  model, params = tiny.make_model(
    CATALOG,
    thought=thought,
    think=think,
    history="pooled",
    repeat_bias=True,
    scan_layers=scan,
    **QWEN3,
  )
  codes, tree = tiny.make_codes(CATALOG), device_tree(CATALOG)
  I = CATALOG.num_items
  live = live_nodes(tree, jnp.ones(I, bool))
  item_BT = np.array(
    [[3, 7, 7, 1, 9], [20, -1, -1, -1, -1], [5, 29, -1, -1, -1]], np.int32
  )
  found = SEARCH(params, model, codes, tree, live, item_BT, None, I, I, False)
  score_BI = np.asarray(
    SCORE_ALL(params, model, codes, CATALOG.log_share_I, item_BT)
  )
  item_BI = np.asarray(found.item_BK)
  assert (np.sort(item_BI) == np.arange(I)).all()
  np.testing.assert_allclose(
    found.score_BK, np.take_along_axis(score_BI, item_BI, 1), atol=1e-4
  )
  assert np.std(score_BI, axis=1).min() > 0.3
  assert np.abs(score_BI[1] - score_BI[2]).max() > 0.1
