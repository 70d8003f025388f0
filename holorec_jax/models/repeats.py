"""Repeats: a learned bias on codes that lead back to items of the history.

Histories are full of neighbours and, in most data, empty of repetitions: the
clusters of what a user had lately are the likeliest clusters of what comes
next, while the very items seldom come again. A network has to learn both as
matrices; here they are one number per level and distance:

  bias_l(v) = sum_t [codes of item t begin with prefix, v]
              * (recency_l(distance of t) + seen_l * share_l(t))

over the visible history items t. `share` is one over the number of items that
begin with (prefix, v), so over distinct items the second sum is the share of
them that the user had: a negative `seen` presses on what is used up and spares
the cluster of a single item. (An item that a history repeats counts each time.)
Of unordered codes a prefix is the set of codes chosen so far, and what has
numbers of its own is how many they are and whose turn it is.
The idea is the copy mode of pointer networks (RepeatNet, arXiv 1812.02646) on
the tree of codes; all values start at zero and are learned.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from holorec_jax.nn.layers import RelativeBias


@struct.dataclass
class Repeats:
  """What the bias needs of the histories; the same for all levels.

  Attributes:
    visible_BNT: bool, the history items that a branch sees; N may be 1.
    recency_RBNT: recency bias of each row of the bias's numbers (of levels: a
      row a level); N may be 1.
    codes_LBT: int32 identifying codes of the history items.
    share_XBT: float32 shares of the history items: `Codes.share_IL`, or
      `Codes.share_IX` of unordered codes.
  """

  visible_BNT: jax.Array
  recency_RBNT: jax.Array
  codes_LBT: jax.Array
  share_XBT: jax.Array

  def follow(
    self, match_BNT: jax.Array | None, level, code_BN: jax.Array
  ) -> jax.Array:
    """Of the matching items those that have the code at the level, too."""
    assert match_BNT is not None  # a decode state has it where repeats are
    return match_BNT & (self.codes_LBT[level][:, None] == code_BN[..., None])


class RepeatBias(nn.Module):
  """Biases of all levels; parameters: recency (R, buckets), seen (R,).

  Attributes:
    num_rows: R, numbers of levels, or of sizes and codebooks.
    num_codes: V.
  """

  num_rows: int
  num_codes: int

  def setup(self):
    self.recency = RelativeBias(
      self.num_rows, bidirectional=False, init_scale=0.0
    )
    self.seen_R = self.param("seen", nn.initializers.zeros, (self.num_rows,))

  def open(
    self,
    codes_BTL: jax.Array,
    share_BTX: jax.Array,
    visible_BNT: jax.Array,
    distance_BNT: jax.Array,
  ) -> Repeats:
    """Prepares histories; distances count items back from the branch's last."""
    return Repeats(
      visible_BNT=visible_BNT,
      recency_RBNT=self.recency(distance_BNT),
      codes_LBT=jnp.moveaxis(codes_BTL, -1, 0),
      share_XBT=jnp.moveaxis(share_BTX, -1, 0),
    )

  def __call__(
    self, repeats: Repeats, match_BNT: jax.Array | None, level
  ) -> jax.Array:
    """The bias of a level's codes, (B, N, V) float32.

    Args:
      repeats: from `open`.
      match_BNT: the visible items whose codes begin with the prefix so far.
      level: 0 .. L-1; a Python int or a traced scalar.
    """
    share_BNT = repeats.share_XBT[level][:, None]
    return self._bias(repeats, match_BNT, level, level, share_BNT)

  def of_codebook(
    self,
    repeats: Repeats,
    match_BNT: jax.Array | None,
    chosen_BN: jax.Array | None,
    size,
    codebook: int,
  ) -> jax.Array:
    """The bias of a codebook's codes after unordered ones, (B, N, V) float32.

    Args:
      repeats: from `open`.
      match_BNT: the visible items that have all codes chosen so far.
      chosen_BN: int32, the subset of the codebooks that they are of.
      size: how many they are; a Python int or a traced scalar.
      codebook: whose turn it may be.
    """
    assert chosen_BN is not None  # a decode state has it where repeats are
    share_BXT = jnp.swapaxes(repeats.share_XBT, 0, 1)
    subset_BN1 = (chosen_BN | (1 << codebook))[..., None]
    share_BNT = jnp.take_along_axis(share_BXT, subset_BN1, axis=1)
    row = size * len(repeats.codes_LBT) + codebook
    return self._bias(repeats, match_BNT, row, codebook, share_BNT)

  def _bias(self, repeats, match_BNT, row, level, share_BNT) -> jax.Array:
    """With the numbers of a row, of the codes of a level."""
    assert match_BNT is not None  # a decode state has it where repeats are
    weight_BNT = repeats.recency_RBNT[row] + self.seen_R[row] * share_BNT
    code_BTV = jax.nn.one_hot(
      repeats.codes_LBT[level], self.num_codes, dtype=weight_BNT.dtype
    )
    return jnp.einsum(
      "bnt,btv->bnv", jnp.where(match_BNT, weight_BNT, 0.0), code_BTV
    ).astype(jnp.float32)
