"""Clusters of codes, from codebooks and from nothing but items' codes."""

import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize.clusters import cluster_codes, mean_codebooks

CORNERS_QD = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 9, 9]], np.float32)


def corners(seed: int) -> tuple[np.ndarray, np.ndarray]:
  """24 codes about four corners, and which corner each is at."""
  rng = np.random.default_rng(seed)
  truth_V = rng.permutation(np.repeat(np.arange(4), 6))
  noise_VD = rng.normal(0, 0.1, (24, 3))
  return (CORNERS_QD[truth_V] + noise_VD).astype(np.float32), truth_V


def agree(cluster_V, truth_V) -> bool:
  pairs = set(zip(cluster_V.tolist(), truth_V.tolist()))
  return len(pairs) == len(set(truth_V.tolist())) == cluster_V.max() + 1


def test_neighbouring_codes_share_a_cluster_level_by_level():
  books, truths = zip(*[corners(seed) for seed in (0, 1, 2)])
  cluster_LV = cluster_codes(np.stack(books), 4, seed=0)
  assert cluster_LV.dtype == np.int32 and cluster_LV.shape == (3, 24)
  assert all(agree(c, t) for c, t in zip(cluster_LV, truths))
  again_LV = cluster_codes(np.stack(books), 4, seed=0)
  np.testing.assert_array_equal(cluster_LV, again_LV)


def test_unused_codes_join_the_nearest_and_shape_nothing():
  codes_VD, truth_V = corners(0)
  # Two thirds are unused and lie on a heap beside a corner.
  heap_HD = np.tile(CORNERS_QD[2] + 1, (48, 1)).astype(np.float32)
  codes_VD = np.concatenate([codes_VD, heap_HD])
  truth_V = np.concatenate([truth_V, np.full(48, 2)])
  used_V = np.arange(72) < 24
  cluster_LV = cluster_codes(codes_VD[None], 4, seed=0, used_LV=used_V[None])
  assert agree(cluster_LV[0], truth_V)
  # Were they to count, they would be split, and the corners merged.
  all_LV = cluster_codes(codes_VD[None], 4, seed=0)
  assert not agree(all_LV[0], truth_V)


def test_codes_of_an_unknown_quantizer_get_the_means_of_residuals():
  vectors_ID = np.array([[1, 0], [3, 0], [0, 8], [0, 4]], np.float32)
  codes_IL = np.array([[2, 0], [2, 1], [0, 0], [0, 3]])
  books_LVD, used_LV = mean_codebooks(vectors_ID, codes_IL, 4)
  np.testing.assert_array_equal(
    books_LVD,
    [
      [[0, 6], [0, 0], [2, 0], [0, 0]],
      # What is left: -1 0, 1 0, 0 2, 0 -2.
      [[-0.5, 1], [1, 0], [0, 0], [0, -2]],
    ],
  )
  np.testing.assert_array_equal(used_LV, [[1, 0, 1, 0], [1, 1, 0, 1]])


def test_a_residual_quantizers_codebooks_are_found_again():
  rng = np.random.default_rng(0)
  books_LVD = rng.normal(size=(2, 4, 3)).astype(np.float32)
  books_LVD[1] -= books_LVD[1].mean(0)  # else level 0 takes the mean
  codes_IL = np.stack([x.ravel() for x in np.indices((4, 4))], axis=1)
  vectors_ID = books_LVD[0, codes_IL[:, 0]] + books_LVD[1, codes_IL[:, 1]]
  found_LVD, used_LV = mean_codebooks(vectors_ID, codes_IL, 4)
  np.testing.assert_allclose(found_LVD, books_LVD, atol=1e-5)
  assert used_LV.all()


def test_more_clusters_than_used_codes_is_explained():
  used_LV = np.arange(8)[None] < np.array([8, 3])[:, None]
  with pytest.raises(UserError, match=r"level 1 uses 3 .* at most 3"):
    cluster_codes(np.zeros((2, 8, 2), np.float32), 4, 0, used_LV)
