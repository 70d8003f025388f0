"""On copied weights, the plain torch search finds what ours finds."""

import numpy as np
import pytest
import tiny_models as tiny
from our_search import (
  SLOTS,
  T5_LIKE,
  assert_same,
  draw_histories,
  search_ours,
)

pytest.importorskip("torch")
from third_party.torch_generator import TorchGenerator
from third_party.torch_plain import PlainGenerator
from third_party.torch_search import TorchSearch


@pytest.mark.parametrize("network", [TorchGenerator, PlainGenerator])
@pytest.mark.parametrize(
  ("softmax", "tied_heads", "gated_mlp", "distinct"),
  [
    ("level", False, False, True),
    ("level", True, True, False),
    ("tree", True, False, False),
    ("tree", False, True, True),
  ],
)
def test_a_narrow_beam_finds_the_same(
  network, softmax, tied_heads, gated_mlp, distinct
):
  catalog = tiny.make_catalog(60, 4, 5 if distinct else 3, distinct)
  assert (catalog.tree.largest_leaf == 1) == distinct
  model, params = tiny.make_model(
    catalog,
    softmax=softmax,
    tied_heads=tied_heads,
    gated_mlp=gated_mlp,
    **T5_LIKE,
  )
  item_BT = draw_histories(60)

  def theirs(beam):
    # More slots than a history has: the widest batch decides.
    search = TorchSearch(
      params, model.config, catalog, beam, 4, SLOTS + 2, network=network
    )
    return search(item_BT)

  narrow, wide = theirs(4), theirs(60)
  assert (narrow[0] >= 0).all()
  assert_same(narrow, search_ours(params, model, catalog, item_BT, 4, 4))
  assert (wide[1] > narrow[1] + 1e-4).any(), "the beam pruned nothing"


@pytest.mark.parametrize(("levels", "codes"), [(1, 9), (2, 5), (3, 3)])
def test_any_number_of_levels_and_more_asked_for_than_there_is(levels, codes):
  catalog = tiny.make_catalog(9, levels, codes)
  model, params = tiny.make_model(catalog, softmax="tree", **T5_LIKE)
  item_BT = draw_histories(9)
  theirs = TorchSearch(params, model.config, catalog, 12, 12, SLOTS)(item_BT)
  assert (theirs[0][:, 9:] == -1).all() and (theirs[0][:, :9] >= 0).all()
  assert_same(theirs, search_ours(params, model, catalog, item_BT, 12, 12))


def test_refuses_what_it_does_not_compute():
  catalog = tiny.make_catalog(9, 2, 5)
  model, params = tiny.make_model(catalog, **T5_LIKE)
  search = TorchSearch(params, model.config, catalog, 4, 4, SLOTS)
  empty = np.array([[-1, -1], [0, -1]], np.int32)
  with pytest.raises(ValueError, match="every history needs an item"):
    search(empty)
  causal = tiny.make_config(**T5_LIKE | {"causal_history": True})
  with pytest.raises(ValueError, match="no counterpart of"):
    TorchSearch(params, causal, catalog, 4, 4, SLOTS)
