"""Baselines against loops that do the obvious thing."""

import numpy as np
import pytest

from holorec_jax.data import schema, splits
from holorec_jax.evaluate import baselines, metrics, targets


def random_dataset(users: int = 40, items: int = 15, seed: int = 0):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(3, 12, users)
  dataset = schema.Dataset(
    name="random",
    item_ids=np.arange(items).astype(str).astype(object),
    item_text={},
    user_ids=np.arange(users).astype(str).astype(object),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
    items=rng.integers(0, items, lengths.sum()).astype(np.int32),
  )
  split = splits.split_dataset(dataset, splits.SplitConfig())
  return dataset, split, targets.from_positions(dataset, split.test)


def obvious_scores(dataset, split, history, config) -> np.ndarray:
  """The formula of the module's docstring, pair by pair."""
  count = np.zeros(dataset.num_items)
  pairs = np.zeros((dataset.num_items, dataset.num_items))
  for user in range(dataset.num_users):
    events = dataset.history(user)[: split.train_end[user]]
    np.add.at(count, events, 1)
    for i, before in enumerate(events):
      for distance in range(1, config.window + 1):
        if i + distance < len(events) and events[i + distance] != before:
          pairs[before, events[i + distance]] += 1 / distance
  weights = pairs + config.backward * pairs.T
  count = np.maximum(count, 1)
  weights /= np.outer(count, count) ** config.exponent
  score = np.zeros(dataset.num_items)
  for age, item in enumerate(history[::-1][: config.last]):
    score += config.decay**age * weights[item]
  return score


@pytest.mark.parametrize("drop_seen", [False, True])
def test_knn_is_the_formula(drop_seen):
  dataset, split, rows = random_dataset()
  config = baselines.KnnConfig(3, 0.5, 0.3, 0.7, 4)
  k = dataset.num_items
  found = baselines.item_knn(dataset, split, rows, k, drop_seen, config)
  popular = baselines.popularity(dataset, split, rows, k, drop_seen)
  for row in range(len(rows)):
    history = rows.history(row)
    score = obvious_scores(dataset, split, history, config)
    allowed = [i for i in popular[row] if i >= 0]
    # Items without a score follow by popularity.
    place = {item: p for p, item in enumerate(allowed)}
    expected = sorted(
      allowed,
      key=lambda i: (
        -round(score[i], 9),
        place[i] if score[i] == 0 else i,
      ),
    )
    got = [i for i in found[row] if i >= 0]
    assert sorted(got) == sorted(expected)
    np.testing.assert_allclose(score[got], score[expected], atol=1e-9)
    tail = int(np.count_nonzero(score[expected]))
    assert got[tail:] == expected[tail:]


def test_popularity_counts_training_alone_and_breaks_ties_by_item():
  dataset, split, rows = random_dataset()
  count = np.zeros(dataset.num_items)
  for user in range(dataset.num_users):
    np.add.at(count, dataset.history(user)[:-2], 1)
  expected = sorted(range(dataset.num_items), key=lambda i: (-count[i], i))
  kept = baselines.popularity(dataset, split, rows, 5)
  unseen = baselines.popularity(dataset, split, rows, 5, drop_seen=True)
  for row in range(len(rows)):
    assert kept[row].tolist() == expected[:5]
    seen = set(rows.history(row).tolist())
    assert unseen[row].tolist() == [i for i in expected if i not in seen][:5]


def test_lists_longer_than_what_is_unseen_end_in_nothing():
  dataset, split, rows = random_dataset(items=5)
  for lists in (
    baselines.popularity(dataset, split, rows, 8, drop_seen=True),
    baselines.item_knn(dataset, split, rows, 8, drop_seen=True),
  ):
    for row, items in enumerate(lists):
      unseen = set(range(5)) - set(rows.history(row).tolist())
      assert set(items.tolist()) - {-1} == unseen
      assert np.all(items[len(unseen) :] == -1)


def test_chunks_do_not_matter(monkeypatch):
  dataset, split, rows = random_dataset()
  whole = [baselines.item_knn(dataset, split, rows, 6, d) for d in (0, 1)]
  monkeypatch.setattr(baselines, "_CHUNK", 7)
  parts = [baselines.item_knn(dataset, split, rows, 6, d) for d in (0, 1)]
  np.testing.assert_array_equal(whole, parts)


def test_tuning_reads_no_test_event():
  dataset, split, _ = random_dataset(users=80)
  tuned = baselines.tune(dataset, split)
  other = dataset.items.copy()
  other[dataset.offsets[:-1] + split.test] = 0
  changed = schema.Dataset(**(vars(dataset) | {"items": other}))
  assert baselines.tune(changed, split) == tuned


def test_real_data_gives_the_known_floor(shared_data):
  from holorec_jax.data import config, prepare

  path = shared_data / "amazon18_scientific_small"
  dataset = prepare.prepare(
    config.DataConfig(source="sequences", path=str(path))
  )
  split = splits.split_dataset(dataset, splits.SplitConfig())
  rows = targets.from_positions(dataset, split.test)
  lists = baselines.item_knn(dataset, split, rows, drop_seen=True)
  summary = metrics.summarise(metrics.target_ranks(lists, rows.items_U))
  # The data's own notes say .1134 .0872 .1455 .0977 for a close relative.
  assert summary["recall@10"] == pytest.approx(0.1455, abs=0.003)
  assert summary["ndcg@10"] == pytest.approx(0.0977, abs=0.003)
