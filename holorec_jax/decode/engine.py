"""How a family of systems searches a catalogue: the recommender's one seam.

An engine says what a catalogue is on device, what is live of it, and compiles
the search. The generator's, over the tree of valid codes, is here.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from holorec_jax.catalog import Catalog
from holorec_jax.codes import Codes, device_codes
from holorec_jax.decode import search_tree
from holorec_jax.decode.filters import Live, live_nodes
from holorec_jax.decode.search import make_search
from holorec_jax.decode.search_tree import SearchTree
from holorec_jax.errors import UserError
from holorec_jax.models.generator import Generator


class Engine(Protocol):
  """Search of one model."""

  def check(self, catalog: Catalog) -> None:
    """Raises UserError for a catalogue that the model does not know."""

  def place(self, catalog: Catalog) -> tuple[Any, Any]:
    """Codes and index of a catalogue, as pytrees that search reads.

    Of equal shapes as before where it fits into the arrays in use.
    """

  def live(self, index: Any, available_I: np.ndarray) -> Any:
    """What availability, a bool per item, leaves of the index."""

  def make_search(self, beam: int, k: int) -> Callable:
    """Jitted search(params, codes, index, live, item_BT, lists=None).

    It returns an object with item_BK (-1: none) and score_BK (-inf: none).
    """


def check_codes(catalog: Catalog, num_levels: int, num_codes: int) -> None:
  """Raises UserError unless the catalogue has codes of this form."""
  has = (catalog.codes_IL.shape[1], catalog.num_codes)
  if has != (num_levels, num_codes):
    raise UserError(
      f"the catalogue has {has[0]} levels of {has[1]} codes, this generator"
      f" was made for {num_levels} levels of {num_codes}: load the catalogue"
      " of the run that trained it"
    )


class TreeEngine:
  """Beam search over the tree of valid codes; arrays have room to grow.

  Attributes:
    model: the generator.
    room: share by which a catalogue may outgrow the first one.
  """

  def __init__(self, model: Generator, room: float = 0.0):
    self.model = model
    self.room = room
    self._capacity: search_tree.Capacity | None = None

  def check(self, catalog: Catalog) -> None:
    check_codes(catalog, self.model.num_levels, self.model.num_codes)

  def place(self, catalog: Catalog) -> tuple[Codes, SearchTree]:
    capacity = self._capacity
    if capacity is None or not capacity.holds(
      search_tree.needs(catalog, capacity.dense_groups)
    ):
      capacity = search_tree.with_room(search_tree.needs(catalog), self.room)
    self._capacity = capacity
    return (
      device_codes(catalog, "level", capacity.items),
      search_tree.device_tree(catalog, capacity),
    )

  def live(self, index: SearchTree, available_I: np.ndarray) -> Live:
    room = len(index.leaf_items) - len(available_I)
    return live_nodes(index, jnp.pad(jnp.asarray(available_I), (0, room)))

  def make_search(self, beam: int, k: int) -> Callable:
    return make_search(self.model, beam, k)
