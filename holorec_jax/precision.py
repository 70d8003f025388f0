"""The one dtype policy.

Parameters and optimiser state are float32. Training and search cast them to
the compute dtype here and nowhere else; norms, softmaxes, losses and scores
stay float32.
"""

from typing import Literal

import jax

Dtype = Literal["float32", "bfloat16"]


def cast(params: dict, dtype: Dtype) -> dict:
  """Parameters in the compute dtype."""
  return jax.tree.map(lambda p: p.astype(dtype), params)
