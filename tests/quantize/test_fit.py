import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize import collisions, fit, fitted, health, nested

CONFIG = nested.NestedConfig(
  dims=(2, 4, 8),
  levels=3,
  codes=16,
  hidden=(32, 16),
  batch_size=100,
  warmup_steps=60,
  steps=200,
)


def _vectors(items=330, width=24, seed=0):
  """Clusters in a plane of the space, with a constant column."""
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(20, 6)) * 2
  latent = centres[rng.integers(20, size=items)] + rng.normal(size=(items, 6))
  vectors_IW = latent @ rng.normal(size=(6, width)) / 5
  vectors_IW[:, 3] = 0.0
  return vectors_IW.astype(np.float32)


@pytest.fixture(scope="module")
def quantizer():
  return fit.fit(_vectors(), CONFIG, progress=False)


def test_codes_are_healthy(quantizer):
  sids_IRL = quantizer.sids_IRL
  assert sids_IRL.shape == (330, 3, 3) and sids_IRL.dtype == np.int32
  report = health.report(
    sids_IRL, _vectors(), CONFIG.dims, CONFIG.codes, quantizer.reconstruction
  )
  health.check(report, 330)
  assert quantizer.reconstruction < 0.3 * _vectors().var()
  assert report["granularities"][-1]["collision_rate"] < 0.25
  assert report["neighbour_agreement"] > 0.3
  assert all(
    np.isfinite(list(look.values())).all() for look in quantizer.history
  )


def test_same_seed_same_codes(quantizer):
  again = fit.fit(_vectors(), CONFIG, progress=False)
  np.testing.assert_array_equal(again.sids_IRL, quantizer.sids_IRL)
  chex.assert_trees_all_equal(again.params, quantizer.params)


def test_frozen_quantizer_encodes_alike_alone_and_in_company(quantizer):
  vectors_IW = _vectors()
  np.testing.assert_array_equal(
    quantizer.encode(vectors_IW), quantizer.sids_IRL
  )
  np.testing.assert_array_equal(
    quantizer.encode(vectors_IW[7:9]), quantizer.sids_IRL[7:9]
  )
  new = quantizer.encode(_vectors(seed=1))
  assert new.min() >= 0 and new.max() < CONFIG.codes


def test_save_and_load(quantizer, tmp_path):
  quantizer.save(tmp_path)
  loaded = fitted.load(tmp_path)
  assert loaded.config == quantizer.config
  assert loaded.history == quantizer.history
  assert loaded.reconstruction == quantizer.reconstruction
  np.testing.assert_array_equal(loaded.codebooks_LVD, quantizer.codebooks_LVD)
  np.testing.assert_array_equal(loaded.sids_IRL, quantizer.sids_IRL)
  np.testing.assert_array_equal(loaded.encode(_vectors()), quantizer.sids_IRL)


def test_loading_nothing_is_explained(tmp_path):
  with pytest.raises(UserError, match=r"quantizer.json is missing"):
    fitted.load(tmp_path)


def test_last_residuals_lead_to_the_last_code_and_serve_reassign(quantizer):
  residuals_ID = quantizer.last_residuals(_vectors())
  codebook_VD = quantizer.codebooks_LVD[-1]
  gap_IV = ((residuals_ID[:, None] - codebook_VD) ** 2).sum(-1)
  fine_IL = quantizer.sids_IRL[:, -1]
  np.testing.assert_array_equal(gap_IV.argmin(1), fine_IL[:, -1])
  moved = collisions.reassign(fine_IL, residuals_ID, codebook_VD)
  assert collisions.collision_rate(moved) == 0.0


def test_principal_axes_keep_the_function_and_order_the_latent():
  config = nested.NestedConfig(dims=(2, 4), codes=4, hidden=(8,))
  x_IW = jnp.asarray(_vectors(width=6))
  params = jax.jit(nested.NestedQuantizer(config).init)(
    jax.random.key(0), x_IW
  )["params"]

  @jax.jit
  def run(params):
    z_ID = nested.encode(params, x_IW, config)
    return z_ID, nested.decode(params, z_ID, 6, config)

  z_ID, before_IW = run(params)
  encoder, decoder = fit.to_principal_axes(
    params["encoder"], params["decoder"], np.asarray(z_ID)
  )
  z_ID, after_IW = run({"encoder": encoder, "decoder": decoder})
  np.testing.assert_allclose(after_IW, before_IW, atol=1e-4)
  variance_DD = np.cov(np.asarray(z_ID).T)
  assert (np.diff(np.diag(variance_DD)) <= 1e-4).all()
  np.testing.assert_allclose(
    variance_DD, np.diag(np.diag(variance_DD)), atol=1e-3
  )
  np.testing.assert_allclose(np.diag(variance_DD).mean(), 1.0, rtol=1e-3)


def test_revival_gives_every_unused_code_an_item():
  config = nested.NestedConfig(dims=(2, 4), levels=2, codes=8, hidden=(8,))
  x_IW = jnp.asarray(_vectors(items=64, width=6))
  params = jax.jit(nested.NestedQuantizer(config).init)(
    jax.random.key(0), x_IW
  )["params"]
  # Two codes of level 0 lie too far away to be used.
  books_LVD = params["codebooks"].at[0, :2].set(1e3)
  params = {**params, "codebooks": books_LVD}
  sids_IRL, _ = fitted.encode_items(params, np.asarray(x_IW), config)
  unused_RLV = fit.usage(sids_IRL, config.codes) == 0
  assert unused_RLV[:, 0, :2].all()
  unused_RLV[:, :, 2:] = unused_RLV[:, 1] = False
  books_LVD = fit.revive(params, x_IW, unused_RLV, config)
  revived = fitted.encode_items(
    {**params, "codebooks": books_LVD}, np.asarray(x_IW), config
  )[0]
  assert {0, 1} <= set(revived[:, 0, 0].tolist())
  np.testing.assert_array_equal(books_LVD[0, 2:], params["codebooks"][0, 2:])


def test_balance_weights_bear_on_crowded_codes_within_bounds():
  sids_IRL = np.repeat([0, 1, 2], [1, 2, 9])[:, None, None]
  use_RLV = fit.usage(sids_IRL, 4)
  assert use_RLV.tolist() == [[[1, 2, 9, 0]]]
  np.testing.assert_allclose(
    fit.balance_weights(use_RLV, 0.1)[0, 0],
    [1 - 0.2 / 3, 1 - 0.1 / 3, 1.2, 0.9],
    rtol=1e-6,
  )


def test_stops_on_a_plateau_only():
  def looks(*errors):
    return [{"collision_rate": 0.0, "reconstruction": e} for e in errors]

  assert not fit.plateau(looks(0.5, 0.5), patience=2)
  assert fit.plateau(looks(0.5, 0.5, 0.4999), patience=2)
  assert not fit.plateau(looks(0.5, 0.5, 0.49), patience=2)
  assert not fit.plateau(looks(0.5, 0.49, 0.5), patience=2)


def test_identical_items_do_not_break_the_fit():
  quantizer = fit.fit(np.ones((330, 24), np.float32), CONFIG, progress=False)
  assert np.isfinite(quantizer.reconstruction)
  report = health.report(
    quantizer.sids_IRL, np.ones((330, 24)), CONFIG.dims, CONFIG.codes
  )
  with pytest.raises(UserError, match="uses only 1 of 16 codes"):
    health.check(report, 330)


@pytest.mark.parametrize(
  ("vectors_IW", "words"),
  [
    (np.zeros((10, 4)), "16 codes per level are more than 10 items"),
    (np.zeros(10), "expected \\(items, width\\)"),
    (np.full((20, 4), np.nan), "20 of 20 rows, first in row 0"),
  ],
)
def test_bad_vectors_are_explained(vectors_IW, words):
  with pytest.raises(UserError, match=words):
    fit.fit(vectors_IW, CONFIG, progress=False)


def test_a_quantizer_refuses_vectors_of_another_width(quantizer):
  with pytest.raises(UserError, match="fitted on 24"):
    quantizer.encode(np.zeros((2, 23)))


def test_of_few_items_each_is_looked_at_once():
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(fit.sample(rng, 300), np.arange(300))
  drawn = fit.sample(rng, fit.SAMPLE + 1)
  assert len(drawn) == fit.SAMPLE and drawn.max() <= fit.SAMPLE
