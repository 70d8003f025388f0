import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.errors import UserError
from holorec_jax.quantize import (
  collisions,
  health,
  parallel,
  parallel_fit,
  parallel_fitted,
)

CONFIG = parallel.ParallelConfig(
  codebooks=3,
  codes=16,
  code_dim=8,
  hidden=(32,),
  redundancy=6.0,
  batch_size=100,
  warmup_steps=40,
  steps=120,
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
  return parallel_fit.fit(_vectors(), CONFIG, progress=False)


def test_codes_are_healthy(quantizer):
  sids_IRL = quantizer.sids_IRL
  assert sids_IRL.shape == (330, 1, 3) and sids_IRL.dtype == np.int32
  report = health.report(
    sids_IRL, _vectors(), [8], CONFIG.codes, quantizer.reconstruction
  )
  health.check(report, 330)
  levels = report["granularities"][0]["levels"]
  assert min(level["used"] for level in levels) >= 15
  assert quantizer.reconstruction < 0.3 * _vectors().var()
  assert report["granularities"][0]["collision_rate"] < 0.4
  assert all(
    np.isfinite(list(look.values())).all() for look in quantizer.history
  )


def test_the_gate_is_open_and_reported(quantizer):
  look, described = quantizer.history[-1], quantizer.describe(_vectors())
  np.testing.assert_allclose(described.gate_IM.sum(1), 1.0, rtol=1e-5)
  assert 0.2 < look["gate_least"] <= 1 / 3 <= look["gate_most"]
  assert 0 < look["gate_entropy"] <= np.log2(3)
  # The gate tells the decoder of x what the codes do not.
  mean_M = described.gate_IM.mean(0)
  blind = parallel_fitted.encode_items(
    quantizer.params, _vectors(), CONFIG, mean_M
  )
  assert quantizer.reconstruction <= blind.error_I.mean()


def test_gate_report_by_hand():
  report = parallel_fitted.gate_report(np.array([[1.0, 0.0], [0.5, 0.5]]))
  assert report == {
    "gate_least": 0.25,
    "gate_most": 0.75,
    "gate_entropy": 0.5,
  }


def test_same_seed_same_codes(quantizer):
  again = parallel_fit.fit(_vectors(), CONFIG, progress=False)
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


def test_save_and_load(quantizer, tmp_path):
  quantizer.save(tmp_path)
  loaded = parallel_fitted.load(tmp_path)
  for name in ("config", "history", "reconstruction", "dims"):
    assert getattr(loaded, name) == getattr(quantizer, name)
  np.testing.assert_array_equal(loaded.codebooks_LVD, quantizer.codebooks_LVD)
  np.testing.assert_array_equal(loaded.sids_IRL, quantizer.sids_IRL)
  np.testing.assert_array_equal(loaded.encode(_vectors()), quantizer.sids_IRL)


def test_reassign_moves_items_to_near_codes_of_any_codebook(quantizer):
  vectors_IW = _vectors()
  codes_IM = quantizer.sids_IRL[:, 0]
  assert collisions.collision_rate(codes_IM) > 0
  moved_IM = quantizer.reassign(codes_IM, vectors_IW)
  assert moved_IM.dtype == np.int32
  assert collisions.collision_rate(moved_IM) == 0
  # At most one code of each changes, and somewhere in every codebook.
  changed_IM = moved_IM != codes_IM
  assert changed_IM.sum(axis=1).max() == 1
  assert changed_IM.any(axis=0).all()
  # As many stay as there were distinct codes.
  assert (~changed_IM.any(1)).sum() == len(np.unique(codes_IM, axis=0))


def _params(config, x_BW):
  model = parallel.model(config, x_BW.shape[1])
  return model, jax.jit(model.init)(jax.random.key(0), x_BW)["params"]


def test_every_expert_takes_its_own_nearest_code():
  experts_BMD = jnp.array([[[0.9], [0.2]], [[-3.0], [5.0]]])
  codebooks_MVD = jnp.array([[[-1.0], [1.0]], [[0.0], [4.0]]])
  quantized = parallel.quantize(experts_BMD, codebooks_MVD)
  assert quantized.codes_BM.tolist() == [[1, 0], [0, 1]]
  assert quantized.vectors_BMD[..., 0].tolist() == [[1, 0], [-1, 4]]
  gate_BM = jnp.array([[0.5, 0.5], [0.25, 0.75]])
  mixed_BD = parallel.mix(gate_BM, quantized.vectors_BMD)
  assert mixed_BD.tolist() == [[0.5], [2.75]]


def test_experts_and_their_codebooks_have_no_order():
  rng = np.random.default_rng(0)
  experts_BMD = rng.normal(size=(9, 3, 4)).astype(np.float32)
  codebooks_MVD = rng.normal(size=(3, 8, 4)).astype(np.float32)
  gate_BM = rng.random((9, 3)).astype(np.float32)
  turn_M = np.array([2, 0, 1])
  one = parallel.quantize(experts_BMD, jnp.asarray(codebooks_MVD))
  other = parallel.quantize(
    experts_BMD[:, turn_M], jnp.asarray(codebooks_MVD[turn_M])
  )
  np.testing.assert_array_equal(one.codes_BM[:, turn_M], other.codes_BM)
  np.testing.assert_allclose(
    parallel.mix(gate_BM, one.vectors_BMD),
    parallel.mix(gate_BM[:, turn_M], other.vectors_BMD),
    rtol=1e-5,
  )


def test_orthogonality_by_hand():
  # Cosines of the pairs: (1, 1), (0, 0), (0, 0): mean of 1, 0, 0.
  e = [[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]
  loss = parallel.orthogonality_loss(jnp.array([e, e]))
  np.testing.assert_allclose(loss, 1 / 3, rtol=1e-5)
  # Orthogonal on average only: cosines 1 and -1.
  experts_BMD = jnp.array([[[1.0, 0], [1.0, 0]], [[1.0, 0], [-1.0, 0]]])
  np.testing.assert_allclose(
    parallel.orthogonality_loss(experts_BMD), 0.0, atol=1e-6
  )
  assert parallel.orthogonality_loss(experts_BMD[:, :1]) == 0.0


def test_redundancy_sees_through_rotations_and_scales():
  rng = np.random.default_rng(0)
  one_BD = rng.normal(size=(500, 3))
  turn_DD = np.linalg.qr(rng.normal(size=(3, 3)))[0]

  def loss(*experts):
    return parallel.redundancy_loss(jnp.stack(jnp.asarray(experts), 1))

  again_BD = 5 * one_BD @ turn_DD + 2
  np.testing.assert_allclose(loss(one_BD, again_BD), 1.0, rtol=1e-5)
  assert loss(one_BD, rng.normal(size=(500, 3))) < 0.02
  # Of three pairs one is redundant.
  np.testing.assert_allclose(
    loss(one_BD, -one_BD, rng.normal(size=(500, 3))), 1 / 3, atol=0.02
  )
  assert loss(one_BD) == 0.0


def test_gate_loss_by_hand():
  assert parallel.gate_loss(jnp.array([[1.0, 0.0], [0.0, 1.0]])) == 0.0
  assert parallel.gate_loss(jnp.array([[1.0, 0, 0], [1.0, 0, 0]])) == 2.0


def _size(tree):
  return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree))


def test_each_loss_trains_what_it_is_for():
  x_BW = jax.random.normal(jax.random.key(1), (16, 5))
  config = parallel.ParallelConfig(
    codebooks=2,
    codes=4,
    code_dim=3,
    hidden=(6,),
    redundancy=1.0,
    gate_balance=1.0,
  )
  model, params = _params(config, x_BW)
  grads = jax.jit(jax.jacrev(lambda p: model.apply({"params": p}, x_BW)))(
    params
  )
  trained = {
    part: {name.partition("_")[0] for name in tree if _size(tree[name]) > 1e-6}
    for part, tree in grads.items()
  }
  assert trained == {
    "reconstruction": {"experts", "router", "decoder"},
    "quantization": {"experts", "codebooks"},
    "orthogonality": {"experts"},
    "redundancy": {"experts"},
    "gate": {"router"},
  }


def test_without_codes_the_autoencoder_has_no_quantization_loss():
  x_BW = jnp.zeros((16, 5))
  model = parallel.model(CONFIG, 5)
  losses, _ = jax.eval_shape(
    lambda key: model.init_with_output(key, x_BW, method="autoencode"),
    jax.random.key(0),
  )
  assert set(losses) == {
    "reconstruction",
    "orthogonality",
    "redundancy",
    "gate",
  }


def test_revival_gives_every_unused_code_an_item():
  x_IW = jnp.asarray(_vectors(items=64))
  _, params = _params(CONFIG, x_IW)
  # Two codes of the second codebook lie too far away to be used.
  params = {**params, "codebooks": params["codebooks"].at[1, :2].set(1e3)}
  unused_MV = np.zeros((3, 16), bool)
  unused_MV[1, :2] = True
  books_MVD = parallel_fit.revive(params, x_IW, unused_MV, CONFIG)
  codes_IM = parallel_fitted.encode_items(
    {**params, "codebooks": books_MVD}, np.asarray(x_IW), CONFIG
  ).codes_IM
  assert {0, 1} <= set(codes_IM[:, 1].tolist())
  np.testing.assert_array_equal(
    books_MVD[~unused_MV], params["codebooks"][~unused_MV]
  )


def test_bad_input_is_explained(quantizer):
  with pytest.raises(UserError, match="16 codes per codebook are more than 10"):
    parallel_fit.fit(np.zeros((10, 4)), CONFIG, progress=False)
  with pytest.raises(UserError, match="20 of 20 rows, first in row 0"):
    parallel_fit.fit(np.full((20, 4), np.nan), CONFIG, progress=False)
  with pytest.raises(UserError, match="fitted on 24"):
    quantizer.encode(np.zeros((2, 23)))
  with pytest.raises(
    UserError, match=r"config\.sid\.parallel\.redundancy is -1"
  ):
    parallel.ParallelConfig(redundancy=-1)
  with pytest.raises(UserError, match=r"config\.sid\.parallel\.hidden"):
    parallel.ParallelConfig(hidden=(0,))
