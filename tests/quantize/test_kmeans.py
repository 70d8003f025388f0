import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize import kmeans


def _points(kind, count):
  rng = np.random.default_rng(0)
  points_Id = rng.normal(size=(count, 3)).astype(np.float32)
  if kind == "lopsided":
    points_Id[: count * 3 // 4] *= 0.01
  if kind == "equal":
    points_Id[: count // 2] = 1.0
  if kind == "all equal":
    points_Id[:] = 1.0
  return points_Id


@pytest.mark.parametrize("kind", ["normal", "lopsided", "equal", "all equal"])
@pytest.mark.parametrize(("count", "codes"), [(400, 16), (40, 16), (16, 16)])
def test_sizes_stay_within_four_times(kind, count, codes):
  points_Id = _points(kind, count)
  centres_Vd, cluster_I = kmeans.balanced_kmeans(points_Id, codes, seed=0)
  size_V = np.bincount(cluster_I, minlength=codes)
  assert size_V.min() >= 1
  assert size_V.max() <= kmeans.MAX_RATIO * size_V.min()
  for v in range(codes):
    np.testing.assert_allclose(
      centres_Vd[v], points_Id[cluster_I == v].mean(0), atol=1e-5
    )


def test_even_clusters_are_found_exactly():
  rng = np.random.default_rng(1)
  truth_I = np.repeat(np.arange(8), 50)
  corners_Vd = np.array(np.unravel_index(np.arange(8), (2, 2, 2))).T * 10.0
  points_Id = corners_Vd[truth_I] + rng.normal(size=(400, 3)) * 0.1
  _, cluster_I = kmeans.balanced_kmeans(points_Id.astype(np.float32), 8, seed=3)
  assert len(set(zip(truth_I.tolist(), cluster_I.tolist()))) == 8


def test_same_seed_same_clusters():
  points_Id = _points("normal", 300)
  one, _ = kmeans.balanced_kmeans(points_Id, 8, seed=5)
  two, _ = kmeans.balanced_kmeans(points_Id, 8, seed=5)
  np.testing.assert_array_equal(one, two)


def test_large_sets_are_sampled_but_wholly_assigned(monkeypatch):
  monkeypatch.setattr(kmeans, "SAMPLE_PER_CLUSTER", 8)
  points_Id = _points("lopsided", 2000)
  _, cluster_I = kmeans.balanced_kmeans(points_Id, 16, seed=0)
  size_V = np.bincount(cluster_I, minlength=16)
  assert size_V.sum() == 2000
  assert size_V.max() <= kmeans.MAX_RATIO * size_V.min()


def test_fewer_points_than_clusters_is_explained():
  with pytest.raises(UserError, match="at most 5"):
    kmeans.balanced_kmeans(np.zeros((5, 2), np.float32), 8, seed=0)
