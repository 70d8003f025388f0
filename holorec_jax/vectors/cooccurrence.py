"""The item graph of training histories, and what it does to item vectors.

Items are joined when they stand within a window of one another in a training
history (S2GR, arXiv 2601.18664; methods 2.1):

  A^  = D^-1/2 A D^-1/2                        `normalise`
  H^0 = X,  H^k = (1-alpha) A^ H^(k-1) + alpha X
  X'  = sum_k beta_k H^k,  beta_k proportional to alpha (1-alpha)^k   `smooth`

Only training events may be given: whatever enters the graph enters the codes.
"""

import numpy as np
import scipy.sparse
from tqdm import tqdm


def item_graph(
  users_E: np.ndarray,
  items_E: np.ndarray,
  num_items: int,
  window: int = 5,
  decay: float = 1.0,
  neighbours: int = 50,
) -> scipy.sparse.csr_array:
  """Symmetric co-occurrence counts of items in the windows of histories.

  Args:
    users_E: user of each training event, events of a user adjacent and in
      order of time.
    items_E: item of each event.
    num_items: I.
    window: two events of a user count when at most so many positions apart.
    decay: weight of a pair = decay ** (distance - 1).
    neighbours: of every item the so many strongest edges stay (ties: lower
      item first); an edge stays when either of its ends keeps it.

  Returns:
    (I, I) float32 CSR, symmetric, no self-loops.
  """
  graph = scipy.sparse.csr_array((num_items, num_items), dtype=np.float32)
  distances = tqdm(range(1, window + 1), desc="item graph", unit="distance")
  for distance in distances:
    left, right = items_E[:-distance], items_E[distance:]
    pair = (users_E[:-distance] == users_E[distance:]) & (left != right)
    weight = np.full(int(pair.sum()), decay ** (distance - 1), np.float32)
    graph = graph + scipy.sparse.csr_array(
      (weight, (left[pair], right[pair])), shape=graph.shape
    )
  graph = (graph + graph.T).tocsr()
  graph.sort_indices()
  graph = _strongest(graph, neighbours)
  return graph.maximum(graph.T).tocsr()


def _strongest(
  graph: scipy.sparse.csr_array, count: int
) -> scipy.sparse.csr_array:
  """Every row's `count` largest entries."""
  kept = np.ones(graph.nnz, bool)
  crowded = np.flatnonzero(np.diff(graph.indptr) > count)
  for row in tqdm(crowded, desc="neighbours", unit="item"):
    start, end = graph.indptr[row : row + 2]
    order = np.argsort(-graph.data[start:end], kind="stable")
    kept[start + order[count:]] = False
  graph.data[~kept] = 0
  graph.eliminate_zeros()
  return graph


def normalise(graph: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  """A^ = D^-1/2 A D^-1/2; rows without edges stay zero."""
  degree = graph.sum(axis=1)
  scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1e-12)), 0)
  scale = scipy.sparse.dia_array(
    (scale.astype(np.float32)[None], [0]), shape=graph.shape
  )
  return (scale @ graph @ scale).tocsr()


def smooth(
  x_ID: np.ndarray, graph: scipy.sparse.csr_array, hops: int, alpha: float
) -> np.ndarray:
  """S2GR's closed-form graph smoothing X'; an item without edges keeps X.

  Args:
    x_ID: item vectors.
    graph: symmetric weights, not normalised.
    hops: K, the last term of the sum; 0 returns x_ID.
    alpha: share of an item's own vector, in (0, 1].
  """
  a = normalise(graph)
  beta = (1 - alpha) ** np.arange(hops + 1)
  beta /= beta.sum()
  h_ID = x_ID
  smoothed_ID = beta[0] * x_ID
  for weight in beta[1:]:
    h_ID = (1 - alpha) * (a @ h_ID) + alpha * x_ID
    smoothed_ID += weight * h_ID
  lonely_I = np.diff(graph.indptr) == 0
  smoothed_ID[lonely_I] = x_ID[lonely_I]
  return smoothed_ID.astype(np.float32)


def fill_missing(
  x_ID: np.ndarray, missing_I: np.ndarray, graph: scipy.sparse.csr_array
) -> tuple[np.ndarray, int]:
  """Gives items without a vector the weighted mean of their neighbours'.

  Args:
    x_ID: standardised vectors, so that zero is the mean.
    missing_I: whose rows to replace.
    graph: symmetric weights, not normalised.

  Returns:
    x_ID float32, and how many items had no neighbour with a vector: they get
    zeros.
  """
  known_I = (~missing_I).astype(np.float32)
  total_I = graph @ known_I
  mean_ID = graph @ (x_ID * known_I[:, None])
  mean_ID /= np.maximum(total_I, 1e-12)[:, None]
  alone = int((missing_I & (total_I == 0)).sum())
  filled_ID = np.where(missing_I[:, None], mean_ID, x_ID)
  return filled_ID.astype(np.float32), alone


def graph_vectors(
  graph: scipy.sparse.csr_array, dims: int, seed: int = 0
) -> np.ndarray:
  """Vectors of items from the graph alone: SVD of the normalised graph.

  Returns:
    x_ID float32 with dims columns (fewer in a smaller catalogue), rows of unit
    norm, zeros for items without edges.
  """
  # Here, since it takes seconds that most stages need not wait.
  from sklearn.decomposition import TruncatedSVD

  dims = min(dims, graph.shape[0])
  svd = TruncatedSVD(dims, random_state=seed)
  x_ID = svd.fit_transform(normalise(graph))
  norm_I1 = np.linalg.norm(x_ID, axis=1, keepdims=True)
  return (x_ID / np.maximum(norm_I1, 1e-12)).astype(np.float32)
