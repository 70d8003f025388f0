"""Residual k-means against arithmetic by hand, and on one and eight devices."""

import jax
import numpy as np
import pytest

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.quantize import collisions, even_kmeans, rqkmeans
from holorec_jax.quantize.rqkmeans import RqKmeansConfig

CONFIG = RqKmeansConfig(levels=3, codes=16, dims=0, iterations=10)


def _vectors(items=1003, width=12, seed=0):
  """Uneven clusters; not as many as eight devices could share evenly."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(20, 5)) * 2
  cluster_I = (20 * rng.random(items) ** 2).astype(int)
  latent = centres[cluster_I] + rng.normal(size=(items, 5))
  vectors_IW = 1.0 + latent @ rng.normal(size=(5, width)) / 5
  return vectors_IW.astype(np.float32)


def _mesh(devices):
  return sharding.make_mesh(jax.devices()[:devices])


@pytest.fixture(scope="module")
def fitted():
  return rqkmeans.fit(_vectors(), CONFIG, progress=False)


def test_codes_are_the_nearest_at_their_price_and_rebuild_the_items(fitted):
  x_IW = _vectors()
  left_IW = x_IW - x_IW.mean(0)
  for level, (book_VD, price_V) in enumerate(
    zip(fitted.codebooks_LVD, np.asarray(fitted.params["prices"]))
  ):
    gap_IV = 0.5 * ((left_IW[:, None] - book_VD) ** 2).sum(-1) + price_V
    code_I = fitted.sids_IRL[:, 0, level]
    chosen_I = np.take_along_axis(gap_IV, code_I[:, None], 1)[:, 0]
    np.testing.assert_allclose(chosen_I, gap_IV.min(1), atol=1e-4)
    left_IW = left_IW - book_VD[code_I]
  np.testing.assert_allclose(
    fitted.reconstruction, np.mean(left_IW**2), rtol=1e-4
  )
  errors = [look["reconstruction"] for look in fitted.history]
  assert errors == sorted(errors, reverse=True)
  assert errors[-1] == fitted.reconstruction < 0.2 * x_IW.var()


def test_every_level_is_balanced(fitted):
  for code_I in fitted.sids_IRL[:, 0].T:
    size_V = np.bincount(code_I, minlength=CONFIG.codes)
    assert size_V.min() > 0 and size_V.max() < 3 * size_V.mean()


@pytest.mark.parametrize("dims", [0, 4])
def test_eight_devices_equal_one(dims):
  config = RqKmeansConfig(levels=2, codes=8, iterations=8, dims=dims)
  one, eight = (
    rqkmeans.fit(_vectors(), config, progress=False, mesh=_mesh(devices))
    for devices in (1, 8)
  )
  np.testing.assert_array_equal(one.sids_IRL, eight.sids_IRL)
  np.testing.assert_allclose(
    one.reconstruction, eight.reconstruction, rtol=1e-5
  )
  if not dims:  # an axis may point either way
    np.testing.assert_allclose(
      one.codebooks_LVD, eight.codebooks_LVD, atol=1e-5
    )


def test_items_lie_split_over_the_devices():
  points_ID = sharding.put_rows(_vectors(items=64), _mesh(8))
  left_ID = even_kmeans.peel(points_ID, np.eye(3, 12), np.zeros(3), _mesh(8))
  assert {shard.data.shape for shard in left_ID.addressable_shards} == {(8, 12)}


def test_as_many_principal_components_as_the_vectors_have_change_nothing():
  # The data are a plane of five dimensions.
  plain, turned = (
    rqkmeans.fit(
      _vectors(), RqKmeansConfig(2, 8, dims, iterations=8), progress=False
    )
    for dims in (0, 5)
  )
  assert turned.dims == (5,) and plain.dims == (12,)
  np.testing.assert_array_equal(turned.sids_IRL, plain.sids_IRL)
  np.testing.assert_allclose(
    turned.reconstruction, plain.reconstruction, rtol=1e-3
  )


def test_dropped_components_count_as_error():
  config = RqKmeansConfig(2, 8, dims=2, iterations=8)
  turned = rqkmeans.fit(_vectors(), config, progress=False)
  x_IW = _vectors()
  codes_IL = turned.sids_IRL[:, 0]
  zhat_ID = sum(
    book_VD[code_I] for book_VD, code_I in zip(turned.codebooks_LVD, codes_IL.T)
  )
  rebuilt_IW = x_IW.mean(0) + zhat_ID @ np.asarray(turned.params["axes"]).T
  np.testing.assert_allclose(
    turned.reconstruction, np.mean((x_IW - rebuilt_IW) ** 2), rtol=1e-4
  )


def test_frozen_quantizer_encodes_alike_alone_and_in_company(fitted):
  x_IW = _vectors()
  np.testing.assert_array_equal(fitted.encode(x_IW), fitted.sids_IRL)
  np.testing.assert_array_equal(fitted.encode(x_IW[7:9]), fitted.sids_IRL[7:9])
  assert fitted.encode(_vectors(seed=1)).max() < CONFIG.codes


def test_save_and_load(fitted, tmp_path):
  fitted.save(tmp_path)
  loaded = rqkmeans.load(tmp_path)
  assert loaded.config == fitted.config and loaded.history == fitted.history
  np.testing.assert_array_equal(loaded.sids_IRL, fitted.sids_IRL)
  np.testing.assert_array_equal(loaded.encode(_vectors()), fitted.sids_IRL)


def test_reassign_leaves_no_collision(fitted):
  x_IW = _vectors()
  moved_IL = collisions.reassign(
    fitted.sids_IRL[:, 0],
    fitted.last_residuals(x_IW),
    fitted.codebooks_LVD[-1],
  )
  assert collisions.collision_rate(moved_IL) == 0


def test_bad_input_is_explained(fitted):
  with pytest.raises(UserError, match="at most 10"):
    rqkmeans.fit(_vectors(items=10), CONFIG, progress=False)
  with pytest.raises(UserError, match="fitted on 12"):
    fitted.encode(np.zeros((2, 5), np.float32))
  with pytest.raises(UserError, match=r"rq_kmeans\.dims is -1"):
    RqKmeansConfig(dims=-1)
