"""Every quantizer behind one interface: item vectors -> codes of items.

  nested     HoloRec's (methods 1.1); with dims=(32,) TIGER's RQ-VAE, with
             smoothed vectors and uniformity S2GR's (methods 2.1)
  rq_kmeans  balanced k-means on residuals, no network
  parallel   REG4Rec's (methods 3.1): experts with a codebook each, unordered

A further kind is a config, a fit and a load: a field of `SidConfig` and a line
of QUANTIZERS, both under its name.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from holorec_jax.errors import UserError
from holorec_jax.quantize import fit as nested_fit
from holorec_jax.quantize import fitted, parallel_fit, parallel_fitted, rqkmeans
from holorec_jax.quantize.nested import NestedConfig
from holorec_jax.quantize.parallel import ParallelConfig
from holorec_jax.quantize.rqkmeans import RqKmeansConfig


class Fitted(Protocol):
  """What every fit returns and every load reads.

  The collision policy `reassign` needs a method beside, reassign(codes_NL,
  vectors_NW) -> distinct codes.

  Attributes:
    config: with `codes` (per level) whatever the kind.
    sids_IRL: int32 codes of the fitted items, R = 1 for all but nested.
    reconstruction: mean squared error of the vectors rebuilt from their codes.
    history: curves of the fit, a dict per look.
    dims: width of each granularity, for the health report.
  """

  @property
  def config(self) -> Any: ...

  @property
  def sids_IRL(self) -> np.ndarray: ...

  @property
  def reconstruction(self) -> float: ...

  @property
  def history(self) -> list[dict[str, float]]: ...

  @property
  def dims(self) -> tuple[int, ...]: ...

  def encode(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, R, L) of any items by the frozen quantizer."""

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes quantizer.npz and quantizer.json into an existing folder."""


class Quantizer(NamedTuple):
  """One kind.

  Attributes:
    fit: (vectors_IW, its config, progress) -> Fitted.
    load: folder -> Fitted.
  """

  fit: Callable[..., Fitted]
  load: Callable[..., Fitted]


QUANTIZERS: dict[str, Quantizer] = {
  "nested": Quantizer(nested_fit.fit, fitted.load),
  "rq_kmeans": Quantizer(rqkmeans.fit, rqkmeans.load),
  "parallel": Quantizer(parallel_fit.fit, parallel_fitted.load),
}


@dataclasses.dataclass(frozen=True)
class SidConfig:
  """Which quantizer, and the settings of each.

  Attributes:
    quantizer: the kind; only the section of its name is read.
    nested: of the nested quantizer and its relatives.
    rq_kmeans: of residual k-means.
    parallel: of the mixture of experts.
  """

  quantizer: Literal["nested", "rq_kmeans", "parallel"] = "nested"
  nested: NestedConfig = dataclasses.field(default_factory=NestedConfig)
  rq_kmeans: RqKmeansConfig = dataclasses.field(default_factory=RqKmeansConfig)
  parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)

  @property
  def chosen(self) -> Any:
    """The section of the kind; has `codes`."""
    sections: dict[str, Any] = {
      "nested": self.nested,
      "rq_kmeans": self.rq_kmeans,
      "parallel": self.parallel,
    }
    return sections[self.quantizer]


def fit(
  vectors_IW: np.ndarray, config: SidConfig, progress: bool = True
) -> Fitted:
  """Fits the chosen quantizer; UserError as its own `fit`."""
  kind = QUANTIZERS[config.quantizer]
  return kind.fit(vectors_IW, config.chosen, progress=progress)


def load(folder: str | os.PathLike[str]) -> Fitted:
  """Reads what any kind's `save` wrote.

  Raises:
    UserError: a file is missing, or of a version or kind unknown here.
  """
  kind = fitted.read_about(folder)["kind"]
  if kind not in QUANTIZERS:
    raise UserError(
      f"{folder}/quantizer.json is of the kind {kind!r}; this release reads "
      f"{', '.join(QUANTIZERS)}: fit the quantizer again."
    )
  return QUANTIZERS[kind].load(folder)
