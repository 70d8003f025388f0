"""The repeat bias against its formula, spelt out in loops."""

import jax
import numpy as np
import tiny_models as tiny

from holorec_jax.models.repeats import RepeatBias
from holorec_jax.nn.layers import relative_bucket

ITEM_T = [3, 0, 3, 7, 1]
CATALOG = tiny.make_catalog(12, levels=3, codes=3, distinct=False)


def bias_in_loops(params, prefix, level, last, visible):
  """The docstring's sum, item by item."""
  codes_IL = CATALOG.codes_IL
  bias_V = np.zeros(3)
  for slot, item in enumerate(ITEM_T):
    code = codes_IL[item]
    if slot not in visible or tuple(code[:level]) != prefix:
      continue
    below = (codes_IL[:, : level + 1] == code[: level + 1]).all(axis=1).sum()
    bucket = int(relative_bucket(np.int32(last - slot), False))
    bias_V[code[level]] += params["recency"]["table"][level, bucket]
    bias_V[code[level]] += params["seen"][level] / below
  return bias_V


def test_bias_is_the_sum_over_matching_visible_items():
  codes = tiny.make_codes(CATALOG)
  model = RepeatBias(num_levels=3, num_codes=3)
  rng = np.random.default_rng(0)
  params = {
    "recency": {"table": rng.normal(size=(3, 32)).astype(np.float32)},
    "seen": rng.normal(size=3).astype(np.float32),
  }
  item_BT = np.array([ITEM_T])
  lasts, visible = (4, 2), ({1, 2, 3, 4}, {0, 1, 2})
  visible_BNT = np.array([[[t in v for t in range(5)] for v in visible]])
  distance_BNT = np.array(lasts)[None, :, None] - np.arange(5)
  bound = model.bind({"params": params})
  repeats = bound.open(
    codes.fine_IL[item_BT],
    codes.share_IL[item_BT],
    visible_BNT,
    np.maximum(distance_BNT, 0).astype(np.int32),
  )
  nonzero = 0
  for level in range(3):
    for item in range(12):
      prefix_l = CATALOG.codes_IL[item, :level]
      match_T = (CATALOG.codes_IL[ITEM_T, :level] == prefix_l).all(axis=1)
      bias_BNV = jax.jit(bound.__call__, static_argnums=2)(
        repeats, visible_BNT & match_T, level
      )
      for branch in range(2):
        expected_V = bias_in_loops(
          params, tuple(prefix_l), level, lasts[branch], visible[branch]
        )
        np.testing.assert_allclose(bias_BNV[0, branch], expected_V, atol=1e-6)
        nonzero += (expected_V != 0).sum()
  assert nonzero > 30
