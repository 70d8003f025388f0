import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.quantize import residual


def _oracle(z_Bd, books_LVd):
  codes, left_Bd = [], z_Bd.copy()
  for codes_Vd in books_LVd:
    gap_BV = ((left_Bd[:, None] - codes_Vd[None]) ** 2).sum(-1)
    codes.append(gap_BV.argmin(1))
    left_Bd = left_Bd - codes_Vd[codes[-1]]
  return np.stack(codes, 1), left_Bd


def test_nearest_takes_the_first_of_equals_and_heeds_prices():
  codes_Vd = jnp.array([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
  points_Bd = jnp.array([[0.2, 0.1], [1.9, 0.0], [1.2, 0.0]])
  assert residual.nearest(points_Bd, codes_Vd).tolist() == [0, 1, 1]
  price_V = jnp.array([0.0, 1.0, 0.0])
  assert residual.nearest(points_Bd, codes_Vd, price_V).tolist() == [0, 2, 2]
  assert residual.nearest(points_Bd[1], codes_Vd).shape == ()
  # Squared distances of (1.2, 0): 1.44 and .64.
  point_Bd, weight_V = points_Bd[2:], jnp.array([0.4, 1.0, 1.0])
  assert residual.nearest(point_Bd, codes_Vd, weight_V=weight_V).tolist() == [0]


def test_rows_match_an_oracle_on_sliced_codebooks():
  rng = np.random.default_rng(0)
  z_BD = rng.normal(size=(50, 6)).astype(np.float32)
  books_LVD = rng.normal(size=(3, 7, 6)).astype(np.float32)
  dims = (1, 4, 6)
  rows = jax.jit(residual.rows, static_argnums=2)(z_BD, books_LVD, dims)
  for dim, row in zip(dims, rows, strict=True):
    codes_BL, left_Bd = _oracle(z_BD[:, :dim], books_LVD[:, :, :dim])
    np.testing.assert_array_equal(row.codes_BL, codes_BL)
    np.testing.assert_allclose(row.residuals[-1], left_Bd, atol=1e-5)
    np.testing.assert_allclose(
      row.total_Bd + row.residuals[-1], z_BD[:, :dim], atol=1e-5
    )


def test_codes_take_gradients_and_residuals_pass_them_to_the_latent_alone():
  z_BD = jnp.ones((3, 2)) * jnp.arange(3.0)[:, None]
  books_LVD = jax.random.normal(jax.random.key(0), (2, 4, 2))

  def last_residual(z_BD, books_LVD):
    return jnp.sum(residual.chain(z_BD, books_LVD).residuals[-1])

  def total(z_BD, books_LVD):
    return jnp.sum(residual.chain(z_BD, books_LVD).total_Bd)

  to_z, to_books = jax.jit(jax.grad(last_residual, (0, 1)))(z_BD, books_LVD)
  np.testing.assert_array_equal(to_z, np.ones((3, 2)))
  assert not to_books.any()
  to_z, to_books = jax.jit(jax.grad(total, (0, 1)))(z_BD, books_LVD)
  assert not to_z.any()
  assert to_books.sum() == 3 * 2 * 2
