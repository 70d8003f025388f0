"""The prefix tree: literal arrays, and a brute-force walk."""

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.tree import build_tree, continuations, shares


def test_literal_arrays():
  #           item: 0       1       2       3       4
  codes_IL = [[1, 0], [0, 2], [1, 3], [0, 2], [1, 0]]
  tree = build_tree(np.array(codes_IL), num_codes=4)
  # Root; codes 0 and 1; then 02, 10, 13.
  assert tree.code.tolist() == [-1, 0, 1, 2, 0, 3]
  assert tree.level_start.tolist() == [0, 1, 3, 6]
  assert tree.first_child.tolist() == [1, 3, 4]
  assert tree.num_children.tolist() == [2, 1, 2]
  assert tree.first_item.tolist() == [0, 0, 2, 0, 2, 4]
  assert tree.num_items.tolist() == [5, 2, 3, 2, 2, 1]
  assert tree.leaf_items.tolist() == [1, 3, 0, 4, 2]
  assert tree.place_of_item().tolist() == [2, 0, 4, 1, 3]
  assert tree.fanout == (2, 2)
  assert (tree.num_levels, tree.num_leaves, tree.largest_leaf) == (2, 3, 2)
  assert tree.leaf_of_item().tolist() == [4, 3, 5, 3, 4]


def test_shares_are_one_over_the_items_below():
  codes_IL = [[1, 0], [0, 2], [1, 3], [0, 2], [1, 0]]
  tree = build_tree(np.array(codes_IL), num_codes=4)
  np.testing.assert_allclose(
    shares(tree),
    [
      [1 / 3, 1 / 2],
      [1 / 2, 1 / 2],
      [1 / 3, 1],
      [1 / 2, 1 / 2],
      [1 / 3, 1 / 2],
    ],
  )


def walk(tree, node: int, depth: int):
  """All (codes, items) below a node."""
  first, count = tree.first_item[node], tree.num_items[node]
  below = tree.leaf_items[first : first + count].tolist()
  if depth == tree.num_levels:
    yield (), below
    return
  first, count = tree.first_child[node], tree.num_children[node]
  met = []
  for child in range(first, first + count):
    for codes, items in walk(tree, child, depth + 1):
      met += items
      yield (int(tree.code[child]), *codes), items
  assert met == below


@pytest.mark.parametrize(
  ("items", "levels", "codes"),
  [(1, 1, 1), (1, 4, 9), (40, 1, 7), (200, 2, 6), (300, 4, 3), (300, 3, 300)],
)
def test_a_walk_finds_every_item_at_its_codes(items, levels, codes):
  codes_IL = np.random.default_rng(0).integers(0, codes, (items, levels))
  tree = build_tree(codes_IL, codes)
  groups: dict[tuple, list[int]] = {}
  for item, row in enumerate(codes_IL.tolist()):
    groups.setdefault(tuple(row), []).append(item)
  # In lexicographic order of codes, items of a leaf in their own order.
  assert list(walk(tree, 0, 0)) == sorted(groups.items())
  assert tree.num_leaves == len(groups)
  assert tree.largest_leaf == max(map(len, groups.values()))
  prefixes = [{row[:depth] for row in groups} for depth in range(levels + 1)]
  assert np.diff(tree.level_start).tolist() == [len(p) for p in prefixes]
  np.testing.assert_array_equal(
    tree.leaf_items[tree.place_of_item()], np.arange(items)
  )
  leaf_I = tree.leaf_of_item()
  for item, row in enumerate(codes_IL):
    assert tree.code[leaf_I[item]] == row[-1]


@pytest.mark.parametrize("bad", [-1, 4])
def test_a_code_out_of_range_is_named(bad):
  codes_IL = np.zeros((5, 3), int)
  codes_IL[3, 1] = bad
  with pytest.raises(
    UserError, match=rf"Item 3 has code {bad} at level 1; .* in 0\.\.3"
  ):
    build_tree(codes_IL, 4)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,)])
def test_an_empty_catalogue_is_refused(shape):
  with pytest.raises(UserError, match=r"\(items, levels\)"):
    build_tree(np.zeros(shape, int), 4)


def test_continuations_are_the_codes_of_items_with_the_same_prefix():
  codes_IL = np.random.default_rng(0).integers(0, 11, (60, 3))
  packed_ILX = continuations(build_tree(codes_IL, 11))
  assert packed_ILX.shape == (60, 3, 2)
  valid_ILV = np.unpackbits(packed_ILX, axis=-1, bitorder="little")[..., :11]
  for item, level in np.ndindex(60, 3):
    alike_I = (codes_IL[:, :level] == codes_IL[item, :level]).all(axis=1)
    expected = np.isin(np.arange(11), codes_IL[alike_I, level])
    np.testing.assert_array_equal(valid_ILV[item, level], expected)
