"""Clusters of a level's codes: what S2GR's thoughts are supervised with.

Source: S2GR (arXiv 2601.18664); methods 2.2. A thought is not asked for the
code to come, which the next step predicts anyway, but for its neighbourhood:
k-means of the level's code vectors.
"""

import numpy as np

from holorec_jax.errors import UserError
from holorec_jax.quantize import kmeans


def cluster_codes(
  codebooks_LVD: np.ndarray,
  num_clusters: int,
  seed: int,
  used_LV: np.ndarray | None = None,
) -> np.ndarray:
  """Clusters the codes of every level; none is empty, sizes are balanced.

  A level without code vectors, such as one that numbers collisions, has no
  clusters: the result covers the levels given.

  Args:
    codebooks_LVD: code vectors.
    num_clusters: K_c.
    seed: of k-means.
    used_LV: bool, the codes that shape the clusters; the others join the
      nearest. None: all do.

  Returns:
    (L, V) int32 cluster of each code.

  Raises:
    UserError: a level has fewer used codes than clusters.
  """
  if used_LV is None:
    used_LV = np.ones(codebooks_LVD.shape[:2], bool)
  clusters = []
  for level, (codes_VD, used_V) in enumerate(zip(codebooks_LVD, used_LV)):
    if used_V.sum() < num_clusters:
      raise UserError(
        f"level {level} uses {used_V.sum()} codes, which cannot form"
        f" {num_clusters} clusters; lower the number of clusters to at most"
        f" {used_V.sum()}."
      )
    centres_QD, own = kmeans.balanced_kmeans(
      np.asarray(codes_VD[used_V], np.float32), num_clusters, seed + level
    )
    cluster_V = np.array(kmeans.assign(codes_VD, centres_QD))
    cluster_V[used_V] = own
    clusters.append(cluster_V)
  return np.stack(clusters).astype(np.int32)


def mean_codebooks(
  vectors_ID: np.ndarray, codes_IL: np.ndarray, num_codes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Code vectors for codes whose quantizer is not known.

  Level by level a code's vector is the mean of what the levels before leave of
  the items that have it, the codebook that fits residual codes best.

  Args:
    vectors_ID: item vectors.
    codes_IL: the items' codes.
    num_codes: V.

  Returns:
    codebooks (L, V, D) float32, zeros for codes that no item has; and whether
    any has them, (L, V) bool.
  """
  residual_ID = np.asarray(vectors_ID, np.float32)
  books, sizes = [], []
  for code_I in codes_IL.T:
    size_V = np.bincount(code_I, minlength=num_codes)
    book_VD = np.zeros((num_codes, residual_ID.shape[1]), np.float32)
    np.add.at(book_VD, code_I, residual_ID)
    book_VD /= np.maximum(size_V, 1)[:, None]
    residual_ID = residual_ID - book_VD[code_I]
    books.append(book_VD)
    sizes.append(size_V)
  return np.stack(books), np.stack(sizes) > 0
