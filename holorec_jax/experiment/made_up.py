"""Catalogues and histories drawn at random, for plans and measurements.

Speed and memory depend neither on which codes items have nor on who read what.
"""

import numpy as np

from holorec_jax.catalog import Catalog, build_catalog
from holorec_jax.errors import UserError
from holorec_jax.experiment.config import Config


def random_catalog(
  items: int, config: Config, distinct: bool = True
) -> Catalog:
  """Random codes of the nested quantizer's levels and granularities.

  Args:
    items: of the catalogue.
    config: of a run.
    distinct: no two items have the same.

  Raises:
    UserError: distinct codes do not tell so many items apart.
  """
  nested = config.sid.nested
  rng = np.random.default_rng(0)
  space = nested.codes**nested.levels
  if not distinct:
    string_I = rng.integers(0, space, items)
  elif space < items:
    raise UserError(
      f"{nested.levels} levels of {nested.codes} codes (config.sid.nested) tell"
      f" only {space} items apart, not {items}: ask for fewer items, or more"
      " codes"
    )
  elif space < 16 * items:
    string_I = rng.permutation(space)[:items]
  else:
    drawn_X = np.unique(rng.integers(0, space, items + items // 8 + 8))
    string_I = rng.permutation(drawn_X)[:items]
  codes_IL = np.stack(
    np.unravel_index(string_I, (nested.codes,) * nested.levels), axis=1
  ).astype(np.int32)
  sids_IRL = np.repeat(codes_IL[:, None], len(nested.dims), axis=1)
  return build_catalog(sids_IRL, codes_IL, np.ones(items), nested.codes)


def full_rows(items: int, rows: int, length: int) -> dict[str, np.ndarray]:
  """A batch's arrays: rows of one history each, a target at every slot."""
  item_BE = draw_histories(items, rows, length + 1)
  slots = (rows, length)
  return {
    "item_BT": item_BE[:, :-1],
    "segment_BT": np.ones(slots, np.int32),
    "last_BN": np.broadcast_to(np.arange(length, dtype=np.int32), slots),
    "target_BN": item_BE[:, 1:],
    "weight_BN": np.ones(slots, np.float32),
  }


def draw_histories(items: int, users: int, length: int) -> np.ndarray:
  """(users, length) random items."""
  rng = np.random.default_rng(1)
  return rng.integers(0, items, (users, length), dtype=np.int32)
