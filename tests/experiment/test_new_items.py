"""New items of a finished run: codes by the frozen quantizer."""

import dataclasses
import shutil

import numpy as np
import pytest

from holorec_jax import artifacts
from holorec_jax.catalog import remove_items
from holorec_jax.data.config import DataConfig
from holorec_jax.decode.requests import Filters, make_histories
from holorec_jax.errors import UserError
from holorec_jax.experiment import new_items, preparation, recommendation
from holorec_jax.vectors import encode


def test_new_items_have_their_twins_codes_and_are_recommended(finished):
  config, workdir = finished
  run = recommendation.load_run(
    dataclasses.replace(
      config, search=dataclasses.replace(config.search, room=0.5)
    ),
    workdir,
  )
  recommender = run.recommender
  before = recommender.catalog
  histories = make_histories([[3, 17], [5]])
  recommender.recommend(histories)
  vectors_ID = np.load(workdir / "vectors" / "vectors.npy")
  # A twin of item 7, and two that no item is like.
  rng = np.random.default_rng(0)
  vectors_NW = np.concatenate(
    [vectors_ID[7:8], rng.normal(size=(2, vectors_ID.shape[1]))]
  ).astype(np.float32)
  changed = new_items.append(before, workdir, vectors_NW)
  first = before.num_items
  np.testing.assert_array_equal(changed.sids_IRL[first], before.sids_IRL[7])
  assert recommender.set_catalog(changed)
  only_new = [[first, first + 1, first + 2]] * 2
  found = recommender.recommend(histories, Filters(allow=only_new), k=3)
  for items_K in found.items_UK:
    assert sorted(items_K.tolist()) == only_new[0]
  # The twin has the same codes, and a share of the same leaf.
  both = recommender.recommend(histories, Filters(allow=[[7, first]] * 2), k=2)
  assert both.valid_UK.all()
  recommender.set_catalog(remove_items(changed, [first]))
  found = recommender.recommend(histories, Filters(allow=only_new), k=3)
  assert found.valid_UK.sum(axis=1).tolist() == [2, 2]


def test_texts_are_as_good_as_their_vectors(finished):
  config, workdir = finished
  run = recommendation.load_run(config, workdir)
  catalog, text = run.recommender.catalog, run.dataset.item_text
  rows = [dict(zip(text, row)) for row in zip(*text.values())][:9]
  vectors_NW = encode.encode_items(workdir, rows)
  by_text = new_items.append(catalog, workdir, items=rows)
  by_vector = new_items.append(catalog, workdir, vectors_NW)
  np.testing.assert_array_equal(by_text.codes_IL, by_vector.codes_IL)
  assert by_text.num_items == catalog.num_items + 9
  with pytest.raises(UserError, match="columns price, which the fit"):
    new_items.append(catalog, workdir, items=[{"price": "3"}])
  with pytest.raises(UserError, match="both vectors and texts"):
    new_items.append(catalog, workdir, vectors_NW, rows)


def test_a_run_of_an_older_release_says_how_it_gets_an_encoder(
  finished, tmp_path
):
  """It stays readable; the stage makes the same vectors again."""
  config, workdir = finished
  copy = shutil.copytree(workdir, tmp_path / "old")
  folder = copy / "vectors"
  old = artifacts.read_json(folder / "manifest.json")
  for name in (encode.ABOUT, encode.ARRAYS):
    (folder / name).unlink()
    del old["files"][name]
  assert old["content"] == artifacts.hash_json(old["files"])
  artifacts.write_json(folder / "manifest.json", old)
  run = recommendation.load_run(config, copy)
  catalog = run.recommender.catalog
  new_items.append(catalog, copy, np.zeros((1, 24), np.float32))
  with pytest.raises(UserError, match=r"Rename it .* launch/fit_sids\.py"):
    new_items.append(catalog, copy, items=[{"title": "x"}])
  folder.rename(copy / "vectors.old")
  preparation.fit_sids(config, copy)
  recommendation.load_run(config, copy)
  new_items.append(catalog, copy, items=[{"title": "x"}])


TABLE = "item,title,categories\n7,Red soap,A > B\nx8,,\n"


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("new.csv", TABLE),
    ("new.tsv", TABLE.replace(",", "\t")),
    (
      "new.jsonl",
      '{"item": 7, "title": "Red soap", "categories": ["A", "B"]}\n'
      '{"item": "x8"}\n',
    ),
  ],
)
def test_tables_of_new_items(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  ids, rows = new_items.read_table(
    tmp_path / name, DataConfig(), ["categories", "title"]
  )
  assert ids == ["7", "x8"]
  assert rows == [
    {"title": "Red soap", "categories": "A > B"},
    {"title": "", "categories": ""},
  ]


@pytest.mark.parametrize(
  ("text", "words"),
  [
    (TABLE.replace("item,", "thing,"), "item_column"),
    (TABLE.replace("categories", "price"), "columns price are none that"),
    (TABLE + "7,b,c\n", "item id '7' stands in rows 1 and 3"),
    (TABLE + ",b,c\n", "row 3"),
    ("item,title\n", "no rows"),
  ],
)
def test_tables_that_are_refused(tmp_path, text, words):
  path = tmp_path / "new.csv"
  path.write_text(text)
  with pytest.raises(UserError, match=words) as error:
    new_items.read_table(path, DataConfig(), ["categories", "title"])
  assert str(path) in str(error.value)


def test_without_a_quantizer_there_are_no_codes(finished, tmp_path):
  config, workdir = finished
  run = recommendation.load_run(config, workdir)
  with pytest.raises(UserError, match="has no quantizer"):
    new_items.append(run.recommender.catalog, tmp_path, np.zeros((1, 3)))
