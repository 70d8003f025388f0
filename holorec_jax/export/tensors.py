"""Arrays by name in safetensors files, which are a JSON header and a buffer."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy


def save(
  path: str | os.PathLike[str],
  arrays: Mapping[str, Any],
  metadata: dict[str, str] | None = None,
) -> None:
  """Writes arrays; a file that is there is replaced.

  Args:
    path: of the file.
    arrays: by name.
    metadata: for the file's header.
  """
  whole = {
    # Of a strided array the format's writer would take the buffer as it lies.
    name: np.ascontiguousarray(array).reshape(np.shape(array))
    for name, array in jax.device_get(dict(arrays)).items()
  }
  safetensors.numpy.save_file(whole, path, metadata)
