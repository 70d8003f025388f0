"""The quantizer of a run as a program: new items' codes without its code.

It encodes in blocks of the size that the fit used, so that an item's codes are
those that the run would give it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import numpy as np

from holorec_jax.export import programs
from holorec_jax.quantize import nested, parallel, residual, rqkmeans, stream

ROWS = stream.CHUNK


def _nested(config: Any, params: dict, x_BW: jax.Array) -> jax.Array:
  z_BD = nested.encode(params, x_BW, config)
  rows = residual.rows(z_BD, params["codebooks"], config.dims)
  return jax.numpy.stack([row.codes_BL for row in rows], 1)


def _parallel(config: Any, params: dict, x_BW: jax.Array) -> jax.Array:
  model = parallel.model(config, x_BW.shape[-1])
  experts_BMD, _ = model.apply({"params": params}, x_BW, method="encode")
  return parallel.quantize(experts_BMD, params["codebooks"]).codes_BM[:, None]


def _rq_kmeans(config: Any, params: dict, x_BW: jax.Array) -> jax.Array:
  del config
  return rqkmeans._encode_block(params, x_BW)[0][:, None]


# By the kinds of `quantizers.QUANTIZERS`.
ENCODERS: dict[str, Callable] = {
  "nested": _nested,
  "parallel": _parallel,
  "rq_kmeans": _rq_kmeans,
}


def export(
  kind: str, quantizer: Any, width: int
) -> tuple[jax.export.Exported, dict[str, np.ndarray], dict[str, Any]]:
  """The program, the arrays that it reads, and what the manifest says of it.

  Args:
    kind: a key of ENCODERS.
    quantizer: the fitted one, with config, params and sids_IRL.
    width: W of item vectors.
  """
  # Decoding is for the fit.
  params = {k: v for k, v in quantizer.params.items() if k != "decoder"}
  arrays, form = programs.name_leaves(params)
  x_BW = jax.ShapeDtypeStruct((ROWS, width), np.float32)

  def encode(arrays: dict, x_BW: jax.Array) -> jax.Array:
    return ENCODERS[kind](quantizer.config, form(arrays), x_BW)

  with jax.default_matmul_precision("highest"):
    exported = programs.export(encode, arrays, x_BW)
  about = {
    "kind": kind,
    "rows": ROWS,
    "width": width,
    "codes": list(quantizer.sids_IRL.shape[1:]),
  }
  return exported, jax.device_get(arrays), about
