"""A SavedModel: that TensorFlow, in a process that has no jax, finds our items,
and what is refused."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_bundles as tiny

from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.errors import UserError
from holorec_jax.export import bundle, from_run, programs, rows, saved_model


@pytest.fixture(scope="module")
def written(exported, tmp_path_factory):
  """The folder of a SavedModel, beside a jax that nobody may import."""
  pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
  recommender, folder, _ = exported
  path = tmp_path_factory.mktemp("beside")
  (path / "saved_model").mkdir()
  (path / "jax.py").write_text("raise AssertionError('jax is imported')")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PYTHONPATH", str(path))
    parts = programs.take_apart(recommender)
    saved_model.write(path / "saved_model", folder, parts, 1e-5)
    yield path / "saved_model"


def test_tensorflow_finds_our_items(exported, written):
  recommender, folder, _ = exported
  # Another batch, and longer lists, than those of the golden request.
  histories = [h for h in tiny.draw_histories(14, seed=7) if h]
  deny = [history[:2] for history in histories]
  allow = [None if u % 2 else range(u, 30) for u in range(len(histories))]
  form = rows.Form(tiny.ITEMS, tiny.WIDTH, list_width=30)
  asked = rows.make_rows(form, histories, deny, allow)
  answers = saved_model.answer(written, asked)
  ours = recommender.recommend(
    make_histories(histories), Filters(False, deny, allow)
  )
  item_UK, found_UK = np.array(answers["items"]), ours.valid_UK
  np.testing.assert_array_equal(item_UK >= 0, found_UK)
  np.testing.assert_array_equal(item_UK[found_UK], ours.items_UK[found_UK])
  np.testing.assert_allclose(
    np.array(answers["scores"])[found_UK], ours.scores_UK[found_UK], atol=1e-5
  )
  assert answers["ids"] == [
    [f"item {item}" if item >= 0 else "" for item in items]
    for items in item_UK.tolist()
  ]
  items = (written / "assets" / bundle.sealed.ITEMS).read_bytes()
  assert items == (folder / bundle.sealed.ITEMS).read_bytes()


def test_another_answer_is_refused(exported, written):
  recommender, folder, manifest = exported
  golden = bundle.sealed.read_golden(folder)
  golden["scores"][0][0] += 1e-3
  parts, ids = programs.take_apart(recommender), tiny.make_contents().item_ids
  with pytest.raises(UserError, match="TensorFlow answers otherwise"):
    saved_model.check(written, golden, parts, ids, manifest["tolerance"])


def test_it_is_refused_at_once_without_tensorflow(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(UserError, match=r"pip install -e '.\[saved_model\]'"):
    from_run.export(tmp_path / "no run", tmp_path / "out", "", ["saved_model"])
  assert not list(tmp_path.iterdir())


def test_top_k_becomes_an_equal_sort_of_an_old_stablehlo():
  (size,) = jax.export.symbolic_shape("B")
  exported = programs.export(
    lambda x_BX: jax.lax.top_k(x_BX, 3),
    jax.ShapeDtypeStruct((size, 6), jnp.float32),
  )
  assert "composite" in exported.mlir_module()
  module = saved_model.portable(exported)
  assert b"StableHLO_v1.1.0" in module
  ours = dataclasses.replace(exported, mlir_module_serialized=module)
  assert "composite" not in ours.mlir_module()
  x_BX = jnp.array([[0, 5, 2, 5, -jnp.inf, 2], [1, 1, 1, 1, 1, 1]], jnp.float32)
  best_BK, place_BK = ours.call(x_BX)
  np.testing.assert_array_equal(best_BK, [[5, 5, 2], [1, 1, 1]])
  np.testing.assert_array_equal(place_BK, [[1, 3, 2], [0, 1, 2]])
