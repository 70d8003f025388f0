"""All sources together: no future in them, weights hold, nobody is left out."""

import dataclasses

import numpy as np
import pytest

from holorec_jax.data import schema, splits
from holorec_jax.data.config import DataConfig
from holorec_jax.data.prepare import prepare
from holorec_jax.errors import UserError
from holorec_jax.vectors import assemble

NUM_ITEMS, NUM_USERS = 40, 80
KINDS = ("nail polish", "dry shampoo", "lip balm", "face cream")
EVERYTHING = assemble.VectorConfig(
  sources=("text", "precomputed", "cooccurrence"),
  text_dims=8,
  cooccurrence_dims=4,
)


def _dataset(rng) -> schema.Dataset:
  """Users stay with items of one kind (item modulo 4)."""
  lengths = rng.integers(4, 9, size=NUM_USERS)
  items = [
    4 * rng.integers(NUM_ITEMS // 4, size=length) + user % 4
    for user, length in enumerate(lengths)
  ]
  titles = [
    f"{KINDS[i % 4]} {'plain' if i < 20 else 'fine'}" for i in range(40)
  ]
  return schema.Dataset(
    name="shop",
    item_ids=np.array([str(i) for i in range(NUM_ITEMS)], object),
    item_text={"title": np.array(titles, object)},
    user_ids=np.array([str(u) for u in range(NUM_USERS)], object),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
    items=np.concatenate(items).astype(np.int32),
  )


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def dataset(rng):
  return _dataset(rng)


@pytest.fixture
def split(dataset):
  return splits.split_dataset(dataset, splits.SplitConfig())


@pytest.fixture
def config(rng, tmp_path):
  np.save(tmp_path / "v.npy", rng.normal(size=(NUM_ITEMS, 6)))
  return dataclasses.replace(EVERYTHING, path=str(tmp_path / "v.npy"))


def test_shape_scale_and_determinism(dataset, split, config):
  x_ID = assemble.build_vectors(dataset, split, config)
  assert x_ID.dtype == np.float32 and len(x_ID) == NUM_ITEMS
  assert np.isfinite(x_ID).all()
  np.testing.assert_allclose(x_ID.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(np.mean(x_ID**2), 1, atol=1e-5)
  again_ID = assemble.build_vectors(dataset, split, config)
  np.testing.assert_array_equal(x_ID, again_ID)


def test_nothing_after_training_enters(dataset, split, config, rng):
  x_ID = assemble.build_vectors(dataset, split, config)
  position = np.arange(dataset.num_events) - np.repeat(
    dataset.offsets[:-1], np.diff(dataset.offsets)
  )
  held_out = position >= np.repeat(split.train_end, np.diff(dataset.offsets))
  items = dataset.items.copy()
  items[held_out] = rng.integers(NUM_ITEMS, size=held_out.sum())
  changed = dataclasses.replace(dataset, items=items)
  assert (items != dataset.items).any()
  np.testing.assert_array_equal(
    assemble.build_vectors(changed, split, config), x_ID
  )
  items[~held_out] = rng.integers(NUM_ITEMS, size=(~held_out).sum())
  assert (assemble.build_vectors(changed, split, config) != x_ID).any()


def test_sources_count_by_their_weights(dataset, split, config):
  config = dataclasses.replace(
    config, smooth_hops=0, sources=("text", "precomputed"), weights=(3.0, 1.0)
  )
  x_ID = assemble.build_vectors(dataset, split, config)
  share_D = np.square(x_ID).sum(0)
  # Squared distances hold the square of the weights, whatever the widths.
  np.testing.assert_allclose(
    share_D[:-6].sum() / share_D[-6:].sum(), 9, rtol=1e-4
  )


def test_constant_columns_go(dataset, split, config, tmp_path, caplog):
  table_ND = np.load(config.path)
  table_ND[:, [1, 4]] = 0.125
  np.save(tmp_path / "v.npy", table_ND)
  config = dataclasses.replace(config, sources=("precomputed",))
  with caplog.at_level("INFO"):
    x_ID = assemble.build_vectors(dataset, split, config)
  assert x_ID.shape == (NUM_ITEMS, 4)
  assert "dropped 2 constant dimensions of 'precomputed'" in caplog.text


@pytest.mark.parametrize("hops", [0, 2])
def test_item_without_text_lies_with_those_it_is_bought_with(
  dataset, split, hops
):
  titles = dataset.item_text["title"].copy()
  titles[5] = ""  # Of kind 1.
  dataset = dataclasses.replace(dataset, item_text={"title": titles})
  config = assemble.VectorConfig(
    sources=("text",), text_dims=8, smooth_hops=hops
  )
  x_ID = assemble.build_vectors(dataset, split, config)
  unit_ID = x_ID / np.linalg.norm(x_ID, axis=1, keepdims=True)
  nearest = np.argsort(-(unit_ID @ unit_ID[5]))[1:6]
  assert set(nearest % 4) == {1}


def test_item_of_which_nothing_is_known_is_the_mean(dataset, split):
  lonely = dataclasses.replace(
    dataset,
    item_ids=np.append(dataset.item_ids, "new"),
    item_text={"title": np.append(dataset.item_text["title"], "")},
  )
  config = assemble.VectorConfig(sources=("text", "cooccurrence"))
  x_ID = assemble.build_vectors(lonely, split, config)
  assert np.isfinite(x_ID).all()
  assert np.linalg.norm(x_ID[-1]) < 0.5 * np.linalg.norm(x_ID, axis=1).mean()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"sources": ("txt",)}, r"\['txt'\]; choose among text"),
    ({"sources": ()}, "empty; choose among"),
    ({"weights": (1.0,)}, "1 weights for 2 sources"),
    ({"weights": (1.0, 0.0)}, "must be positive"),
    ({"smooth_alpha": 0.0}, r"smooth_alpha in \(0, 1\]"),
    ({"text_dims": 0}, "must be 1 or more"),
  ],
)
def test_bad_configs_say_what_is_wrong(fields, message):
  with pytest.raises(UserError, match=message):
    assemble.VectorConfig(**fields)


def test_rank_below_the_wanted_width_adds_no_noise(dataset, split):
  config = assemble.VectorConfig(sources=("text",), text_dims=30, smooth_hops=0)
  # Four kinds, plain or fine: of 30 dimensions few can vary.
  x_ID = assemble.build_vectors(dataset, split, config)
  assert x_ID.shape[1] < 10
  np.testing.assert_allclose(x_ID[0], x_ID[4], atol=1e-3)


def test_identical_vectors_are_refused(dataset, split, config, tmp_path):
  np.save(tmp_path / "v.npy", np.ones((NUM_ITEMS, 3)))
  config = dataclasses.replace(config, sources=("precomputed",))
  with pytest.raises(UserError, match="every item the same vector"):
    assemble.build_vectors(dataset, split, config)


def test_minilm_of_the_shared_sets(shared_data):
  folder = shared_data / "amazon18_scientific_small"
  data_config = DataConfig(source="sequences", path=str(folder), k_core=6)
  dataset = prepare(data_config)
  table_ND = np.load(folder / "minilm.f16.npy")
  assert dataset.num_items < len(table_ND)
  config = assemble.VectorConfig(
    sources=("precomputed",), path=str(folder / "minilm.f16.npy"), smooth_hops=0
  )
  split = splits.split_dataset(dataset, data_config.split)
  x_ID = assemble.build_vectors(dataset, split, config)
  rows_ND = table_ND[dataset.item_ids.astype(int) - 1].astype(np.float32)
  rows_ND = rows_ND[:, rows_ND.std(0) > 1e-6]
  rows_ND = (rows_ND - rows_ND.mean(0)) / rows_ND.std(0)
  np.testing.assert_allclose(x_ID, rows_ND, atol=2e-2)
