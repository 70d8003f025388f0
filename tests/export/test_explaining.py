"""Why an item: what the bundle says is what the run's probe and scores say."""

import jax
import numpy as np
import pytest
import tiny_bundles as tiny

from holorec_jax import sharding
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.requests import make_histories
from holorec_jax.export import bundle, changes, levels, runtime

HISTORIES = [[1, 2, 3], [5], [7, 8, 9, 10, 11]]


def make(name, folder):
  """A bundle."""
  recommender = tiny.make_recommender(name, room=0.5)
  options = bundle.Options(buckets=(4,), list_width=16)
  bundle.write(folder, recommender, tiny.make_contents(), options)
  return runtime.load(folder, replay=False)


def total(explanation):
  """The score that an explanation makes up."""
  parts = [level["log_probability"] for level in explanation["levels"]]
  return sum(parts) + explanation["log_share"]


def check_scores(opened, histories):
  item_UK, score_UK = opened.recommend(histories)
  for history, item_K, score_K in zip(histories, item_UK, score_UK):
    told = opened.explain(history, item_K.tolist())
    np.testing.assert_allclose(
      [total(each) for each in told], score_K, atol=1e-5
    )
  return item_UK


@pytest.mark.parametrize("name", ["holorec", "none", "s2gr"])
def test_it_says_what_the_run_says(tmp_path, name):
  opened = make(name, tmp_path / "b")
  item_UK = check_scores(opened, HISTORIES)
  engine, params, catalog = tiny.make_engine(name)
  mesh = sharding.make_mesh(jax.local_devices()[:1])
  probe = Probe(engine.model, params, catalog, mesh, opened.max_history)
  share_UKLV = probe.thoughts(make_histories(HISTORIES), item_UK)
  assert (share_UKLV is None) == (name != "holorec")
  for user, history in enumerate(HISTORIES):
    told = opened.explain(history, item_UK[user].tolist())
    for place, (item, each) in enumerate(zip(item_UK[user], told)):
      codes = [level["code"] for level in each["levels"]]
      assert codes == catalog.codes_IL[item].tolist()
      for depth, level in enumerate(each["levels"]):
        if share_UKLV is None:
          assert level["thought"] == []
          continue
        share_V = share_UKLV[user, place, depth]
        best = np.argsort(-share_V)[: levels.THOUGHTS]
        found = level["thought"]
        assert [thought["code"] for thought in found] == best.tolist()
        np.testing.assert_allclose(
          [thought["probability"] for thought in found],
          share_V[best],
          atol=1e-5,
        )
  # More than go into one call are told in several.
  many = opened.explain([1], list(range(tiny.K + 2)))
  assert len(many) == tiny.K + 2
  assert many[tiny.K]["levels"] == opened.explain([1], [tiny.K])[0]["levels"]


def test_after_a_delta(tmp_path):
  """The tree, whose codes share the probability, is the new one."""
  opened = make("none", tmp_path / "b")
  change = changes.Delta(
    ["a", "b"], ["", ""], tiny.DEEP.sids_IRL[[3, 5]], ["item 3", "item 20"]
  )
  changed = opened.change(change, "x")
  check_scores(changed, HISTORIES)
  first = tiny.ITEMS
  item_UK, score_UK = changed.recommend([[1]], allow=[[first, first + 1]])
  told = changed.explain([1], item_UK[0, :2].tolist())
  np.testing.assert_allclose(
    [total(each) for each in told], score_UK[0, :2], atol=1e-5
  )
  with pytest.raises(runtime.RequestError, match="item 20 is not in the cat"):
    changed.explain([1], [20])


def test_what_cannot_be_explained(exported, tmp_path):
  opened = runtime.load(exported[1], replay=False)
  with pytest.raises(runtime.RequestError, match="popularity alone"):
    opened.explain([], [1])
  for item in (-1, tiny.ITEMS):
    with pytest.raises(runtime.RequestError, match=f"item {item} is not in"):
      opened.explain([1], [item])
  opened = make("sasrec", tmp_path / "b")
  assert not opened.explains and opened.manifest["explanation"] is None
  with pytest.raises(runtime.RequestError, match="explains nothing"):
    opened.explain([1], [2])
