"""New items of a finished run: codes by the frozen quantizer."""

import dataclasses

import numpy as np
import pytest

from holorec_jax.catalog import remove_items
from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.errors import UserError
from holorec_jax.experiment import new_items, recommendation


def test_new_items_have_their_twins_codes_and_are_recommended(finished):
  config, workdir = finished
  run = recommendation.load_run(
    dataclasses.replace(
      config, search=dataclasses.replace(config.search, room=0.5)
    ),
    workdir,
  )
  recommender = run.recommender
  before = recommender.catalog
  histories = make_histories([[3, 17], [5]])
  recommender.recommend(histories)
  vectors_ID = np.load(workdir / "vectors" / "vectors.npy")
  # A twin of item 7, and two that no item is like.
  rng = np.random.default_rng(0)
  vectors_NW = np.concatenate(
    [vectors_ID[7:8], rng.normal(size=(2, vectors_ID.shape[1]))]
  ).astype(np.float32)
  changed = new_items.append(before, workdir, vectors_NW)
  first = before.num_items
  np.testing.assert_array_equal(changed.sids_IRL[first], before.sids_IRL[7])
  assert recommender.set_catalog(changed)
  only_new = [[first, first + 1, first + 2]] * 2
  found = recommender.recommend(histories, Filters(allow=only_new), k=3)
  for items_K in found.items_UK:
    assert sorted(items_K.tolist()) == only_new[0]
  # The twin has the same codes, and a share of the same leaf.
  both = recommender.recommend(histories, Filters(allow=[[7, first]] * 2), k=2)
  assert both.valid_UK.all()
  recommender.set_catalog(remove_items(changed, [first]))
  found = recommender.recommend(histories, Filters(allow=only_new), k=3)
  assert found.valid_UK.sum(axis=1).tolist() == [2, 2]


def test_without_a_quantizer_there_are_no_codes(finished, tmp_path):
  config, workdir = finished
  run = recommendation.load_run(config, workdir)
  with pytest.raises(UserError, match="has no quantizer"):
    new_items.append(run.recommender.catalog, tmp_path, np.zeros((1, 3)))
