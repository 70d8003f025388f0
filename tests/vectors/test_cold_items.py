"""New items get what the fit gives to an item without training events."""

import dataclasses

import numpy as np
import pytest

from holorec_jax import manifest
from holorec_jax.data import schema, splits
from holorec_jax.errors import UserError
from holorec_jax.vectors import assemble, cold_items, encode, sentence

ITEMS, USERS = 40, 60
KINDS = ("nail polish", "dry shampoo", "lip balm", "face cream")
SHADES = ("red", "blue", "pale", "dark", "matt")
CONFIG = assemble.VectorConfig(
  sources=("text", "precomputed", "cooccurrence"),
  text_dims=8,
  cooccurrence_dims=4,
)


@pytest.fixture(scope="module")
def dataset() -> schema.Dataset:
  """The last two items are in no history, the last has no text."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(4, 9, size=USERS)
  titles = [f"{SHADES[i % 5]} {KINDS[i % 4]} {KINDS[i % 3]}" for i in range(38)]
  paths = [f"Beauty > {KINDS[i % 4][:4]}" for i in range(39)]
  return schema.Dataset(
    name="shop",
    item_ids=np.array([f"i{i}" for i in range(ITEMS)], object),
    item_text={
      "title": np.array([*titles, "Red red LIP balm", ""], object),
      "categories": np.array([*paths, ""], object),
    },
    user_ids=np.array([str(u) for u in range(USERS)], object),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
    items=rng.integers(38, size=lengths.sum()).astype(np.int32),
  )


def rows_of(dataset: schema.Dataset) -> list[dict[str, str]]:
  names = list(dataset.item_text)
  columns = (dataset.item_text[name] for name in names)
  return [dict(zip(names, row)) for row in zip(*columns)]


@pytest.fixture(scope="module")
def given(dataset, tmp_path_factory):
  """Rows of the user's own, one column constant, and their file."""
  rows_ND = np.random.default_rng(1).normal(size=(ITEMS, 6))
  rows_ND[:, 2] = 0.125
  rows_ND[[3, 39]] = 0
  path = tmp_path_factory.mktemp("given") / "v.npy"
  np.save(path, rows_ND)
  return rows_ND, str(path)


@pytest.fixture(scope="module")
def fitted(dataset, given):
  """Vectors with all sources and smoothing, and their encoder."""
  split = splits.split_dataset(dataset, splits.SplitConfig())
  config = dataclasses.replace(CONFIG, path=given[1])
  return assemble.fit_vectors(dataset, split, config)


def test_an_item_without_events_gets_what_the_stage_gave_it(
  dataset, given, fitted
):
  x_ID, cold = fitted
  rows = {"precomputed": given[0][38:]}
  new_NW = cold.encode(rows_of(dataset)[38:], rows)
  assert new_NW.dtype == np.float32 and new_NW.shape == (2, x_ID.shape[1])
  np.testing.assert_allclose(new_NW, x_ID[38:], atol=1e-5)
  assert np.abs(new_NW[0]).max() > 0.1
  alone_NW = cold.encode(
    rows_of(dataset)[38:39], {"precomputed": rows["precomputed"][:1]}
  )
  np.testing.assert_array_equal(alone_NW, new_NW[:1])


def test_existing_items_get_their_text_part(dataset):
  split = splits.split_dataset(dataset, splits.SplitConfig())
  config = assemble.VectorConfig(
    text_dims=8, cooccurrence_dims=4, smooth_hops=0
  )
  x_ID, cold = assemble.fit_vectors(dataset, split, config)
  kept = cold.about["sources"][0]["kept"]
  new_NW = cold.encode(rows_of(dataset))
  # Of what has no text the stage takes the neighbours'.
  np.testing.assert_allclose(new_NW[:39, :kept], x_ID[:39, :kept], atol=1e-5)
  # What is missing has the mean, as an item that nobody has bought.
  np.testing.assert_allclose(
    new_NW[:, kept:], np.broadcast_to(x_ID[39, kept:], (ITEMS, 4)), atol=1e-5
  )


def test_tokens_of_nothing_known_are_the_mean(fitted):
  cold = fitted[1]
  rows = {"precomputed": np.zeros((3, 6))}
  new_NW = cold.encode([{}, {"title": "xyz"}, {"title": None}], rows)
  np.testing.assert_array_equal(new_NW[0], new_NW[1])
  np.testing.assert_array_equal(new_NW[0], new_NW[2])
  mean_W = -cold.arrays["mean_W"] / cold.about["scale"]
  np.testing.assert_allclose(new_NW[0], mean_W, atol=1e-6)


def test_the_encoder_is_the_same_from_disk(fitted, given, dataset, tmp_path):
  _, cold = fitted
  folder = tmp_path / "run" / "vectors"
  folder.mkdir(parents=True)
  with pytest.raises(UserError, match=r"older release.*launch/fit_sids\.py"):
    encode.load(tmp_path / "run")
  encode.save(folder, cold)
  manifest.write_manifest(folder, stage="s", schema=1, config={}, inputs={})
  items, rows = rows_of(dataset)[38:], {"precomputed": given[0][38:]}
  want_NW = cold.encode(items, rows)
  for where in (tmp_path / "run", folder, encode.load(folder)):
    found_NW = encode.encode_items(where, items, rows)
    np.testing.assert_array_equal(found_NW, want_NW)
  spoilt = (folder / encode.ARRAYS).read_bytes()
  (folder / encode.ARRAYS).write_bytes(spoilt[:-1])
  with pytest.raises(UserError, match=r"encoder\.npz was changed"):
    encode.load(folder)


@pytest.mark.parametrize(
  ("items", "rows", "words"),
  [
    ([{"brand": "x"}], {}, "columns brand, .* it reads categories, title"),
    (
      [{}],
      {},
      "no rows of 'precomputed' .* needs 6 numbers .*shape \\(1, 6\\)",
    ),
    ([{}], {"precomputed": np.zeros((2, 6))}, r"shape \(2, 6\) is given"),
    ([{}], {"precomputed": np.full((1, 6), np.nan)}, "NaN or Inf.* in row 0"),
    (
      [{}],
      {"precomputed": np.zeros((1, 6)), "minilm": np.zeros((1, 6))},
      "rows of minilm are given, but the sources that need some are precomp",
    ),
  ],
)
def test_what_cannot_be_encoded_is_named(fitted, items, rows, words):
  with pytest.raises(UserError, match=f"new items: .*{words}"):
    encode.encode_items(fitted[1], items, rows)


def test_cooccurrence_alone_says_nothing_of_new_items(dataset):
  split = splits.split_dataset(dataset, splits.SplitConfig())
  config = assemble.VectorConfig(sources=("cooccurrence",), cooccurrence_dims=4)
  _, cold = assemble.fit_vectors(dataset, split, config)
  with pytest.raises(UserError, match="'cooccurrence' alone"):
    encode.encode_items(cold, [{}])


def test_sentences_are_encoded_again(dataset, monkeypatch):
  """By what reads all columns, here instead of the network's folder."""

  def lengths(item_text, model):
    assert model == "m"
    lines = sentence.sentences(item_text)
    return np.array([[len(x), x.count("a")] for x in lines], np.float32)

  monkeypatch.setattr(sentence, "encode", lengths)
  split = splits.split_dataset(dataset, splits.SplitConfig())
  config = assemble.VectorConfig(
    sources=("sentence_transformers",), sentence_model="m"
  )
  x_ID, cold = assemble.fit_vectors(dataset, split, config)
  new_NW = encode.encode_items(cold, rows_of(dataset)[38:])
  np.testing.assert_allclose(new_NW, x_ID[38:], atol=1e-5)
  assert cold.given == {"sentence_transformers": 2}
  with pytest.raises(cold_items.ItemError, match="needs 2 numbers"):
    cold.encode([{}])


def test_versions_and_separators():
  with pytest.raises(cold_items.ItemError, match="has version 2; this"):
    cold_items.ColdItems({"version": 2}, {})
  assert cold_items.PATH_SEPARATOR == schema.PATH_SEPARATOR
