"""The catalogue's codes on device: what generator, losses and search read."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from holorec_jax import set_index
from holorec_jax import tree as tree_lib
from holorec_jax.catalog import Catalog
from holorec_jax.neighbours import Neighbours
from holorec_jax.set_index import SetIndex


@struct.dataclass
class Codes:
  """Codes of all items.

  Attributes:
    sids_IRL: int32 codes of every granularity, coarse to fine.
    fine_IL: int32 identifying codes: the fine row after collision handling.
    share_IL: float32 share of each item among the items that begin with its
      first 1 .. L identifying codes.
    continuations_ILX: packed bits of the codes that may come at each level
      (`tree.continuations`), for models with softmax="tree"; else None.
    share_IX: float32 share of each item among the items that have the same
      codes of each subset of the codebooks (`set_index.shares`), 4 * 2^M bytes
      an item, for models of unordered codes with repeat bias; else None.
    neighbours: what search heeds beside the network; None: nothing.
  """

  sids_IRL: jax.Array
  fine_IL: jax.Array
  share_IL: jax.Array
  continuations_ILX: jax.Array | None = None
  share_IX: jax.Array | None = None
  neighbours: Neighbours | None = None


def device_codes(
  catalog: Catalog,
  softmax: str,
  capacity: int | None = None,
  sets: SetIndex | None = None,
) -> Codes:
  """Puts the catalogue's codes on the default device.

  Args:
    catalog: the items.
    softmax: that losses are computed with; "tree" needs the continuations.
    capacity: length of the arrays, for catalogues that grow; None: the items.
    sets: of the catalogue, for models of unordered codes.
  """

  def put(rows: np.ndarray) -> jax.Array:
    room = 0 if capacity is None else capacity - len(rows)
    return jnp.asarray(np.pad(rows, ((0, room),) + ((0, 0),) * (rows.ndim - 1)))

  continuations_ILX = None
  if softmax == "tree":
    continuations_ILX = put(tree_lib.continuations(catalog.tree))
  neighbours = catalog.neighbours
  if neighbours is not None:
    neighbours = jax.tree.map(
      jnp.asarray, neighbours.lengthened(capacity or catalog.num_items)
    )
  return Codes(
    sids_IRL=put(catalog.sids_IRL),
    fine_IL=put(catalog.codes_IL),
    share_IL=put(tree_lib.shares(catalog.tree)),
    continuations_ILX=continuations_ILX,
    share_IX=None if sets is None else put(set_index.shares(sets)),
    neighbours=neighbours,
  )
