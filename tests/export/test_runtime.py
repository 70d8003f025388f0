"""Requests of all kinds, and a process that has no model code."""

import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import tiny_bundles as tiny

from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.export import changes, delta, runtime

ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import runtime
bundle = runtime.load(sys.argv[1])
bundle.warm_up()
item_UK, score_UK = bundle.recommend([[1, 2, 3], []], exclude_seen=True, k=3)
print([bundle.item_ids[item] for item in item_UK[0]], runtime.__file__)
print(bundle.vectors_of([{"title": "Rot"}], {"precomputed": [[5]]}).tolist())
print(len(bundle.explain([1, 2, 3], [5])[0]["levels"]))
changed = bundle.apply_delta(sys.argv[2])
new = changed.row_of["new"]
item_UK, score_UK = changed.recommend([[1, 2, 3]], allow=[[new, 7]], k=2)
print(sorted(changed.item_ids[item] for item in item_UK[0]), new)
tops = {name.partition(".")[0] for name in sys.modules}
print(sorted(tops & set(sys.argv[3:])))
"""
MODEL_CODE = ("holorec_jax", "flax", "optax", "orbax", "absl", "safetensors")


@pytest.fixture(scope="module")
def system(exported):
  return exported[0], runtime.load(exported[1], replay=False)


def test_without_the_model_code(exported, system, tmp_path):
  folder = exported[1]
  codes = tiny.CATALOG.sids_IRL[:1]
  added = changes.Delta(["new"], ["New"], codes, ["item 5"])
  delta.write(tmp_path / "delta", added, None)
  done = subprocess.run(
    [sys.executable, "-c", ALONE, str(folder), "delta", *MODEL_CODE],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert done.returncode == 0, done.stderr
  item_UK, _ = system[1].recommend([[1, 2, 3]], exclude_seen=True, k=3)
  ids = [f"item {item}" for item in item_UK[0]]
  source = pathlib.Path(folder).resolve() / "runtime.py"
  assert done.stdout.splitlines() == [
    f"{ids} {source}",
    "[[2.0, 0.0, 4.0]]",
    "2",
    "['item 7', 'new'] 40",
    "[]",
  ]


def test_what_it_says_of_itself(system):
  _, bundle = system
  contents = tiny.make_contents()
  assert bundle.item_ids == contents.item_ids
  assert bundle.titles == contents.titles
  assert bundle.row_of["item 7"] == 7 and len(bundle.row_of) == tiny.ITEMS
  shape = (bundle.buckets, bundle.max_history, bundle.k, bundle.beam)
  assert shape == ((1, 4), tiny.WIDTH, tiny.K, tiny.BEAM)
  assert bundle.list_width == 70 and bundle.path.is_dir()


def test_long_lists_are_searched_beside_short_ones(system):
  """Beyond 64 entries; here gaps make the lists long."""
  _, bundle = system
  item_BT = np.array([[3, 1, -1, -1]] * 4, np.int32)
  deny_BX = np.full((4, 70), -1, np.int32)
  allow_BX = np.full((4, 70), -1, np.int32)
  restricted_B = np.array([False, False, True, True])
  deny_BX[1, 69] = deny_BX[2, 3] = 5
  allow_BX[2, :30] = allow_BX[3, 40:70] = np.arange(30)
  found = bundle.search(item_BT, deny_BX, allow_BX, restricted_B)
  listed = bundle.recommend(
    [[3, 1]] * 4,
    deny=[[], [5], [5], []],
    allow=[None, None, range(30), range(30)],
  )
  np.testing.assert_array_equal(found[0], listed[0])
  np.testing.assert_allclose(found[1], listed[1], atol=1e-5)
  assert (found[0][2:] < 30).all() and not (found[0][1:3] == 5).any()


def test_no_history_is_answered_from_popularity(system):
  recommender, bundle = system
  deny, allow = [[3], [], [7]], [None, range(0, 40, 7), [7, 8, 9]]
  theirs = recommender.recommend(
    make_histories([[]] * 3),
    Filters(False, deny, [allow[0], *map(list, allow[1:])]),
  )
  item_UK, score_UK = bundle.recommend([[]] * 3, deny=deny, allow=allow)
  np.testing.assert_array_equal(item_UK, theirs.items_UK)
  np.testing.assert_array_equal(score_UK, theirs.scores_UK)
  assert item_UK[2].tolist()[2:] == [-1] * 4
  assert bundle.recommend([])[0].shape == (0, tiny.K)


def test_threads_share_a_bundle(system):
  _, bundle = system
  histories = tiny.draw_histories(9)
  expected, _ = bundle.recommend(histories)
  found = []

  def ask():
    for _ in range(5):
      found.append(bundle.recommend(histories)[0])

  threads = [threading.Thread(target=ask) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 20
  for items in found:
    np.testing.assert_array_equal(items, expected)


@pytest.mark.parametrize(
  ("request_", "words"),
  [
    (dict(histories=[[1]], k=7), "k is 7; this bundle was exported for 1..6"),
    (dict(histories=[[1]], k=0), "k is 0"),
    (dict(histories=[[1], [2, 40]]), "history 1 names item 40"),
    (dict(histories=[[-1]]), "history 0 names item -1"),
    (dict(histories=[["item 7"]]), "history 0 is no list of item numbers"),
    (dict(histories=[[1]], deny=[[99]]), "deny 0 names item 99"),
    (dict(histories=[[1]], allow=[[-2]]), "allow 0 names item -2"),
    (dict(histories=[[1]], deny=[]), "deny has 0 lists for 1 histories"),
    (dict(histories=[[1]], allow=[[2], [3]]), "allow has 2 lists for 1"),
  ],
)
def test_what_cannot_be_asked(system, request_, words):
  with pytest.raises(runtime.RequestError, match=words):
    system[1].recommend(**request_)


def test_what_cannot_be_searched(system):
  _, bundle = system
  good = runtime.Rows(
    np.zeros((4, 4), np.int32),
    np.full((4, 70), -1, np.int32),
    np.full((4, 70), -1, np.int32),
    np.zeros(4, bool),
  )
  bundle.search(*good)
  for change, words in (
    ({"item_BT": good.item_BT[:3]}, "3 rows; the buckets are"),
    ({"item_BT": good.item_BT[:, :3]}, "item_BT is int32 of shape"),
    ({"deny_BX": good.deny_BX.astype(np.int64)}, "deny_BX is int64"),
    ({"restricted_B": np.zeros(4, np.int32)}, "restricted_B is int32"),
    ({"allow_BX": good.allow_BX + 41}, "allow_BX holds 40 or 40"),
    ({"item_BT": good.item_BT - 2}, "item_BT holds -2"),
  ):
    with pytest.raises(runtime.RequestError, match=words):
      bundle.search(*good._replace(**change))
  with pytest.raises(runtime.RequestError, match="availability is int64"):
    bundle.set_available(np.ones(40, np.int64))
  with pytest.raises(runtime.RequestError, match="columns brand, which"):
    bundle.vectors_of([{"brand": "x"}], {"precomputed": [[1]]})
  with pytest.raises(runtime.RequestError, match="needs 1 numbers for each"):
    bundle.codes_of([{"title": "x"}])
  with pytest.raises(runtime.RequestError, match="has no quantizer"):
    bundle.encode(np.zeros((1, 3)))
