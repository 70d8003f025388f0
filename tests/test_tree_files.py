"""The tree on disk: round trips, and every kind of damage."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from holorec_jax import artifacts, tree_files
from holorec_jax.errors import UserError
from holorec_jax.tree import build_tree, continuations, shares
from holorec_jax.tree_files import load_tree, read_content, save_tree

CODES_IL = np.array([[1, 0], [0, 2], [1, 3], [0, 2], [1, 0]])
# A literal: hashes of one process, or release, must be those of the next.
CONTENT = "4533e009828367adeaea3f03886b34bd703900bd181395c8097de90ab451ce07"


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  save_tree(build_tree(CODES_IL, 4), tmp_path / "tree")
  return tmp_path / "tree"


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
  ("items", "levels", "codes"), [(1, 1, 1), (80, 3, 5), (50, 5, 65_536)]
)
def test_round_trip(tmp_path, items, levels, codes, verify):
  rng = np.random.default_rng(0)
  codes_IL = rng.integers(0, codes, (items, levels))
  tree = build_tree(codes_IL, codes, np.arange(0, items, 2))
  content = save_tree(tree, tmp_path / "new" / "tree")
  assert read_content(tmp_path / "new" / "tree") == content
  loaded = load_tree(tmp_path / "new" / "tree", verify)
  for field in dataclasses.fields(tree):
    ours, theirs = getattr(tree, field.name), getattr(loaded, field.name)
    assert type(theirs) in (type(ours), np.memmap)
    if isinstance(ours, np.ndarray):
      path = tmp_path / "new" / "tree" / f"{field.name}.npy"
      np.testing.assert_array_equal(np.load(path), ours)
      assert theirs.dtype == ours.dtype and not theirs.flags.writeable
    np.testing.assert_array_equal(ours, theirs)
  np.testing.assert_array_equal(tree.place_of_item(), loaded.place_of_item())
  np.testing.assert_array_equal(tree.leaf_of_item(), loaded.leaf_of_item())
  np.testing.assert_array_equal(shares(tree), shares(loaded))
  if codes < 100:
    np.testing.assert_array_equal(continuations(tree), continuations(loaded))


def test_equal_trees_have_equal_contents(folder, tmp_path):
  assert read_content(folder) == CONTENT

  def content(name, codes_IL, *args):
    return save_tree(build_tree(codes_IL, *args), tmp_path / name)

  assert content("a", CODES_IL.astype(np.uint8), np.int64(4)) == CONTENT
  assert content("b", CODES_IL, 4, np.arange(5)[::-1]) == CONTENT
  # A tree that was loaded is the same tree.
  assert save_tree(load_tree(folder), tmp_path / "c") == CONTENT
  others = {
    content("d", CODES_IL, 5),
    content("e", CODES_IL, 4, np.arange(4)),
    content("f", np.roll(CODES_IL, 1, axis=0), 4),
    content("g", np.concatenate([CODES_IL, [[0, 0]]]), 4, np.arange(5)),
  }
  assert len(others | {CONTENT}) == 5


def test_a_folder_is_whole_or_not_there(folder, tmp_path, monkeypatch):
  tree = load_tree(folder)
  with pytest.raises(UserError, match="tree is already there: delete it"):
    save_tree(tree, folder)

  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(artifacts, "hash_file", interrupt)
  with pytest.raises(KeyboardInterrupt):
    save_tree(tree, tmp_path / "other")
  assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_missing_file_is_named(folder):
  (folder / "num_items.npy").unlink()
  with pytest.raises(UserError, match=r"num_items\.npy: the file is missing"):
    load_tree(folder)
  (folder / "tree.json").unlink()
  with pytest.raises(UserError, match=r"has no tree\.json, .* save_tree wrote"):
    load_tree(folder)
  with pytest.raises(UserError, match=r"nowhere has no tree\.json"):
    load_tree(folder / "nowhere")


@pytest.mark.parametrize(("version", "age"), [(0, "older"), (2, "newer")])
def test_another_format_is_refused(folder, version, age):
  header = json.loads((folder / "tree.json").read_text())
  artifacts.write_json(folder / "tree.json", header | {"format": version})
  with pytest.raises(
    UserError, match=rf"of format {version}, {age} than the format 1 that"
  ):
    load_tree(folder)


@pytest.mark.parametrize("name", tree_files.ARRAYS)
def test_a_file_of_another_length_is_named(folder, name):
  path = folder / f"{name}.npy"
  whole = path.read_bytes()
  for cut in (whole[:-1], whole[:100], b"", whole + b"\0"):
    path.write_bytes(cut)
    with pytest.raises(
      UserError, match=rf"{name}\.npy: it has {len(cut)} bytes instead of"
    ):
      load_tree(folder)


@pytest.mark.parametrize("name", tree_files.ARRAYS)
def test_a_flipped_byte_is_found_by_verifying(folder, name):
  path = folder / f"{name}.npy"
  whole = path.read_bytes()
  for place in (0, 8, 40, 127, 128, len(whole) - 1):
    flipped = bytearray(whole)
    flipped[place] ^= 1
    path.write_bytes(flipped)
    load_tree(folder)
    with pytest.raises(UserError, match=rf"{name}\.npy: its bytes have chang"):
      load_tree(folder, verify=True)


def test_a_flipped_byte_of_the_seal_is_found(folder):
  path = folder / "tree.json"
  whole = path.read_bytes()
  for place in range(0, len(whole) - 1, 7):
    flipped = bytearray(whole)
    flipped[place] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"tree\.json|holds a tree of format"):
      load_tree(folder)


@pytest.mark.parametrize("value", ["[]", "{}", '{"format": "1"}', "", "\xff"])
def test_a_seal_of_another_kind_is_refused(folder, value):
  (folder / "tree.json").write_bytes(value.encode("latin-1"))
  with pytest.raises(UserError, match=r"tree\.json"):
    load_tree(folder)
