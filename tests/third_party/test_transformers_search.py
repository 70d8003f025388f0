"""On copied weights, transformers' `generate` finds what our search finds."""

import numpy as np
import pytest
import tiny_models as tiny
from our_search import T5_LIKE, assert_same, draw_histories, search_ours

pytest.importorskip("torch")
pytest.importorskip("transformers")
from third_party.transformers_search import make_search


@pytest.mark.parametrize(
  ("softmax", "tied_heads", "gated_mlp"),
  [("level", True, True), ("tree", True, False), ("tree", False, True)],
)
def test_a_narrow_beam_finds_the_same(softmax, tied_heads, gated_mlp):
  catalog = tiny.make_catalog(60, levels=4, codes=5)
  model, params = tiny.make_model(
    catalog,
    softmax=softmax,
    tied_heads=tied_heads,
    gated_mlp=gated_mlp,
    **T5_LIKE,
  )
  item_BT = draw_histories(60)

  def theirs(beam):
    return make_search(params, model.config, catalog, beam, 4)(item_BT)

  narrow, wide = theirs(4), theirs(30)
  assert (narrow[0] >= 0).all()
  assert_same(narrow, search_ours(params, model, catalog, item_BT, 4, 4))
  assert (wide[1] > narrow[1] + 1e-4).any(), "the beam pruned nothing"


def test_more_asked_for_than_there_is():
  catalog = tiny.make_catalog(9, levels=3, codes=3)
  model, params = tiny.make_model(catalog, softmax="tree", **T5_LIKE)
  item_BT = draw_histories(9)
  theirs = make_search(params, model.config, catalog, 12, 12)(item_BT)
  assert (theirs[0][:, 9:] == -1).all() and (theirs[0][:, :9] >= 0).all()
  assert_same(theirs, search_ours(params, model, catalog, item_BT, 12, 12))


def test_refuses_what_it_cannot_answer():
  catalog = tiny.make_catalog(9, 2, 5)
  model, params = tiny.make_model(catalog, **T5_LIKE)
  shared = tiny.make_catalog(30, 2, 3, distinct=False)
  with pytest.raises(ValueError, match="here items share them"):
    make_search(params, model.config, shared, 4, 4)
  search = make_search(params, model.config, catalog, 4, 4)
  empty = np.array([[-1, -1], [0, -1]], np.int32)
  with pytest.raises(ValueError, match="every history needs an item"):
    search(empty)
