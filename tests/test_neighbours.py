"""The table of neighbours: by hand, and against a dense graph."""

import numpy as np
import pytest

from holorec_jax import neighbours
from holorec_jax.data import schema, splits
from holorec_jax.errors import UserError


def make_dataset(histories: list[list[int]], items: int) -> schema.Dataset:
  """Users with these events; the last two are validation's and test's."""
  lengths = [len(history) for history in histories]
  return schema.Dataset(
    name="by hand",
    item_ids=np.arange(items).astype(str).astype(object),
    item_text={},
    user_ids=np.arange(len(histories)).astype(str).astype(object),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
    items=np.concatenate(histories).astype(np.int32),
  )


def find(dataset, **changes) -> neighbours.Neighbours:
  split = splits.split_dataset(dataset, splits.SplitConfig())
  config = neighbours.NeighboursConfig(**changes)
  return neighbours.find_neighbours(dataset, split, config)


def test_a_table_by_hand():
  # Trains on 0 1 2 and on 0 2; what comes after is not to be known.
  dataset = make_dataset([[0, 1, 2, 3, 3], [0, 2, 3, 3]], 4)
  found = find(
    dataset, window=2, backward=0.5, exponent=0.0, decay=0.5, last=3, count=2
  )
  np.testing.assert_array_equal(
    found.item_IK, [[2, 1], [2, 0], [0, 1], [-1, -1]]
  )
  np.testing.assert_allclose(
    found.weight_IK, [[1.5, 1], [1, 0.5], [0.75, 0.5], [0, 0]]
  )
  np.testing.assert_allclose(found.recency_A, [1, 0.5, 0.25])


@pytest.mark.parametrize("count", [1, 3, 50])
def test_the_largest_weights_are_kept(count):
  rng = np.random.default_rng(0)
  histories = [
    rng.integers(0, 12, rng.integers(4, 9)).tolist() for _ in "x" * 9
  ]
  dataset = make_dataset(histories, 12)
  split = splits.split_dataset(dataset, splits.SplitConfig())
  config = neighbours.NeighboursConfig(count=count)
  pairs_II = neighbours.count_pairs(dataset, split, config.window)
  dense_II = neighbours.weigh_pairs(pairs_II, dataset, split, config).toarray()
  found = find(dataset, count=count)
  for item, weight_I in enumerate(dense_II):
    best = [i for i in np.argsort(-weight_I, kind="stable") if weight_I[i]]
    best = best[:count]
    row = found.item_IK[item]
    assert row[: len(best)].tolist() == best
    assert (row[len(best) :] == -1).all()
    np.testing.assert_allclose(
      found.weight_IK[item][: len(best)], weight_I[best], rtol=1e-6
    )
    assert (found.weight_IK[item][len(best) :] == 0).all()


def test_without_pairs_nobody_has_neighbours():
  found = find(make_dataset([[0, 1, 1]], 2))
  assert (found.item_IK == -1).all()


def test_new_items_have_none():
  found = find(make_dataset([[0, 1, 2, 3, 3]], 4)).lengthened(6)
  assert found.item_IK.shape[0] == found.weight_IK.shape[0] == 6
  assert (found.item_IK[4:] == -1).all()
  assert (found.item_IK[0] >= 0).any()


def test_wrong_settings_are_named():
  with pytest.raises(UserError, match=r"config.search.neighbours.floor"):
    neighbours.NeighboursConfig(floor=0.0)
