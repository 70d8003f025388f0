"""Even k-means over many devices: prices that make clusters of equal size.

A point belongs to argmin_v |p - c_v|^2 / 2 + price_v. Prices are the dual of
optimal transport from the points to clusters of equal capacity, found by
Sinkhorn's iterations (Cuturi, arXiv 1306.0895) between two moves of the
centres:

  price_v += eps log(V mass_v / I);  mass_v = sum_i softmax_v(-score_iv / eps).

They always converge, where raising prices by counts lets all points jump from
one cluster to the next: residuals of many dimensions lie about equally far
from all centres. Each device works on its own rows and adds up what it finds.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from holorec_jax import sharding
from holorec_jax.quantize import kmeans

# Price updates before each move of the centres, and after the last.
PRICE_STEPS = 4
LAST_PRICE_STEPS = 20
# First and last temperature, in standard deviations of a cluster's score.
TEMPERATURES = (0.5, 0.05)


def padded_rows(num_points: int, devices: int) -> int:
  """The least number of rows that `even_kmeans` can split and walk through."""
  share = -(-num_points // devices)
  block = min(share, kmeans.CHUNK)
  return -(-share // block) * block * devices


@jax.jit
def moments(
  points_Id: jax.Array, num_points: int
) -> tuple[jax.Array, jax.Array]:
  """Mean (d,) and covariance (d, d) of the rows before the padding."""
  known_I1 = (jnp.arange(len(points_Id)) < num_points)[:, None]
  mean_d = jnp.sum(points_Id * known_I1, 0) / num_points
  centred_Id = jnp.where(known_I1, points_Id - mean_d, 0.0)
  return mean_d, centred_Id.T @ centred_Id / num_points


def _masses(points_Id, known_I, centres_Vd, price_V, eps):
  """What softly belongs to each cluster, over all devices."""
  block = min(len(points_Id), kmeans.CHUNK)

  def add(mass_V, rows):
    points_Bd, known_B = rows
    offer_BV = points_Bd @ centres_Vd.T - 0.5 * jnp.sum(centres_Vd**2, -1)
    share_BV = jax.nn.softmax((offer_BV - price_V) / eps)
    return mass_V + known_B @ share_BV, None

  rows = (
    points_Id.reshape(-1, block, points_Id.shape[-1]),
    known_I.reshape(-1, block),
  )
  start_V = jax.lax.pcast(jnp.zeros_like(price_V), "data", to="varying")
  return jax.lax.psum(jax.lax.scan(add, start_V, rows)[0], "data")


def _tally(points_Id, known_I, centres_Vd, price_V):
  """Sums and sizes of the clusters, over all devices."""
  cluster_I = kmeans.assign(points_Id, centres_Vd, price_V)
  sum_Vd = jnp.zeros_like(centres_Vd)
  sum_Vd = sum_Vd.at[cluster_I].add(points_Id * known_I[:, None])
  count_V = jnp.zeros_like(price_V).at[cluster_I].add(known_I)
  return jax.lax.psum((sum_Vd, count_V), "data")


def _peel(points_Id, centres_Vd, price_V):
  return points_Id - centres_Vd[kmeans.assign(points_Id, centres_Vd, price_V)]


@functools.partial(
  jax.jit, static_argnames=("num_points", "iterations", "mesh")
)
def even_kmeans(
  points_Id: jax.Array,
  centres_Vd: jax.Array,
  *,
  num_points: int,
  iterations: int,
  mesh: Mesh,
) -> tuple[jax.Array, jax.Array]:
  """Clusters points that lie split over the mesh by row.

  Args:
    points_Id: `padded_rows` rows.
    centres_Vd: where to start.
    num_points: rows before the padding.
    iterations: moves of the centres.
    mesh: of `sharding.make_mesh`; the result depends on it by rounding alone.

  Returns:
    Centres (V, d) and the prices (V,) for `kmeans.assign`.
  """
  whole, split = sharding.replicated(mesh).spec, sharding.by_row(mesh).spec
  on_mesh = functools.partial(jax.shard_map, mesh=mesh, out_specs=whole)
  masses = on_mesh(_masses, in_specs=(split, split, whole, whole, whole))
  tally = on_mesh(_tally, in_specs=(split, split, whole, whole))
  known_I = (jnp.arange(len(points_Id)) < num_points).astype(jnp.float32)
  _, covariance_dd = moments(points_Id, num_points)

  def settle(centres_Vd, price_V, temperatures):
    # A cluster's score varies by this much over the points.
    variance_V = jnp.sum((centres_Vd @ covariance_dd) * centres_Vd, -1)
    spread = jnp.mean(jnp.sqrt(jnp.maximum(variance_V, 1e-12)))

    def step(price_V, temperature):
      eps = temperature * spread
      mass_V = masses(points_Id, known_I, centres_Vd, price_V, eps)
      share_V = mass_V * len(price_V) / num_points
      return price_V + eps * jnp.log(share_V + 1e-6), None

    return jax.lax.scan(step, price_V, temperatures)[0]

  def move(carry, temperature):
    centres_Vd, price_V = carry
    price_V = settle(centres_Vd, price_V, jnp.full(PRICE_STEPS, temperature))
    sum_Vd, count_V = tally(points_Id, known_I, centres_Vd, price_V)
    mean_Vd = sum_Vd / jnp.maximum(count_V, 1.0)[:, None]
    full_V1 = count_V[:, None] > 0
    return (jnp.where(full_V1, mean_Vd, centres_Vd), price_V), None

  centres_Vd = jnp.asarray(centres_Vd)
  start = (centres_Vd, jnp.zeros_like(centres_Vd[:, 0]))
  cooling = jnp.geomspace(*TEMPERATURES, iterations)
  centres_Vd, price_V = jax.lax.scan(move, start, cooling)[0]
  last = jnp.geomspace(*TEMPERATURES, LAST_PRICE_STEPS)
  return centres_Vd, settle(centres_Vd, price_V, last)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def peel(
  points_Id: jax.Array, centres_Vd: jax.Array, price_V: jax.Array, mesh: Mesh
) -> jax.Array:
  """Points less their centres, split as they were."""
  whole, split = sharding.replicated(mesh).spec, sharding.by_row(mesh).spec
  return jax.shard_map(
    _peel, mesh=mesh, in_specs=(split, whole, whole), out_specs=split
  )(points_Id, centres_Vd, price_V)
