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
    recency_LBNT: recency bias of each level; N may be 1.
    codes_LBT: int32 identifying codes of the history items.
    share_LBT: float32, `Codes.share_IL` of the history items.
  """

  visible_BNT: jax.Array
  recency_LBNT: jax.Array
  codes_LBT: jax.Array
  share_LBT: jax.Array

  def follow(
    self, match_BNT: jax.Array | None, level, code_BN: jax.Array
  ) -> jax.Array:
    """Of the matching items those that have the code at the level, too."""
    assert match_BNT is not None  # a decode state has it where repeats are
    return match_BNT & (self.codes_LBT[level][:, None] == code_BN[..., None])


class RepeatBias(nn.Module):
  """Biases of all levels; parameters: recency (L, buckets), seen (L,)."""

  num_levels: int
  num_codes: int

  def setup(self):
    self.recency = RelativeBias(
      self.num_levels, bidirectional=False, init_scale=0.0
    )
    self.seen_L = self.param("seen", nn.initializers.zeros, (self.num_levels,))

  def open(
    self,
    codes_BTL: jax.Array,
    share_BTL: jax.Array,
    visible_BNT: jax.Array,
    distance_BNT: jax.Array,
  ) -> Repeats:
    """Prepares histories; distances count items back from the branch's last."""
    return Repeats(
      visible_BNT=visible_BNT,
      recency_LBNT=self.recency(distance_BNT),
      codes_LBT=jnp.moveaxis(codes_BTL, -1, 0),
      share_LBT=jnp.moveaxis(share_BTL, -1, 0),
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
    assert match_BNT is not None  # a decode state has it where repeats are
    seen_BT = self.seen_L[level] * repeats.share_LBT[level]
    weight_BNT = repeats.recency_LBNT[level] + seen_BT[:, None]
    code_BTV = jax.nn.one_hot(
      repeats.codes_LBT[level], self.num_codes, dtype=weight_BNT.dtype
    )
    return jnp.einsum(
      "bnt,btv->bnv", jnp.where(match_BNT, weight_BNT, 0.0), code_BTV
    ).astype(jnp.float32)
