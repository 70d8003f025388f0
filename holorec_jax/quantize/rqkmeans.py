"""Residual k-means: balanced clusters of what is left, no network.

Level l clusters all items' residuals r_{l-1} into V centres c at prices b
that make the clusters even (`even_kmeans`):

  s_l = argmin_v |r_{l-1} - c_v|^2 / 2 + b_v;  r_l = r_{l-1} - c_{s_l}.

The prices belong to the quantizer, so new items are spread as the fitted ones
are. The balanced form of OneRec (arXiv 2502.18965), with prices in place of
quotas. Items lie split over the devices by row, and so does all work on them;
of a catalogue larger than `fit_items` these are a sample (`stream`).
"""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from holorec_jax import sharding
from holorec_jax.quantize import (
  collisions,
  even_kmeans,
  fitted,
  kmeans,
  residual,
  stream,
)
from holorec_jax.ranges import check_ranges

KIND = "rq_kmeans"


@dataclasses.dataclass(frozen=True)
class RqKmeansConfig:
  """Residual k-means.

  Attributes:
    levels: residual levels, the length of an item's code string.
    codes: codes per level.
    dims: principal components of the vectors that are clustered, at most their
      width; 0 clusters the vectors as they are.
    iterations: moves of each level's centres; each looks at all items some
      five times.
    fit_items: items that the fit looks at; larger catalogues by a sample.
    seed: of the first centres.
  """

  levels: int = 4
  codes: int = 256
  dims: int = 64
  iterations: int = 15
  fit_items: int = 262_144
  seed: int = 0

  def __post_init__(self):
    check_ranges(
      self,
      "config.sid.rq_kmeans",
      levels="[1, inf)",
      codes="[1, inf)",
      dims="[0, inf)",
      iterations="[1, inf)",
      fit_items=f"[{self.codes}, inf)",
      seed="[0, inf)",
    )


def _project(params, x_BW):
  """What is clustered: centred vectors, or their principal components."""
  z_BD = x_BW - params["mean"]
  return z_BD @ params["axes"] if "axes" in params else z_BD


@jax.jit
def _encode_block(params, x_BW):
  """Codes (B, L), the last level's residual, errors (B, L) of l levels."""
  z_BD = _project(params, x_BW)
  row = residual.chain(z_BD, params["codebooks"], price_LV=params["prices"])
  # The axes are orthonormal: what they drop is lost at every level.
  energy_B = jnp.sum((x_BW - params["mean"]) ** 2, -1)
  dropped_B = energy_B - jnp.sum(z_BD**2, -1)
  left_LB = jnp.stack([jnp.sum(r_BD**2, -1) for r_BD in row.residuals[1:]])
  error_BL = (dropped_B + left_LB).T / x_BW.shape[-1]
  return row.codes_BL, row.residuals[-2], error_BL


@dataclasses.dataclass(frozen=True)
class FittedRqKmeans:
  """What `fit` returns.

  Attributes:
    config: how it was fitted.
    params: mean (W,); axes (W, D) where config.dims; codebooks (L, V, D) and
      prices (L, V).
    sids_IRL: int32 codes of the fitted items, R = 1, collisions not handled.
    reconstruction: mean squared error of the vectors rebuilt from their codes.
    history: collision rate and reconstruction after each level.
  """

  config: RqKmeansConfig
  params: dict[str, jax.Array]
  sids_IRL: np.ndarray
  reconstruction: float
  history: list[dict[str, float]]

  @property
  def codebooks_LVD(self) -> np.ndarray:
    """Code vectors, in what is clustered."""
    return np.asarray(self.params["codebooks"])

  @property
  def dims(self) -> tuple[int, ...]:
    """Dimensions of what is clustered; of the one granularity."""
    return (self.params["codebooks"].shape[-1],)

  def encode(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, 1, L) of any items, new ones too."""
    return self._encode(vectors_NW, 0)[:, None]

  def reassign(
    self, codes_NL: np.ndarray, vectors_NW: np.ndarray
  ) -> np.ndarray:
    """Distinct codes of any items (`collisions.reassign`)."""
    residuals_ND = self.last_residuals(vectors_NW)
    return collisions.reassign(codes_NL, residuals_ND, self.codebooks_LVD[-1])

  def last_residuals(self, vectors_NW: np.ndarray) -> np.ndarray:
    """(N, D): what the last level quantized; for `reassign`."""
    return self._encode(vectors_NW, 1)

  def _encode(self, vectors_NW, output):
    fitted.check_width(vectors_NW, len(self.params["mean"]))
    [kept] = stream.encode(
      _encode_block, self.params, vectors_NW, lambda block: (block[output],)
    )
    return kept

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes quantizer.npz and quantizer.json into an existing folder."""
    fitted.write_files(folder, KIND, self)


def load(folder: str | os.PathLike[str]) -> FittedRqKmeans:
  """Reads what `FittedRqKmeans.save` wrote; UserError as fitted.load."""
  return FittedRqKmeans(**fitted.read_files(folder, KIND, RqKmeansConfig))


def fit(
  vectors_IW: np.ndarray,
  config: RqKmeansConfig,
  progress: bool = True,
  mesh: Mesh | None = None,
) -> FittedRqKmeans:
  """Clusters level by level and codes every item.

  Args:
    vectors_IW: finite item vectors, standardised by the caller; a memory map
      will do.
    config: levels and codes.
    progress: whether to show a progress bar on stderr.
    mesh: the devices that share the items; all local ones by default. Another
      mesh, another rounding, and nothing else.

  Raises:
    UserError: the vectors are not finite, or codes are more than items.
  """
  fitted.check_vectors(vectors_IW)
  mesh = stream.local_mesh() if mesh is None else mesh
  x_IW = stream.sample(vectors_IW, config.fit_items, config.seed)
  num_items = len(x_IW)
  rows = even_kmeans.padded_rows(num_items, mesh.size)
  x_IW = sharding.put_rows(np.pad(x_IW, ((0, rows - num_items), (0, 0))), mesh)
  mean_W, covariance_WW = even_kmeans.moments(x_IW, num_items)
  params = {"mean": mean_W}
  if config.dims:
    # Ascending: the last axes hold most of the variance.
    axes_WD = np.linalg.eigh(np.asarray(covariance_WW, np.float64))[1]
    axes_WD = axes_WD[:, ::-1][:, : config.dims]
    params["axes"] = jnp.asarray(axes_WD, jnp.float32)
  residual_ID = jax.jit(_project)(params, x_IW)
  del x_IW
  rng = np.random.default_rng(config.seed)
  books, prices = [], []
  for _ in tqdm(
    range(config.levels), desc="rq_kmeans", unit="level", disable=not progress
  ):
    centres_VD, price_V = even_kmeans.even_kmeans(
      residual_ID,
      kmeans.seeds(residual_ID, num_items, config.codes, rng),
      num_points=num_items,
      iterations=config.iterations,
      mesh=mesh,
    )
    residual_ID = even_kmeans.peel(residual_ID, centres_VD, price_V, mesh)
    books.append(centres_VD)
    prices.append(price_V)
  params |= {"codebooks": jnp.stack(books), "prices": jnp.stack(prices)}
  codes_IL, error_IL = stream.encode(
    _encode_block,
    params,
    vectors_IW,
    lambda block: (block[0], block[2]),
    mesh,
    progress,
  )
  history = [
    {
      "level": level + 1,
      "collision_rate": 1.0 - float(group_I.max() + 1) / len(codes_IL),
      "reconstruction": float(np.mean(error_IL[:, level])),
    }
    for level, group_I in enumerate(collisions.prefix_groups(codes_IL))
  ]
  error = history[-1]["reconstruction"]
  return FittedRqKmeans(config, params, codes_IL[:, None], error, history)
