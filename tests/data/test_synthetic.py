"""The embedded data set: deterministic, readable, and worth learning from."""

import numpy as np
import pytest

from holorec_jax.data import prepare, schema, splits
from holorec_jax.data.config import DataConfig
from holorec_jax.data.synthetic import SyntheticConfig
from holorec_jax.errors import UserError


@pytest.fixture(scope="module")
def dataset() -> schema.Dataset:
  return prepare.prepare(DataConfig())


def test_deterministic_for_a_seed():
  small = DataConfig(synthetic=SyntheticConfig(users=50, items=100))
  one, two = prepare.prepare(small), prepare.prepare(small)
  np.testing.assert_array_equal(one.items, two.items)
  np.testing.assert_array_equal(one.item_text["title"], two.item_text["title"])
  other = DataConfig(synthetic=SyntheticConfig(users=50, items=100, seed=1))
  assert not np.array_equal(one.items[:99], prepare.prepare(other).items[:99])


def test_shape_and_text(dataset):
  assert dataset.num_users == 1500
  assert 500 < dataset.num_items <= 600
  assert 10 < dataset.num_events / dataset.num_users < 14
  assert list(dataset.item_text) == ["title", "categories", "brand"]
  for title, path, brand in zip(*dataset.item_text.values()):
    kind = path.split(schema.PATH_SEPARATOR)[2]
    assert title.startswith(brand) and kind in title
  for user in range(dataset.num_users):
    own = slice(*dataset.offsets[user : user + 2])
    assert (np.diff(dataset.timestamps[own]) >= 0).all()
    assert len(np.unique(dataset.items[own])) == own.stop - own.start


def test_order_and_content_tell_more_than_popularity(dataset):
  """Recall@10 on test: popularity < last item's successors < kinds."""
  split = splits.split_dataset(dataset, splits.SplitConfig())
  path_I = dataset.item_text["categories"]
  kind_I = np.unique(path_I, return_inverse=True)[1]
  items_II = np.zeros((dataset.num_items, dataset.num_items))
  kinds_KK = np.zeros((kind_I.max() + 1, kind_I.max() + 1))
  histories = [dataset.history(u) for u in range(dataset.num_users)]
  for history, end in zip(histories, split.train_end):
    before, after = history[: end - 1], history[1:end]
    np.add.at(items_II, (before, after), 1)
    np.add.at(kinds_KK, (kind_I[before], kind_I[after]), 1)
  popularity_I = splits.train_item_counts(dataset, split)
  lasts = np.array([h[-2] for h in histories])
  targets = np.array([h[-1] for h in histories])
  seen_UI = np.zeros((dataset.num_users, dataset.num_items), bool)
  for user, history in enumerate(histories):
    seen_UI[user, history[:-1]] = True

  def recall(scores_UI: np.ndarray) -> float:
    scores_UI = np.where(seen_UI, -1.0, scores_UI)
    of_target_U1 = np.take_along_axis(scores_UI, targets[:, None], 1)
    return float(((scores_UI > of_target_U1).sum(1) < 10).mean())

  popular = recall(np.broadcast_to(popularity_I, seen_UI.shape))
  successors = recall(items_II[lasts] + 1e-6 * popularity_I)
  kinds = recall(kinds_KK[kind_I[lasts]][:, kind_I] * popularity_I)
  assert 2 * popular < successors < kinds


def test_too_small():
  tiny = DataConfig(synthetic=SyntheticConfig(users=5, items=10))
  with pytest.raises(UserError, match=r"data.synthetic.items=10"):
    prepare.prepare(tiny)
