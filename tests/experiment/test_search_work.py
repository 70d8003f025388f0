"""The work of a search, counted by hand and by XLA."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.decode.filters import live_nodes
from holorec_jax.decode.search import make_search
from holorec_jax.decode.search_tree import device_tree
from holorec_jax.experiment.search_work import Shape, flops_per_user


@pytest.mark.parametrize("history", ["codes", "pooled"])
@pytest.mark.parametrize("thought", ["none", "holorec", "pause"])
def test_flops_are_those_of_the_compiled_search(thought, history):
  """With three levels the scan's body, which XLA counts once, runs once."""
  catalog = tiny.make_catalog(200, levels=3, codes=16)
  model, params = tiny.make_model(
    catalog,
    thought=thought,
    history=history,
    d_model=64,
    d_ff=256,
    num_heads=4,
    head_dim=32,
    encoder_layers=2,
    decoder_layers=2,
  )
  users, slots, beam = 4, 8, 8
  tree = device_tree(catalog)
  live = live_nodes(tree, jnp.ones(200, bool))
  item_BT = np.zeros((users, slots), np.int32)
  lowered = make_search(model, beam, beam).lower(
    params, tiny.make_codes(catalog), tree, live, item_BT
  )
  by_xla = lowered.cost_analysis()["flops"] / users
  by_hand = flops_per_user(model.config, Shape(slots, 3, 16, beam, users))
  # XLA counts additions, norms and softmaxes, too.
  assert by_hand < by_xla < 1.25 * by_hand
