"""A fitted quantizer: frozen parameters, items' codes, and its files.

`FittedQuantizer` is the nested one; the files serve those of every kind.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.quantize import collisions, nested, residual, stream

VERSION = 2
KIND = "nested"
# Rows of vectors that are looked through at a time.
SCANNED = 65_536


class Encoded(NamedTuple):
  """What the quantizer says of a block of items.

  Attributes:
    codes_BRL: int32.
    residual_BD: what the fine row's last level had to quantize.
    error_B: mean squared error of the item decoded from the fine row.
  """

  codes_BRL: jax.Array
  residual_BD: jax.Array
  error_B: jax.Array


@functools.partial(jax.jit, static_argnames="config")
def encode_block(
  params: Any, x_BW: jax.Array, config: nested.NestedConfig
) -> Encoded:
  """The program that codes items; each row for itself."""
  z_BD = nested.encode(params, x_BW, config)
  rows = residual.rows(z_BD, params["codebooks"], config.dims)
  codes_BRL = jnp.stack([row.codes_BL for row in rows], 1)
  xhat_BW = nested.decode(params, rows[-1].total_Bd, x_BW.shape[-1], config)
  error_B = jnp.mean((xhat_BW - x_BW) ** 2, -1)
  return Encoded(codes_BRL, rows[-1].residuals[-2], error_B)


def encode_items(
  params: Any,
  vectors_IW: np.ndarray,
  config: nested.NestedConfig,
  mesh: Mesh | None = None,
  progress: bool = False,
) -> tuple[np.ndarray, float]:
  """Quantizes items; arguments as of `stream.encode`.

  Returns:
    codes_IRL int32, and the mean squared error of the items decoded from their
    fine codes.
  """
  codes_IRL, error_I = stream.encode(
    functools.partial(encode_block, config=config),
    params,
    vectors_IW,
    lambda block: (block.codes_BRL, block.error_B),
    mesh,
    progress,
  )
  return codes_IRL, float(np.mean(error_I))


def check_vectors(vectors_IW: np.ndarray) -> None:
  """Raises UserError unless the vectors are a finite matrix."""
  if vectors_IW.ndim != 2 or not vectors_IW.size:
    raise UserError(
      f"item vectors have shape {vectors_IW.shape}; expected (items, width)."
    )
  bad_I = np.concatenate(
    [
      ~np.isfinite(vectors_IW[start : start + SCANNED]).all(1)
      for start in range(0, len(vectors_IW), SCANNED)
    ]
  )
  if bad_I.any():
    raise UserError(
      f"item vectors hold NaN or Inf in {bad_I.sum()} of {len(bad_I)} rows, "
      f"first in row {int(np.argmax(bad_I))} (counted from 0); mend or drop "
      "these items."
    )


def check_width(vectors_NW: np.ndarray, width: int) -> None:
  """Raises UserError unless these are vectors as the fit had them."""
  check_vectors(vectors_NW)
  if vectors_NW.shape[1] != width:
    raise UserError(
      f"item vectors have {vectors_NW.shape[1]} columns; this quantizer was "
      f"fitted on {width}: build them as for the fit."
    )


@dataclasses.dataclass(frozen=True)
class FittedQuantizer:
  """What `fit.fit` returns.

  Attributes:
    config: how it was fitted.
    params: encoder and decoder weights, codebooks (L, V, D).
    sids_IRL: int32 codes of the fitted items, collisions not handled.
    reconstruction: mean squared error of items decoded from their fine codes;
      1 is what the mean item scores on standardised vectors.
    history: one dict of losses and health per round of training.
  """

  config: nested.NestedConfig
  params: Any
  sids_IRL: np.ndarray
  reconstruction: float
  history: list[dict[str, float]]

  @property
  def codebooks_LVD(self) -> np.ndarray:
    """Code vectors; row r of the granularities reads the first dims[r]."""
    return np.asarray(self.params["codebooks"])

  def encode(self, vectors_NW: np.ndarray) -> np.ndarray:
    """Codes (N, R, L) of any items, new ones too, by the frozen quantizer."""
    check_width(vectors_NW, self._width)
    return encode_items(self.params, vectors_NW, self.config)[0]

  def reassign(
    self, codes_NL: np.ndarray, vectors_NW: np.ndarray
  ) -> np.ndarray:
    """Distinct codes of any items (`collisions.reassign`)."""
    residuals_ND = self.last_residuals(vectors_NW)
    return collisions.reassign(codes_NL, residuals_ND, self.codebooks_LVD[-1])

  def last_residuals(self, vectors_NW: np.ndarray) -> np.ndarray:
    """(N, D): what the fine row's last level quantized; for `reassign`."""
    check_width(vectors_NW, self._width)
    program = functools.partial(encode_block, config=self.config)
    [residual_ND] = stream.encode(
      program, self.params, vectors_NW, lambda block: (block.residual_BD,)
    )
    return residual_ND

  @property
  def _width(self) -> int:
    return self.params["encoder"]["Dense_0"]["kernel"].shape[0]

  @property
  def dims(self) -> tuple[int, ...]:
    """Latent dimensions of each granularity."""
    return self.config.dims

  def save(self, folder: str | os.PathLike[str]) -> None:
    """Writes quantizer.npz and quantizer.json into an existing folder."""
    write_files(folder, KIND, self)


def load(folder: str | os.PathLike[str]) -> FittedQuantizer:
  """Reads what `FittedQuantizer.save` wrote.

  Raises:
    UserError: a file is missing, of another version or of another kind.
  """
  return FittedQuantizer(**read_files(folder, KIND, nested.NestedConfig))


def write_files(
  folder: str | os.PathLike[str], kind: str, quantizer: Any
) -> None:
  """Writes the fields that all fitted quantizers have.

  Args:
    folder: gets quantizer.npz and quantizer.json.
    kind: a key of `quantizers.QUANTIZERS`.
    quantizer: with config, params, sids_IRL, reconstruction and history.
  """
  flat = traverse_util.flatten_dict(quantizer.params, sep="/")
  arrays: dict[str, Any] = {
    f"params/{name}": np.asarray(a) for name, a in flat.items()
  }
  path = pathlib.Path(folder)
  np.savez(path / "quantizer.npz", sids=quantizer.sids_IRL, **arrays)
  about = {
    "version": VERSION,
    "kind": kind,
    "config": dataclasses.asdict(quantizer.config),
    "reconstruction": quantizer.reconstruction,
    "history": quantizer.history,
  }
  artifacts.write_json(path / "quantizer.json", about)


def read_about(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """quantizer.json.

  Raises:
    UserError: a file is missing or of another version.
  """
  path = pathlib.Path(folder)
  for name in ("quantizer.json", "quantizer.npz"):
    if not (path / name).is_file():
      raise UserError(f"{path / name} is missing; fit the quantizer again.")
  about = artifacts.read_json(path / "quantizer.json")
  if about["version"] != VERSION:
    raise UserError(
      f"{path / 'quantizer.json'} has version {about['version']}, this "
      f"release reads {VERSION}; fit the quantizer again."
    )
  return about


def read_files(
  folder: str | os.PathLike[str], kind: str, config_type: Callable[..., Any]
) -> dict[str, Any]:
  """What `write_files` wrote, as arguments of a fitted quantizer.

  Raises:
    UserError: a file is missing, of another version or of another kind.
  """
  about = read_about(folder)
  path = pathlib.Path(folder)
  if about["kind"] != kind:
    raise UserError(
      f"{path / 'quantizer.json'} is of the kind {about['kind']!r}, not "
      f"{kind!r}; quantizers.load reads every kind."
    )
  config: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in about["config"].items()
  }
  with np.load(path / "quantizer.npz", allow_pickle=False) as arrays:
    flat = {
      name.removeprefix("params/"): jnp.asarray(arrays[name])
      for name in arrays.files
      if name != "sids"
    }
    sids_IRL = arrays["sids"]
  return {
    "config": config_type(**config),
    "params": traverse_util.unflatten_dict(flat, sep="/"),
    "sids_IRL": sids_IRL,
    "reconstruction": about["reconstruction"],
    "history": about["history"],
  }
