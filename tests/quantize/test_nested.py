import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.quantize import nested, residual

CONFIG = {"dims": (2, 4), "levels": 2, "codes": 8, "hidden": (8,)}


def _size(tree):
  return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree))


def _gradients(config, part):
  x_BW = jax.random.normal(jax.random.key(1), (16, 5))
  model = nested.NestedQuantizer(config)
  params = jax.jit(model.init)(jax.random.key(0), x_BW)["params"]
  loss = jax.grad(lambda p: model.apply({"params": p}, x_BW)[part])
  return jax.jit(loss)(params)


@pytest.mark.parametrize(
  ("holistic", "trained"),
  [
    ("cumulative", {"encoder", "codebooks"}),
    ("decode", {"encoder", "decoder"}),
    ("off", set()),
  ],
)
def test_each_holistic_variant_trains_what_it_claims(holistic, trained):
  grads = _gradients(
    nested.NestedConfig(holistic=holistic, **CONFIG), "holistic"
  )
  assert {name for name in grads if _size(grads[name]) > 1e-4} == trained


def test_reconstruction_and_quantization_train_their_parts():
  config = nested.NestedConfig(**CONFIG)
  grads = _gradients(config, "reconstruction")
  assert _size(grads["encoder"]) > 0 and _size(grads["decoder"]) > 0
  assert _size(grads["codebooks"]) == 0
  grads = _gradients(config, "quantization")
  assert _size(grads["encoder"]) > 0 and _size(grads["codebooks"]) > 0
  assert _size(grads["decoder"]) == 0


def test_the_obvious_holistic_loss_has_exactly_no_gradient():
  z_BD = jax.random.normal(jax.random.key(0), (16, 4))
  books_LVD = jax.random.normal(jax.random.key(1), (2, 8, 4))

  def naive(z_BD, books_LVD):
    losses = []
    for dim, row in zip((2, 4), residual.rows(z_BD, books_LVD, (2, 4))):
      z_Bd = z_BD[:, :dim]
      zhat_Bd = nested.straight_through(z_Bd, row.total_Bd)
      losses.append(nested.mse(zhat_Bd, z_Bd))
    return jnp.mean(jnp.stack(losses))

  assert naive(z_BD, books_LVD) > 0.1
  for grad in jax.jit(jax.grad(naive, (0, 1)))(z_BD, books_LVD):
    np.testing.assert_array_equal(grad, np.zeros_like(grad))


def _rows_by_hand():
  # One level, codes +-1: z = (0.5, 0) goes to (1, 1).
  books_LVD = jnp.array([[[1.0, 1.0], [-1.0, -1.0]]])
  return residual.rows(jnp.array([[0.5, 0.0]]), books_LVD, (1, 2))


def test_cumulative_holistic_loss_by_hand():
  loss = nested.cumulative_loss(_rows_by_hand(), 0.25)
  np.testing.assert_allclose(loss, 1.25 * (0.25 + (0.25 + 1) / 2) / 2)


def test_coarse_rows_are_decoded_with_zeros_behind():
  rows = _rows_by_hand()
  assert nested.granular_latent(rows, np.array([0])).tolist() == [[1.0, 0.0]]
  assert nested.granular_latent(rows, np.array([1])).tolist() == [[1.0, 1.0]]


def test_decode_gives_half_of_the_batch_to_the_coarse_rows():
  row_B, fine_B = nested.rows_to_decode(8, 3, "decode")
  assert row_B.tolist() == [2, 0, 2, 1, 2, 0, 2, 1]
  assert fine_B.tolist() == [True, False] * 4
  for lone in (
    nested.rows_to_decode(4, 3, "cumulative"),
    nested.rows_to_decode(4, 1, "decode"),
  ):
    assert lone[1].all()


def test_one_pass_over_mixed_rows_equals_a_pass_per_row():
  # With equal items the sample of rows per item is the mean over rows.
  config = nested.NestedConfig(**CONFIG | {"dims": (1, 2, 4)})
  x_BW = jnp.ones((8, 5)) * jnp.arange(5.0)
  model = nested.NestedQuantizer(config)
  params = jax.jit(model.init)(jax.random.key(0), x_BW)["params"]
  losses = model.apply({"params": params}, x_BW)
  z_BD = nested.encode(params, x_BW, config)
  errors = []
  for dim, row in zip(
    config.dims, residual.rows(z_BD, params["codebooks"], config.dims)
  ):
    zhat_BD = jnp.pad(row.total_Bd, ((0, 0), (0, 4 - dim)))
    errors.append(nested.mse(nested.decode(params, zhat_BD, 5, config), x_BW))
  np.testing.assert_allclose(losses["reconstruction"], errors[2], rtol=1e-5)
  np.testing.assert_allclose(
    losses["holistic"], (errors[0] + errors[1]) / 2, rtol=1e-5
  )
