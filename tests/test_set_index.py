"""The lattice of code sets, against sets in plain Python."""

import itertools

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.set_index import build_set_index, shares


def test_literal_arrays():
  # Items 0 and 2 are alike; 1 shares its second code with them.
  index = build_set_index(np.array([[1, 0], [0, 0], [1, 0]]), num_codes=2)
  assert index.subset_start.tolist() == [0, 1, 3, 4, 6]
  assert index.node_IX.tolist() == [[0, 2, 3, 5], [0, 1, 3, 4], [0, 2, 3, 5]]
  # Tokens: codebook 0 has 0 and 1, codebook 1 has 2 and 3.
  assert index.first_edge.tolist() == [0, 3, 4, 5]
  assert index.num_edges.tolist() == [3, 1, 1, 2]
  assert index.edge_token.tolist() == [0, 1, 2, 2, 2, 0, 1]
  assert index.edge_child.tolist() == [1, 2, 3, 4, 5, 4, 5]
  assert index.fanout == (3, 2)
  assert index.leaf_items.tolist() == [1, 0, 2]
  assert index.first_item.tolist() == [0, 1]
  assert index.num_items.tolist() == [1, 2]
  assert index.largest_leaf == 2


def test_shares_are_among_the_items_with_the_same_codes_of_a_subset():
  index = build_set_index(
    np.array([[1, 0], [0, 0], [1, 0], [0, 1]]), 2, np.arange(3)
  )
  third = np.float32(1 / 3)
  # Of nothing, the first code, the second, both.
  np.testing.assert_array_equal(
    shares(index),
    [
      [third, 0.5, third, 0.5],
      [third, 1, third, 1],
      [third, 0.5, third, 0.5],
      [0, 0, 0, 0],  # outside the index
    ],
  )


@pytest.mark.parametrize(("codebooks", "codes"), [(2, 9), (3, 4), (5, 2)])
def test_every_order_leads_to_the_item(codebooks, codes):
  rng = np.random.default_rng(codebooks)
  codes_IM = rng.integers(0, codes, (40, codebooks))
  items = np.flatnonzero(rng.random(40) < 0.8)
  index = build_set_index(codes_IM, codes, items)
  outside = np.setdiff1d(np.arange(40), items)
  assert (index.node_IX[outside] == -1).all()

  def edges(node):
    own = slice(
      index.first_edge[node], index.first_edge[node] + index.num_edges[node]
    )
    return dict(zip(index.edge_token[own], index.edge_child[own]))

  for item in items:
    for order in itertools.permutations(range(codebooks)):
      node = subset = 0
      for codebook in order:
        below = edges(node)
        assert list(below) == sorted(below)
        # Exactly the codes of the items that share what was chosen.
        mates = items[index.node_IX[items, subset] == node]
        assert set(below) == {
          r * codes + codes_IM[mate, r]
          for mate in mates
          for r in range(codebooks)
          if not subset >> r & 1
        }
        node = below[codebook * codes + codes_IM[item, codebook]]
        subset |= 1 << codebook
        assert node == index.node_IX[item, subset]
      leaf = node - index.first_leaf
      held = slice(
        index.first_item[leaf], index.first_item[leaf] + index.num_items[leaf]
      )
      same = (codes_IM[items] == codes_IM[item]).all(axis=1)
      assert index.leaf_items[held].tolist() == items[same].tolist()


def test_nodes_are_the_distinct_code_sets():
  codes_IM = np.random.default_rng(0).integers(0, 3, (50, 3))
  index = build_set_index(codes_IM, 3)
  for subset in range(8):
    chosen = [r for r in range(3) if subset >> r & 1]
    rows = np.unique(codes_IM[:, chosen], axis=0)
    start, end = index.subset_start[subset : subset + 2]
    assert end - start == len(rows)
    # In the order of their codes.
    for node, row in enumerate(rows):
      same = (codes_IM[:, chosen] == row).all(axis=1)
      assert (index.node_IX[same, subset] == start + node).all()
  assert index.bytes_per_item < (4 * 3 + 12) * 8 + 8


@pytest.mark.parametrize(
  ("codes_IM", "items", "message"),
  [
    (np.zeros((3, 1), int), None, "1 codes; sets of 2..8"),
    (np.zeros((3, 9), int), None, "9 codes; sets of 2..8"),
    (np.full((3, 2), 4), None, "Item 0 has code 4"),
    (np.zeros((3, 2)), None, "integer codes"),
    (np.zeros((3, 2), int), [], "No item"),
    (np.zeros((3, 2), int), [3], "no item 3"),
  ],
)
def test_what_cannot_be_indexed(codes_IM, items, message):
  with pytest.raises(UserError, match=message):
    build_set_index(codes_IM, 4, items)
