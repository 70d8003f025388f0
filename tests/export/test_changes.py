"""Item deltas: the catalogue that the package would make, or a refusal."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny_bundles as tiny

from holorec_jax import catalog as catalog_lib
from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.errors import UserError
from holorec_jax.export import changes, delta, programs, runtime, sealed


@pytest.fixture(scope="module")
def system(exported):
  return exported[0], runtime.load(exported[1], replay=False)


def draw_codes(catalog, count: int, seed: int = 0) -> np.ndarray:
  """Of any items' rows, so that some share leaves, and of new ones."""
  rng = np.random.default_rng(seed)
  sids_NRL = catalog.sids_IRL[rng.integers(catalog.num_items, size=count)]
  return np.where(
    rng.random(sids_NRL.shape) < 0.3,
    rng.integers(catalog.num_codes, size=sids_NRL.shape),
    sids_NRL,
  ).astype(np.int32)


@pytest.fixture(scope="module")
def roomy(request):
  """A recommender whose arrays hold twice the items."""
  return tiny.make_recommender(request.param, room=1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("roomy", ["holorec", "none"], indirect=True)
def test_arrays_are_those_of_the_package(roomy, seed):
  """Bit by bit, in a second change as well as in the first."""
  recommender, engine, before = roomy, roomy.engine, roomy.catalog
  form = programs._describe_index(recommender)
  placed = recommender.placed
  arrays, _ = programs.name_leaves(dict(zip(("codes", "index"), placed)))
  ids = [f"item {item}" for item in range(tiny.ITEMS)]
  theirs = changes.Catalogue(
    ids,
    ids,
    {item: row for row, item in enumerate(ids)},
    before.counts_I + before.smoothing,
    before.active_I,
    jax.device_get(arrays),
  )
  ours = before
  for turn in range(2):
    codes = draw_codes(before, 6, seed + 10 * turn)
    gone = np.random.default_rng(seed).permutation(tiny.ITEMS)[turn::2][:5]
    ours = catalog_lib.add_items(ours, codes, codes[:, -1])
    ours = catalog_lib.remove_items(ours, gone)
    new = [f"new {turn} {item}" for item in range(6)]
    leaving = [f"item {item}" for item in gone]
    theirs = changes.change(
      theirs, changes.Delta(new, new, codes, leaving), form
    )
    want, _ = programs.name_leaves(
      dict(zip(("codes", "index"), engine.place(ours)))
    )
    assert want.keys() == theirs.arrays.keys()
    for key, array in want.items():
      np.testing.assert_array_equal(theirs.arrays[key], array, err_msg=key)
      assert theirs.arrays[key].dtype == array.dtype
    np.testing.assert_array_equal(theirs.active_I, ours.active_I)
  assert theirs.item_ids[-1] == "new 1 5" and theirs.row_of["new 1 5"] == 51


def test_a_delta_answers_as_the_changed_recommender(system, tmp_path):
  recommender, opened = system
  before = recommender.catalog
  codes = draw_codes(before, 8)
  gone = ["item 3", "item 11"]
  ids = [f"new {item}" for item in range(8)]
  delta.write(tmp_path / "d", changes.Delta(ids, ids, codes, gone), None)
  histories = tiny.draw_histories(9)
  unchanged = opened.recommend(histories)
  changed = opened.apply_delta(tmp_path / "d")
  after = catalog_lib.add_items(before, codes, codes[:, -1])
  try:
    recommender.set_catalog(catalog_lib.remove_items(after, [3, 11]))
    # As the golden request was answered, so that nothing compiles.
    filters = Filters(False, [[]] * 9, [None] * 9)
    with jax.default_matmul_precision("highest"):
      want = recommender.recommend(make_histories(histories), filters)
  finally:
    recommender.set_catalog(before)
  item_UK, score_UK = changed.recommend(histories)
  np.testing.assert_array_equal(item_UK, want.items_UK)
  np.testing.assert_allclose(score_UK, want.scores_UK, atol=1e-5)
  assert (item_UK >= tiny.ITEMS).any() and not np.isin(item_UK, [3, 11]).any()
  # Nothing is compiled, and the bundle itself is as it was.
  assert changed._search[4] is opened._search[4]
  assert opened._search[4]._cache_size() == 1
  np.testing.assert_array_equal(opened.recommend(histories)[0], unchanged[0])
  assert len(opened.item_ids) == tiny.ITEMS
  manifest = json.loads((tmp_path / "d" / sealed.MANIFEST).read_text())
  assert changed.manifest["deltas"] == [manifest["content"]]
  assert changed.manifest["content"] != opened.manifest["content"]
  # A new item may stand in a history, and be sold out.
  row = changed.row_of["new 0"]
  available_I = np.ones(len(changed.item_ids), bool)
  available_I[row] = False
  changed.set_available(available_I)
  item_UK, _ = changed.recommend([[row, 3]], allow=[[row, 3, 5]])
  assert item_UK[0].tolist() == [5] + [-1] * (tiny.K - 1)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"ids": ["a", "a"]}, "item 'a' is new twice"),
    ({"ids": ["a", "item 7"]}, r"'item 7' are to join, but .* already"),
    ({"removed": ["item 99"]}, "'item 99' are to leave, but are not in"),
    ({"removed": ["item 1"] * 2}, "item 'item 1' is to leave twice"),
    (
      {"removed": [f"item {i}" for i in range(40)], "ids": ()},
      "no item would be left",
    ),
    ({"sids_NRL": np.full((2, 2, 2), 6)}, r"codes of 6\.\.6; expected 0\.\.5"),
    (
      {"sids_NRL": np.zeros((2, 2, 3), int)},
      r"of shape \(2, 2, 3\), the catalogue's of \(2, 2\) and 2 levels",
    ),
    (
      {"ids": [str(i) for i in range(21)]},
      "would have 61 items, and this bundle has room for 60.*--room",
    ),
  ],
)
def test_what_cannot_change_is_named(system, fields, words):
  _, opened = system
  good = changes.Delta(["a", "b"], ["", ""], tiny.CATALOG.sids_IRL[:2], [])
  spoilt = good._replace(**fields)
  if len(spoilt.ids) != 2:
    count = len(spoilt.ids)
    codes = np.resize(tiny.CATALOG.sids_IRL, (count, *good.sids_NRL.shape[1:]))
    spoilt = spoilt._replace(sids_NRL=codes, titles=[""] * count)
  with pytest.raises(changes_of(runtime), match=words):
    opened.change(spoilt, "x")


def changes_of(module):
  """Its own copy's class: the files of a bundle are no package."""
  return module.changes.ChangeError


def test_more_items_of_one_code_than_there_is_room_for(system):
  _, opened = system
  codes = np.repeat(tiny.CATALOG.sids_IRL[:1], 15, axis=0)
  ids = [str(i) for i in range(15)]
  with pytest.raises(changes_of(runtime), match="items of equal codes"):
    opened.change(changes.Delta(ids, ids, codes, []), "x")


def test_folders_that_are_no_delta_of_it(exported, system, tmp_path):
  _, opened = system
  good = changes.Delta(["a"], [""], tiny.CATALOG.sids_IRL[:1], [])
  delta.write(tmp_path / "other", good, "of another run")
  delta.write(tmp_path / "good", good, None)
  with pytest.raises(UserError, match="already there"):
    delta.write(tmp_path / "good", good, None)
  spoilt = shutil.copytree(tmp_path / "good", tmp_path / "spoilt")
  path = spoilt / changes.CODES
  path.write_bytes(path.read_bytes()[:-1] + b"x")
  twice = opened.apply_delta(tmp_path / "good")
  for bundle_, folder, words in (
    (opened, tmp_path / "other", "is no item delta for the codes of this"),
    (opened, exported[1], "is no item delta"),
    (opened, spoilt, "items.safetensors was changed"),
    (opened, tmp_path / "nowhere", "is missing"),
    (twice, tmp_path / "good", r"cannot be applied, since .*'a' are to join"),
  ):
    with pytest.raises(runtime.BundleError, match=words):
      bundle_.apply_delta(folder)
  with pytest.raises(runtime.BundleError, match="no bundle but an item delta"):
    runtime.load(tmp_path / "good")


def test_what_the_golden_request_found_must_be_found(system, monkeypatch):
  """A tree that leads elsewhere, and one that hides what is new."""
  _, opened = system
  lib = runtime.changes
  good = changes.Delta(["a"], [""], tiny.CATALOG.sids_IRL[:1], [])
  honest = lib._build_tree

  def swap(codes_IL, weight_I, active_I):
    return honest(codes_IL[::-1], weight_I, active_I)

  def hide(codes_IL, weight_I, active_I):
    active_I = active_I.copy()
    active_I[-1] = False
    return honest(codes_IL, weight_I, active_I)

  for wrong, words in (
    (swap, "golden request 0 finds"),
    (hide, "'a' would not"),
  ):
    monkeypatch.setattr(lib, "_build_tree", wrong)
    with pytest.raises(lib.ChangeError, match=words):
      opened.change(good, "x")
