"""One interface for all kinds; RQ-VAE and S2GR's as settings of the nested."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize import fitted, nested, quantizers
from holorec_jax.quantize.nested import NestedConfig
from holorec_jax.quantize.parallel import ParallelConfig
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.quantize.rqkmeans import RqKmeansConfig

CONFIG = SidConfig(
  nested=NestedConfig(
    dims=(2, 4), levels=2, codes=8, hidden=(8,), warmup_steps=10, steps=20
  ),
  rq_kmeans=RqKmeansConfig(levels=2, codes=8, iterations=5),
  parallel=ParallelConfig(
    codebooks=2, codes=8, code_dim=4, hidden=(8,), warmup_steps=10, steps=20
  ),
)


def _vectors(items=200):
  rng = np.random.default_rng(0)
  return rng.normal(size=(items, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", quantizers.QUANTIZERS)
def test_every_kind_keeps_the_interface(kind, tmp_path):
  config = dataclasses.replace(CONFIG, quantizer=kind)
  quantizer = quantizers.fit(_vectors(), config, progress=False)
  assert quantizer.config == config.chosen
  assert quantizer.sids_IRL.dtype == np.int32
  assert quantizer.sids_IRL.shape[:2] == (200, len(quantizer.dims))
  assert quantizer.sids_IRL.min() >= 0
  assert quantizer.sids_IRL.max() < config.chosen.codes
  assert 0 < quantizer.reconstruction < 1
  assert quantizer.history
  quantizer.save(tmp_path)
  loaded = quantizers.load(tmp_path)
  assert type(loaded) is type(quantizer)
  np.testing.assert_array_equal(loaded.encode(_vectors()), quantizer.sids_IRL)


def test_every_kind_has_its_section():
  fields = {field.name for field in dataclasses.fields(SidConfig)}
  assert fields == {"quantizer", *quantizers.QUANTIZERS}
  for kind in quantizers.QUANTIZERS:
    chosen = dataclasses.replace(CONFIG, quantizer=kind).chosen
    assert chosen is getattr(CONFIG, kind)


def test_an_unknown_kind_is_explained(tmp_path):
  with pytest.raises(UserError, match=r"quantizer\.json is missing"):
    quantizers.load(tmp_path)
  config = dataclasses.replace(CONFIG, quantizer="rq_kmeans")
  quantizers.fit(_vectors(), config, progress=False).save(tmp_path)
  about = json.loads((tmp_path / "quantizer.json").read_text())
  with pytest.raises(UserError, match="kind 'rq_kmeans', not 'nested'"):
    fitted.load(tmp_path)
  about["kind"] = "other"
  (tmp_path / "quantizer.json").write_text(json.dumps(about))
  with pytest.raises(UserError, match="kind 'other'; this release reads"):
    quantizers.load(tmp_path)


def test_one_granularity_is_an_rqvae():
  """TIGER's losses by hand: reconstruction, codebook, 1/4 commitment."""
  config = NestedConfig(dims=(4,), levels=3, codes=8, hidden=(8,), balance=0)
  x_BW = jnp.asarray(_vectors(16))
  model = nested.NestedQuantizer(config)
  params = jax.jit(model.init)(jax.random.key(0), x_BW)["params"]
  losses = model.apply({"params": params}, x_BW)
  z_BD = np.asarray(nested.encode(params, x_BW, config))
  left_BD, pulls = z_BD, []
  for book_VD in np.asarray(params["codebooks"]):
    gap_BV = ((left_BD[:, None] - book_VD) ** 2).sum(-1)
    code_BD = book_VD[gap_BV.argmin(1)]
    pulls.append(1.25 * np.mean((left_BD - code_BD) ** 2))
    left_BD = left_BD - code_BD
  xhat_BW = nested.decode(params, jnp.asarray(z_BD - left_BD), 6, config)
  np.testing.assert_allclose(
    losses["reconstruction"], np.mean((xhat_BW - x_BW) ** 2), rtol=1e-5
  )
  np.testing.assert_allclose(losses["quantization"], np.mean(pulls), rtol=1e-5)
  # Whatever `holistic` says: there is no coarse granularity to hold to it.
  assert losses["holistic"] == 0 and set(losses) == {
    "reconstruction",
    "quantization",
    "holistic",
  }


def test_uniformity_by_hand():
  books_LVD = jnp.array(
    [[[0.0, 0.0], [0.6, 0.0], [0.0, 5.0]], [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]]
  )
  # One pair of the first level is .4 too near; 3 pairs a level, 2 levels.
  np.testing.assert_allclose(
    nested.uniformity_loss(books_LVD, 1.0), 0.16 / 3 / 2, rtol=1e-4
  )
  grad_LVD = jax.grad(nested.uniformity_loss)(books_LVD, 1.0)
  assert grad_LVD[0, 0, 0] > 0 > grad_LVD[0, 1, 0]
  assert not grad_LVD[0, 2].any() and not grad_LVD[1].any()


def test_uniformity_of_equal_codes_is_finite():
  grad_LVD = jax.grad(nested.uniformity_loss)(jnp.ones((1, 4, 2)), 1.0)
  assert np.isfinite(grad_LVD).all()


def test_uniformity_joins_the_losses_by_its_weight():
  x_BW = jnp.asarray(_vectors(16))
  config = dataclasses.replace(CONFIG.nested, uniformity=0.3)
  model = nested.NestedQuantizer(config)
  params = jax.jit(model.init)(jax.random.key(0), x_BW)["params"]
  losses = model.apply({"params": params}, x_BW)
  np.testing.assert_allclose(
    losses["uniformity"], 0.3 * nested.uniformity_loss(params["codebooks"], 1.0)
  )
