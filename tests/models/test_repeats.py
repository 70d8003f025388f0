"""The repeat bias against its formula, spelt out in loops."""

import numpy as np
import tiny_models as tiny

from holorec_jax.nn.layers import relative_bucket
from holorec_jax.types import Batch

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
  """Through the generator, target by target: logits with it less without."""
  model, params = tiny.make_model(CATALOG, thought="holorec", repeat_bias=True)
  plain, _ = tiny.make_model(CATALOG, thought="holorec")
  codes = tiny.make_codes(CATALOG)
  lasts, visible = (4, 2), ({2, 3, 4}, {2})
  # The first two slots are another history's.
  rows = 12
  batch = Batch(
    item_BT=np.tile(ITEM_T, (rows, 1)),
    segment_BT=np.tile([1, 1, 2, 2, 2], (rows, 1)),
    last_BN=np.tile(lasts, (rows, 1)),
    target_BN=np.tile(np.arange(rows)[:, None], (1, 2)),
    weight_BN=np.ones((rows, 2), np.float32),
  )

  @tiny.jit
  def biases(params):
    bare = {k: v for k, v in params.items() if k != "repeat_bias"}
    ours = model.apply({"params": params}, batch, codes)
    theirs = plain.apply({"params": bare}, batch, codes)
    return [a.fine_BNV - b.fine_BNV for a, b in zip(ours, theirs)]

  nonzero = 0
  for level, bias_BNV in enumerate(biases(params)):
    for item, branch in np.ndindex(rows, 2):
      prefix = tuple(CATALOG.codes_IL[item, :level])
      expected_V = bias_in_loops(
        params["repeat_bias"], prefix, level, lasts[branch], visible[branch]
      )
      np.testing.assert_allclose(bias_BNV[item, branch], expected_V, atol=1e-5)
      nonzero += (expected_V != 0).sum()
  # Matches are there to be found at every level, and not everywhere.
  assert 30 < nonzero < 3 * 12 * 2 * 3
