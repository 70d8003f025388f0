"""Search with the generator of code sets: histories in, items out.

Joins the pure search (`set_beam`) with the stepwise decoder. The users' context
is encoded and projected once; paths share it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.catalog import Catalog
from holorec_jax.codes import Codes, device_codes
from holorec_jax.decode import evidence, set_space
from holorec_jax.decode.engine import check_codes
from holorec_jax.decode.filters import Lists
from holorec_jax.decode.set_beam import (
  FoundSets,
  SearchOrder,
  SetSpace,
  set_search,
)
from holorec_jax.decode.set_space import Lattice, SetLive
from holorec_jax.errors import UserError
from holorec_jax.models.set_generator import SetGenerator


def search(
  params: dict,
  model: SetGenerator,
  codes: Codes,
  space: SetSpace,
  item_BT: jax.Array,
  beam: int,
  k: int,
) -> FoundSets:
  """Recommends k items to every user.

  Args:
    params: the generator's parameters in the compute dtype.
    model: the generator.
    codes: of the catalogue.
    space: the catalogue's lattice and what is allowed of it.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    beam: paths kept per step.
    k: items returned.
  """
  filled_BT = item_BT >= 0
  last_B1 = jnp.maximum(jnp.sum(filled_BT, axis=1, keepdims=True) - 1, 0)

  def apply(method, *args) -> Any:
    return model.apply({"params": params}, *args, method=method)

  context = apply(
    SetGenerator.open_branches,
    item_BT,
    codes,
    filled_BT.astype(jnp.int32),
    last_B1,
  )

  def decode(state, token_BN):
    codebook_BN = code_BN = None
    if token_BN is not None:
      codebook_BN = token_BN // model.num_codes
      code_BN = token_BN % model.num_codes
    return apply(SetGenerator.step, state, context, codebook_BN, code_BN)

  return set_search(decode, apply(SetGenerator.start), space, beam, k)


class SetEngine:
  """Search of the generator of code sets (see `decode.engine`).

  Attributes:
    model: the generator.
    room: share by which a catalogue may outgrow the first one.
    order: of the codebooks.
    category_MV: int32 category of every code of every codebook, to prune
      inconsistent paths with (CORP); None: none are.
  """

  def __init__(
    self,
    model: SetGenerator,
    room: float = 0.0,
    order: SearchOrder = "confident",
    category_MV: np.ndarray | None = None,
  ):
    needed = (model.num_codebooks, model.num_codes)
    if category_MV is not None and category_MV.shape != needed:
      raise UserError(
        f"the codes' categories have shape {category_MV.shape}; expected"
        f" {needed}, one for each code of each codebook of this generator"
      )
    self.model = model
    self.room = room
    self.order: SearchOrder = order
    self.category_MV = category_MV
    self._capacity: set_space.SetCapacity | None = None

  def check(self, catalog: Catalog) -> None:
    """Raises UserError for a catalogue that the model does not know."""
    check_codes(catalog, self.model.num_codebooks, self.model.num_codes)
    if catalog.neighbours is not None and self.order == "any":
      raise UserError(
        "a search of code sets in any order heeds no neighbours: set"
        " config.search.neighbours.strength to 0"
      )

  def place(self, catalog: Catalog) -> tuple[Codes, Lattice]:
    """Codes and lattice, of equal shapes as before where it fits."""
    index = set_space.index_of(catalog)
    least = set_space.needs(index)
    if self._capacity is None or not self._capacity.holds(least):
      self._capacity = least.with_room(self.room)
    sets = index if self.model.config.repeat_bias else None
    codes = device_codes(catalog, "level", self._capacity.items, sets)
    share_I = catalog.log_share_I
    return codes, set_space.device_lattice(index, share_I, self._capacity)

  def live(self, index: Lattice, available_I: np.ndarray) -> SetLive:
    """What availability, a bool per item, leaves of the lattice."""
    room = len(index.node_IX) - len(available_I)
    return set_space.live_edges(index, jnp.pad(available_I, (0, room)))

  def make_search(self, beam: int, k: int) -> Callable:
    """Jitted search(params, codes, index, live, item_BT, lists=None)."""
    categories = None
    if self.category_MV is not None:
      categories = tuple(self.category_MV.reshape(-1).tolist())
    return _make_search(self.model, self.order, categories, beam, k)


@functools.cache
def _make_search(
  model: SetGenerator,
  order: SearchOrder,
  categories: tuple[int, ...] | None,
  beam: int,
  k: int,
) -> Callable:
  def run(params, codes, index, live, item_BT, lists: Lists | None = None):
    category_X = None
    if categories is not None:
      category_X = jnp.array(categories, jnp.int32)
    masks = None
    if lists is not None:
      masks = set_space.make_set_masks(index, live, lists)
    found = None
    if codes.neighbours is not None:
      found = evidence.find(
        codes.neighbours, item_BT, codes.fine_IL, live.item_I, lists
      )
    over_lattice = model.config.softmax == "tree"
    space = SetSpace(index, live, masks, category_X, found, order, over_lattice)
    return search(params, model, codes, space, item_BT, beam, k)

  return jax.jit(run)
