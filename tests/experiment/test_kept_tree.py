"""Large trees are built once, mapped after that, and held to their codes."""

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.experiment import kept_tree
from holorec_jax.tree import build_tree

CODES_IL = np.random.default_rng(0).integers(0, 8, (200, 3), np.int32)


def find(folder, sids="a", codes_IL=CODES_IL):
  return kept_tree.find_tree(folder, {"sids": sids}, codes_IL, 8, large=200)


def test_a_large_tree_is_built_once(tmp_path, monkeypatch):
  built = find(tmp_path / "tree")
  (kept,) = (tmp_path / "tree").iterdir()

  def fail(*args):
    raise AssertionError("it was kept")

  monkeypatch.setattr(kept_tree, "build_tree", fail)
  mapped = find(tmp_path / "tree")
  assert isinstance(mapped.code, np.memmap)
  for name in ("code", "first_child", "first_item", "leaf_items"):
    np.testing.assert_array_equal(getattr(mapped, name), getattr(built, name))
  with pytest.raises(AssertionError, match="it was kept"):
    find(tmp_path / "tree", sids="other codes")
  (kept / "code.npy").write_bytes(b"cut")
  with pytest.raises(UserError, match=r"damaged at .*code\.npy"):
    find(tmp_path / "tree")


def test_small_ones_leave_nothing_behind(tmp_path):
  tree = find(tmp_path / "tree", codes_IL=CODES_IL[:199])
  np.testing.assert_array_equal(tree.code, build_tree(CODES_IL[:199], 8).code)
  assert not (tmp_path / "tree").exists()
