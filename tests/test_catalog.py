"""The catalogue: shares inside a leaf, and clear errors."""

import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.catalog import build_catalog
from holorec_jax.errors import UserError

CODES_IL = np.array([[0, 1], [2, 2], [0, 1], [0, 1]])


def build(codes_IL=CODES_IL, counts=(3, 5, 0, 7), sids_IRL=None, **kwargs):
  if sids_IRL is None:
    sids_IRL = CODES_IL[:, None]
  return build_catalog(sids_IRL, codes_IL, np.array(counts), 4, **kwargs)


def test_shares_follow_smoothed_popularity():
  catalog = build()
  np.testing.assert_allclose(
    np.exp(catalog.log_share_I), [4 / 13, 1, 1 / 13, 8 / 13], rtol=1e-6
  )
  assert catalog.log_share_I.dtype == np.float32
  np.testing.assert_allclose(
    np.exp(build(smoothing=5.0).log_share_I), [8 / 25, 1, 5 / 25, 12 / 25], 1e-6
  )


def test_the_shares_of_a_leaf_sum_to_one():
  catalog = tiny.make_catalog(200, levels=2, codes=6, distinct=False)
  leaf_I = catalog.tree.leaf_of_item() - catalog.tree.level_start[-2]
  total = np.bincount(leaf_I, weights=np.exp(catalog.log_share_I))
  np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_a_collision_level_may_need_more_codes_than_the_quantizer_has():
  numbered_IL = np.column_stack([CODES_IL, [0, 9, 1, 2]])
  catalog = build(numbered_IL)
  assert catalog.num_codes == 10
  assert catalog.codes_IL.shape == (4, 3) and catalog.num_items == 4
  assert not catalog.log_share_I.any()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"counts": (1, 2, 3)}, "3 items, the semantic ids 4 and 4"),
    ({"sids_IRL": CODES_IL[:3, None]}, "different data. Fit"),
    ({"smoothing": 0.0}, "smoothing is 0.0; expected a positive"),
    ({"smoothing": float("nan")}, "smoothing is nan"),
    ({"codes_IL": CODES_IL - 1}, "Item 0 has code -1 at level 0"),
    (
      {
        "codes_IL": CODES_IL[:0],
        "counts": (),
        "sids_IRL": CODES_IL[:0, None],
      },
      "needs codes of shape",
    ),
  ],
)
def test_bad_input_is_named(change, message):
  with pytest.raises(UserError, match=message):
    build(**change)
