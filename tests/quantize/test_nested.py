import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.errors import UserError
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


def test_cumulative_holistic_loss_by_hand():
  # One level, codes +-1: z = 0.5 goes to 1 in both rows.
  books_LVD = jnp.array([[[1.0, 1.0], [-1.0, -1.0]]])
  z_BD = jnp.array([[0.5, 0.0]])
  rows = residual.rows(z_BD, books_LVD, (1, 2))
  config = nested.NestedConfig(dims=(1, 2), levels=1, codes=2, commitment=0.25)
  loss = nested.holistic_loss(rows, z_BD, z_BD, lambda z: z, config)
  np.testing.assert_allclose(loss, 1.25 * (0.25 + (0.25 + 1) / 2) / 2)


def test_decode_pads_coarse_rows_with_zeros():
  books_LVD = jnp.array([[[1.0, 1.0], [-1.0, -1.0]]])
  z_BD = jnp.array([[0.5, 0.0]])
  rows = residual.rows(z_BD, books_LVD, (1, 2))
  config = nested.NestedConfig(
    dims=(1, 2), levels=1, codes=2, holistic="decode"
  )
  x_BW = jnp.array([[3.0, 4.0]])
  loss = nested.holistic_loss(rows, z_BD, x_BW, lambda z: z, config)
  np.testing.assert_allclose(loss, ((3 - 1) ** 2 + 4**2) / 2)


@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("holistic", "naive", "expected one of cumulative"),
    ("dims", (16, 8), "grow from the coarse"),
    ("dims", (), "grow from the coarse"),
    ("levels", 0, "levels is 0"),
    ("codes", 0, "codes is 0"),
  ],
)
def test_bad_fields_are_named(field, value, words):
  with pytest.raises(UserError, match=words):
    nested.NestedConfig(**{field: value})
