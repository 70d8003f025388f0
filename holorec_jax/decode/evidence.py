"""What the neighbours of a history say, as a factor on the network's word.

A history's neighbours share one unit of evidence: item i has the share s_i, and
a prefix of codes that of all items that begin with it. Search looks for items
with the largest

  log p(i | history) + strength * log((floor + s_i) / (floor + sum of s))

and scores a prefix alike, so that evidence steers the beam from the first level
on. It is a product of experts (Hinton 2002): item-kNN knows pairs that a
generator of this size forgets, above all which single item comes next, and the
generator all the rest. Nothing is trained; `floor` says how little an item
without evidence is trusted.
"""

import jax
import jax.numpy as jnp
from flax import struct

from holorec_jax.decode import filters
from holorec_jax.decode.filters import Lists
from holorec_jax.neighbours import Neighbours


@struct.dataclass
class Evidence:
  """Of each user E items with shares; an item may come several times.

  Attributes:
    item_BE: int32 items; any where the share is 0.
    share_BE: float32, of sum 1, or 0 where nothing is known.
    codes_LBE: int32 identifying codes of the items; None for a model without.
    strength, floor: () float32, as in NeighboursConfig.
  """

  item_BE: jax.Array
  share_BE: jax.Array
  codes_LBE: jax.Array | None
  strength: jax.Array
  floor: jax.Array

  def log_odds(self, share: jax.Array, whole: jax.Array) -> jax.Array:
    """What a share adds to the score of what has the share `whole`."""
    ratio = (self.floor + share) / (self.floor + whole)
    return self.strength * jnp.log(ratio)

  def of_codes(
    self, holder_BE: jax.Array, depth, beams: int, num_codes: int
  ) -> jax.Array:
    """What the next code adds to prefixes' scores, (B, M, V) float32.

    Args:
      holder_BE: the beam whose prefix each item begins with; as there are no
        equal prefixes, there is one, or none (M).
      depth: 0 .. L-1; a Python int or a traced scalar.
      beams: M.
      num_codes: V.
    """
    assert self.codes_LBE is not None  # as the model decodes codes
    place_BE = holder_BE * num_codes + self.codes_LBE[depth]
    share_BX = _add_up(self.share_BE, place_BE, beams * num_codes)
    share_BMV = share_BX.reshape(-1, beams, num_codes)
    return self.log_odds(share_BMV, share_BMV.sum(axis=-1, keepdims=True))

  def follow(
    self, holder_BE: jax.Array, depth, parent_BW: jax.Array, code_BW: jax.Array
  ) -> jax.Array:
    """The new beam, 0 .. W, that holds each item: its own parent and code."""
    assert self.codes_LBE is not None
    here_BEW = parent_BW[:, None] == holder_BE[..., None]
    here_BEW &= code_BW[:, None] == self.codes_LBE[depth][..., None]
    W = parent_BW.shape[1]
    return jnp.where(here_BEW.any(-1), here_BEW.argmax(-1), W)

  def of_codebook(
    self, held_BME: jax.Array, codebook_BM: jax.Array, num_codes: int
  ) -> jax.Array:
    """What the next of unordered codes adds to sets' scores, (B, M, V) float32.

    Args:
      held_BME: bool, which items have all codes of each set.
      codebook_BM: whose turn it is.
      num_codes: V.
    """
    code_BME = self._codes_of(codebook_BM)
    share_BME = jnp.where(held_BME, self.share_BE[:, None], 0.0)
    add_up = jax.vmap(lambda share, code: _add_up(share, code, num_codes))
    share_BMV = add_up(share_BME, code_BME)
    return self.log_odds(share_BMV, share_BMV.sum(axis=-1, keepdims=True))

  def keep(
    self, held_BME: jax.Array, codebook_BM: jax.Array, code_BM: jax.Array
  ) -> jax.Array:
    """Of the items with a set's codes those that have one more, (B, M, E)."""
    return held_BME & (self._codes_of(codebook_BM) == code_BM[..., None])

  def _codes_of(self, codebook_BM: jax.Array) -> jax.Array:
    """The items' codes of a codebook for each set, (B, M, E)."""
    assert self.codes_LBE is not None
    codes_BLE = jnp.swapaxes(self.codes_LBE, 0, 1)
    return jnp.take_along_axis(codes_BLE, codebook_BM[..., None], axis=1)

  def of_items(self, share_BM: jax.Array, item_BMG: jax.Array) -> jax.Array:
    """What an item adds to the score of its leaf, (B, M, G) float32.

    Args:
      share_BM: of the leaves (`of_leaves`, `of_sets`).
      item_BMG: their items.
    """
    same_BMGE = item_BMG[..., None] == self.item_BE[:, None, None]
    share_BMG = jnp.where(same_BMGE, self.share_BE[:, None, None], 0).sum(-1)
    return self.log_odds(share_BMG, share_BM[..., None])

  def of_leaves(self, holder_BE: jax.Array, beams: int) -> jax.Array:
    """Shares (B, M) of what each beam holds."""
    return _add_up(self.share_BE, holder_BE, beams)

  def of_sets(self, held_BME: jax.Array) -> jax.Array:
    """Shares (B, M) of the items that have all codes of each set."""
    return jnp.where(held_BME, self.share_BE[:, None], 0.0).sum(axis=-1)

  def of_range(self, start: jax.Array, size: int) -> jax.Array:
    """What is added to `size` items from `start` on, (B, size) float32."""
    place_BE = self.item_BE - start
    # What lies before goes behind the end, where it is dropped.
    place_BE = jnp.where(place_BE < 0, size, place_BE)
    share_BC = _add_up(self.share_BE, place_BE, size)
    return self.log_odds(share_BC, self.share_BE.sum(axis=1, keepdims=True))


def _add_up(share_BE: jax.Array, place_BE: jax.Array, size: int) -> jax.Array:
  """(B, size): the shares of each place; those from `size` on are dropped."""
  none = jnp.zeros(size, share_BE.dtype)
  return jax.vmap(
    lambda place_E, share_E: none.at[place_E].add(share_E, mode="drop")
  )(place_BE, share_BE)


def find(
  neighbours: Neighbours,
  item_BT: jax.Array,
  codes_IL: jax.Array | None,
  live_I: jax.Array,
  lists: Lists | None,
) -> Evidence:
  """The evidence of histories, among the items that may be returned.

  Args:
    neighbours: the table, on device.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    codes_IL: identifying codes of all items; None for a model without.
    live_I: bool, what is available.
    lists: items that requests deny or ask for; None: none do.
  """
  length_B1 = jnp.sum(item_BT >= 0, axis=1, keepdims=True)
  slot_BA = length_B1 - 1 - jnp.arange(len(neighbours.recency_A))
  known_BA = slot_BA >= 0
  item_BA = jnp.take_along_axis(item_BT, jnp.where(known_BA, slot_BA, 0), 1)
  recency_BA = jnp.where(known_BA, neighbours.recency_A, 0.0)
  item_BE = neighbours.item_IK[item_BA].reshape(len(item_BT), -1)
  weight_BAK = recency_BA[..., None] * neighbours.weight_IK[item_BA]
  allowed_BE = (item_BE >= 0) & live_I[item_BE]
  if lists is not None:
    allowed_B1E = filters.mask_items(
      lists, item_BE[:, None], allowed_BE[:, None]
    )
    allowed_BE = allowed_B1E[:, 0]
  share_BE = jnp.where(allowed_BE, weight_BAK.reshape(item_BE.shape), 0.0)
  total_B1 = share_BE.sum(axis=1, keepdims=True)
  codes_LBE = None
  if codes_IL is not None:
    codes_LBE = jnp.moveaxis(codes_IL[item_BE], -1, 0)
  return Evidence(
    item_BE=item_BE,
    share_BE=share_BE / jnp.where(total_B1 > 0, total_B1, 1.0),
    codes_LBE=codes_LBE,
    strength=jnp.asarray(neighbours.strength),
    floor=jnp.asarray(neighbours.floor),
  )
