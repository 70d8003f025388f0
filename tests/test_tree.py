"""The prefix tree: literal arrays, and a brute-force walk."""

import dataclasses

import numpy as np
import pytest

from holorec_jax import tree as tree_lib
from holorec_jax.errors import UserError
from holorec_jax.tree import build_tree, continuations, shares, tree_of_rows


def assert_same(a, b):
  """Equal arrays of equal dtypes, equal fields."""
  for field in dataclasses.fields(a):
    x, y = getattr(a, field.name), getattr(b, field.name)
    assert np.asarray(x).dtype == np.asarray(y).dtype, field.name
    np.testing.assert_array_equal(x, y, field.name)


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
  assert (tree.num_codes, tree.num_catalog_items) == (4, 5)


def test_literal_arrays_without_two_of_the_items():
  codes_IL = [[1, 0], [0, 2], [1, 3], [0, 2], [1, 0]]
  tree = build_tree(np.array(codes_IL), 4, items=np.array([4, 0, 3, 3]))
  assert tree.code.tolist() == [-1, 0, 1, 2, 0]
  assert tree.num_items.tolist() == [3, 1, 2, 1, 2]
  assert tree.leaf_items.tolist() == [3, 0, 4]
  assert tree.num_catalog_items == 5
  assert tree.place_of_item().tolist() == [1, -1, -1, 0, 2]
  assert tree.leaf_of_item().tolist() == [4, -1, -1, 3, 4]
  assert shares(tree).tolist() == [
    [1 / 2, 1 / 2],
    [0, 0],
    [0, 0],
    [1, 1],
    [1 / 2, 1 / 2],
  ]
  assert continuations(tree)[..., 0].tolist() == [
    [0b11, 0b1],
    [0, 0],
    [0, 0],
    [0b11, 0b100],
    [0b11, 0b1],
  ]


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


# Keys of 32, 33 and 64 bits, and rows that no integer holds.
@pytest.mark.parametrize(
  ("levels", "codes"), [(2, 65_536), (3, 2048), (4, 65_536), (5, 65_536)]
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_large_codebooks_sort_as_python_does(levels, codes, dtype):
  values = np.array([0, 1, codes // 2, codes - 1], dtype)
  codes_IL = np.random.default_rng(0).choice(values, (300, levels))
  tree = build_tree(codes_IL, codes)
  rows = list(map(tuple, codes_IL.tolist()))
  order = sorted(range(300), key=lambda item: (rows[item], item))
  assert tree.leaf_items.tolist() == order
  assert [row for row, _ in walk(tree, 0, 0)] == sorted(set(rows))


@pytest.mark.parametrize("seed", range(3))
def test_items_outside_are_as_if_they_never_were(seed):
  rng = np.random.default_rng(seed)
  codes_IL = rng.integers(0, 5, (90, 3))
  items = np.flatnonzero(rng.random(90) < 0.4)
  tree = build_tree(codes_IL, 5, items)
  alone = build_tree(codes_IL[items], 5)
  assert_same(
    dataclasses.replace(
      tree,
      leaf_items=np.searchsorted(items, tree.leaf_items).astype(np.int32),
      num_catalog_items=len(items),
    ),
    alone,
  )
  outside = np.setdiff1d(np.arange(90), items)
  for of_item, absent in (
    (type(tree).place_of_item, -1),
    (type(tree).leaf_of_item, -1),
    (shares, 0),
    (continuations, 0),
  ):
    all_I = of_item(tree)
    np.testing.assert_array_equal(all_I[items], of_item(alone))
    assert len(all_I) == 90 and (all_I[outside] == absent).all()


def test_rows_that_are_sorted_make_the_same_tree():
  codes_IL = np.random.default_rng(0).integers(0, 4, (70, 3))
  tree = build_tree(codes_IL, 4)
  rows_NL, count_N = np.unique(codes_IL, axis=0, return_counts=True)
  assert_same(tree_of_rows(rows_NL, count_N, 4, tree.leaf_items), tree)
  numbered = tree_of_rows(rows_NL.astype(np.uint8), count_N, 4)
  assert numbered.leaf_items.tolist() == list(range(70))
  assert_same(dataclasses.replace(numbered, leaf_items=tree.leaf_items), tree)


ROWS_NL = np.array([[0, 2], [1, 0], [1, 3]])


def changed(row, codes):
  rows_NL = ROWS_NL.copy()
  rows_NL[row] = codes
  return {"rows_NL": rows_NL}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (changed(1, [1, 3]), r"Row 2 \[1, 3\] repeats row 1: give each row once"),
    (changed(2, [0, 3]), r"Row 2 \[0, 3\] comes after row 1 \[1, 0\], .* sort"),
    (changed(1, [1, 4]), r"Row 1 has code 4 at level 1; .* in 0\.\.3"),
    (changed(0, [-1, 2]), "Row 0 has code -1 at level 0"),
    (
      {"rows_NL": ROWS_NL * 1.0},
      r"integer codes; got float64, .* \[0.0, 2.0\]",
    ),
    ({"rows_NL": ROWS_NL[0]}, r"\(items, levels\); got \(2,\)"),
    ({"rows_NL": ROWS_NL[:0]}, r"\(items, levels\); got \(0, 2\)"),
    ({"count_N": [1, 2]}, r"3 rows need .* counts .* int64 of shape \(2,\)"),
    ({"count_N": [1.0, 1.0, 1.0]}, "3 rows need .* counts .* float64"),
    ({"count_N": [1, 0, 1]}, "Row 1 has 0 items; leave out"),
    ({"leaf_items": np.arange(5)}, "The rows count 4 items, but 5 leaf items"),
    ({"leaf_items": np.array([0, 1, 1, 2])}, "Item 1 is in the tree more than"),
    ({"leaf_items": np.arange(4) + 7}, r"no item 10 \(entry 3\): .* 0\.\.9"),
  ],
)
def test_rows_at_fault_are_named(change, message):
  arguments = {
    "rows_NL": ROWS_NL,
    "count_N": [1, 2, 1],
    "num_codes": 4,
    "leaf_items": np.arange(4),
    "num_catalog_items": 10,
  }
  with pytest.raises(UserError, match=message):
    tree_of_rows(**arguments | change)


@pytest.mark.parametrize(
  ("items", "message"),
  [
    ([0, 5], r"no item 5 \(entry 1\): items are numbered 0\.\.4"),
    ([-1], "no item -1"),
    ([], "No item is left for the tree"),
    ([0.0], "flat array of item numbers; got float64"),
    ([True] * 5, "flat array of item numbers; got bool"),
    ([[0, 1]], r"flat array of item numbers; .* \(1, 2\)"),
  ],
)
def test_items_at_fault_are_named(items, message):
  with pytest.raises(UserError, match=message):
    build_tree(np.zeros((5, 3), int), 4, np.array(items))


@pytest.mark.parametrize("num_codes", [-1, 0, 65_537])
def test_codebooks_of_other_sizes_are_refused(num_codes):
  with pytest.raises(
    UserError, match=rf"num_codes is {num_codes}; .* 1..65536"
  ):
    build_tree(np.zeros((5, 3), int), num_codes)


@pytest.mark.parametrize(("most", "what"), [(4, "5 items"), (6, "7 nodes")])
def test_more_than_int32_counts_is_refused(monkeypatch, most, what):
  monkeypatch.setattr(tree_lib, "_MAX_COUNT", most)
  codes_IL = np.array([[0, 0], [1, 0], [1, 1], [1, 2], [1, 2]])
  with pytest.raises(UserError, match=f"would have {what}; at most {most} fit"):
    build_tree(codes_IL, 4)


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
