"""The item graph and its smoothing against dense arithmetic by hand."""

import itertools

import numpy as np
import pytest
import scipy.sparse

from holorec_jax.vectors import cooccurrence

HISTORIES = [[0, 1, 2, 0], [3, 3, 1], [2, 1], [4]]
USERS_E = np.repeat(range(4), [len(history) for history in HISTORIES])
ITEMS_E = np.concatenate([np.array(history) for history in HISTORIES])


def _by_hand(window, decay):
  weights_II = np.zeros((6, 6))
  for history in HISTORIES:
    for a, b in itertools.combinations(range(len(history)), 2):
      i, j = history[a], history[b]
      if b - a <= window and i != j:
        weights_II[i, j] += decay ** (b - a - 1)
        weights_II[j, i] += decay ** (b - a - 1)
  return weights_II


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_graph_counts_pairs_within_the_window(window, decay):
  graph = cooccurrence.item_graph(USERS_E, ITEMS_E, 6, window, decay)
  np.testing.assert_allclose(graph.toarray(), _by_hand(window, decay))


def test_strongest_edges_of_either_end_stay():
  # A hub with five spokes of falling weight; each spoke keeps the hub.
  weights = np.array([5.0, 4, 3, 2, 1], np.float32)
  pairs = [(spoke, 0) for spoke in range(1, 6) for _ in range(6 - spoke)]
  items_E = np.array(list(itertools.chain(*pairs)))
  users_E = np.repeat(np.arange(len(pairs)), 2)
  graph = cooccurrence.item_graph(users_E, items_E, 6, neighbours=1)
  np.testing.assert_array_equal(graph.toarray()[0, 1:], weights)
  # Without the hub's events, weak edges between spokes go.
  items_E = np.array([1, 2, 1, 2, 1, 3, 2, 4, 2, 4, 2, 4])
  graph = cooccurrence.item_graph(
    np.repeat(range(6), 2), items_E, 5, 1, neighbours=1
  ).toarray()
  assert graph[1, 2] == 2 and graph[2, 4] == 3 and graph[1, 3] == 1
  assert np.count_nonzero(graph) == 6
  np.testing.assert_array_equal(graph, graph.T)


def test_no_events_no_edges():
  empty = np.array([], np.int32)
  assert cooccurrence.item_graph(empty, empty, 3).nnz == 0


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_smoothing_is_the_closed_form(hops):
  alpha = 0.4
  graph = cooccurrence.item_graph(USERS_E, ITEMS_E, 6)
  x_ID = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  dense_II = graph.toarray()
  degree_I = dense_II.sum(1)
  scale_I = np.divide(
    1, np.sqrt(degree_I), where=degree_I > 0, out=degree_I * 0
  )
  a_II = scale_I[:, None] * dense_II * scale_I
  h_ID, terms = x_ID, [x_ID]
  for _ in range(hops):
    h_ID = (1 - alpha) * a_II @ h_ID + alpha * x_ID
    terms.append(h_ID)
  beta_K = alpha * (1 - alpha) ** np.arange(hops + 1)
  expected_ID = np.tensordot(beta_K / beta_K.sum(), np.stack(terms), 1)
  expected_ID[degree_I == 0] = x_ID[degree_I == 0]
  smoothed_ID = cooccurrence.smooth(x_ID, graph, hops, alpha)
  np.testing.assert_allclose(smoothed_ID, expected_ID, atol=1e-6)


def test_missing_items_get_their_neighbours_mean_else_zero():
  edges_II = np.array(
    [[0, 1, 3, 0], [1, 0, 0, 0], [3, 0, 0, 0], [0] * 4], float
  )
  x_ID = np.array([[9.0, 9], [1, 0], [5, 4], [7, 7]], np.float32)
  missing_I = np.array([True, False, False, True])
  filled_ID, alone = cooccurrence.fill_missing(
    x_ID, missing_I, scipy.sparse.csr_array(edges_II)
  )
  assert alone == 1
  np.testing.assert_allclose(filled_ID, [[4, 3], [1, 0], [5, 4], [0, 0]])


def test_graph_vectors_join_neighbourhoods():
  # Two groups of items that are only ever seen with their own.
  rng = np.random.default_rng(0)
  items_E = np.concatenate(
    [rng.integers(5, size=6) + 5 * (user % 2) for user in range(60)]
  )
  graph = cooccurrence.item_graph(np.repeat(range(60), 6), items_E, 11)
  x_ID = cooccurrence.graph_vectors(graph, 2)
  cosine_II = x_ID @ x_ID.T
  assert cosine_II[:5, :5].min() > 0.9 and cosine_II[5:10, 5:10].min() > 0.9
  assert np.abs(cosine_II[:5, 5:10]).max() < 0.1
  assert not x_ID[10].any()
