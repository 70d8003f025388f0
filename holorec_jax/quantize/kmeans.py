"""Balanced k-means: no cluster more than four times the size of another.

HoloRec initialises every level's codebook this way (methods 1.1). Lloyd's
iterations carry a price per cluster that rises with its size (the dual of the
capacity constraints), which balances at little cost in distance; what prices
cannot split, such as equal points, a last repair moves one by one.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.errors import UserError
from holorec_jax.quantize import residual

# Lloyd's iterations see at most this many points per cluster.
SAMPLE_PER_CLUSTER = 256
# The first centres are chosen among this many.
SEEDS_PER_CLUSTER = 32
CHUNK = 8192
MAX_RATIO = 4


@jax.jit
def assign(
  points_Id: jax.Array, centres_Vd: jax.Array, price_V: jax.Array | float = 0.0
) -> jax.Array:
  """Cluster of each point, `residual.nearest` in chunks; (I,) int32."""
  return jax.lax.map(
    lambda point_d: residual.nearest(point_d, centres_Vd, price_V),
    points_Id,
    batch_size=CHUNK,
  )


def means(
  points_Id: jax.Array, cluster_I: jax.Array, empty_Vd: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Clusters' means (V, d), empty_Vd where a cluster is empty, and sizes."""
  count_V = jnp.zeros(empty_Vd.shape[0]).at[cluster_I].add(1.0)
  sum_Vd = jnp.zeros_like(empty_Vd).at[cluster_I].add(points_Id)
  mean_Vd = sum_Vd / jnp.maximum(count_V, 1.0)[:, None]
  return jnp.where(count_V[:, None] > 0, mean_Vd, empty_Vd), count_V


@functools.partial(jax.jit, static_argnames="iterations")
def _lloyd(points_Id, centres_Vd, iterations):
  """Lloyd's iterations with prices; returns centres and prices."""
  mean_size = points_Id.shape[0] / centres_Vd.shape[0]

  def step(carry, rate):
    centres_Vd, price_V = carry
    cluster_I = assign(points_Id, centres_Vd, price_V)
    spread = 0.5 * jnp.mean(
      jnp.sum((points_Id - centres_Vd[cluster_I]) ** 2, -1)
    )
    centres_Vd, count_V = means(points_Id, cluster_I, centres_Vd)
    pressure_V = jnp.log((count_V + 0.1 * mean_size) / (1.1 * mean_size))
    return (centres_Vd, price_V + rate * spread * pressure_V), None

  start = (centres_Vd, jnp.zeros(centres_Vd.shape[0]))
  # Falling rates let the prices settle.
  rates = jnp.linspace(0.3, 0.03, iterations)
  return jax.lax.scan(step, start, rates)[0]


def seeds(
  points_Id: np.ndarray | jax.Array,
  num_points: int,
  num_clusters: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """k-means++ on a sample of the first num_points: spread-out first centres.

  Raises:
    UserError: fewer points than clusters.
  """
  if num_points < num_clusters:
    raise UserError(
      f"{num_clusters} codes are more than {num_points} items can fill; "
      f"lower the number of codes per level to at most {num_points}."
    )
  size = min(num_points, SEEDS_PER_CLUSTER * num_clusters)
  sample_Sd = np.asarray(points_Id[rng.choice(num_points, size, False)])
  chosen = [int(rng.integers(len(sample_Sd)))]
  distance_S = np.full(len(sample_Sd), np.inf, np.float32)
  for _ in range(num_clusters - 1):
    gap_S = np.sum((sample_Sd - sample_Sd[chosen[-1]]) ** 2, -1)
    distance_S = np.minimum(distance_S, gap_S)
    cumulative_S = np.cumsum(distance_S, dtype=np.float64)
    draw = rng.random() * cumulative_S[-1]
    chosen.append(
      min(int(np.searchsorted(cumulative_S, draw)), len(sample_Sd) - 1)
    )
  return sample_Sd[chosen]


def balanced_kmeans(
  points_Id: np.ndarray, num_clusters: int, seed: int, iterations: int = 30
) -> tuple[np.ndarray, np.ndarray]:
  """Clusters points_Id evenly.

  Returns:
    centres_Vd float32, the means of the balanced clusters, and cluster_I
    int32, whose sizes lie within MAX_RATIO of each other.

  Raises:
    UserError: fewer points than clusters.
  """
  num_points = len(points_Id)
  rng = np.random.default_rng(seed)
  size = min(num_points, SAMPLE_PER_CLUSTER * num_clusters)
  sample_Sd = points_Id[np.sort(rng.choice(num_points, size, False))]
  centres_Vd, price_V = _lloyd(
    sample_Sd, seeds(points_Id, num_points, num_clusters, rng), iterations
  )
  cluster_I = np.array(assign(points_Id, centres_Vd, price_V))
  _repair(cluster_I, points_Id, np.asarray(centres_Vd))
  centres_Vd, _ = means(
    jnp.asarray(points_Id), jnp.asarray(cluster_I), centres_Vd
  )
  return np.asarray(centres_Vd), cluster_I


def _repair(cluster_I, points_Id, centres_Vd):
  """Moves points in place until all sizes are within bounds."""
  num_clusters = len(centres_Vd)
  most = -(-2 * len(points_Id) // num_clusters)
  least = -(-most // MAX_RATIO)
  size_V = np.bincount(cluster_I, minlength=num_clusters)
  price_V = 0.5 * np.sum(centres_Vd**2, -1)

  def gap(rows, clusters):
    return price_V[clusters] - points_Id[rows] @ centres_Vd[clusters].T

  # Poor clusters take the nearest points of clusters that can spare some.
  for v in np.flatnonzero(size_V < least):
    for i in np.argsort(gap(slice(None), [v])[:, 0], kind="stable"):
      if size_V[v] == least:
        break
      if size_V[cluster_I[i]] > least and cluster_I[i] != v:
        size_V[cluster_I[i]] -= 1
        size_V[v] += 1
        cluster_I[i] = v
  # Rich clusters give away their farthest points, to the nearest with room.
  for v in np.flatnonzero(size_V > most):
    member_M = np.flatnonzero(cluster_I == v)
    far_M = np.argsort(-gap(member_M, [v])[:, 0], kind="stable")
    for i in member_M[far_M[: size_V[v] - most]]:
      room_W = np.flatnonzero(size_V < most)
      best = room_W[np.argmin(gap([i], room_W)[0])]
      size_V[v] -= 1
      size_V[best] += 1
      cluster_I[i] = best
