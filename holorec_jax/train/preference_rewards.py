"""What rewards compare of paths and items, for sets and for strings of codes.

The rewards (`train/rewards.py`) know codebooks and codes. Codes of a set are
what they are. A code of a string means something only after the codes before
it: there the first m codes together stand for the m-th, and the item itself for
the last, so that the same functions give item-level rewards.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from holorec_jax.quantize.categories import code_categories
from holorec_jax.train import rewards
from holorec_jax.train.preference_sampling import Paths
from holorec_jax.train.rewards import RewardConfig


@struct.dataclass
class RewardTables:
  """What rewards read of an item.

  Attributes:
    symbol_IM: int32, what stands for each of its codes: the code itself in a
      set; the code with all before it in a string, where the last is the item.
    category_I: int32 leaf category, -1 for none.
    category_MX: int32 category of every symbol, -1 for none.
  """

  symbol_IM: jax.Array
  category_I: jax.Array
  category_MX: jax.Array


def make_tables(
  codes_IL: np.ndarray, category_I: np.ndarray, ordered: bool
) -> RewardTables:
  """The tables of a catalogue.

  Args:
    codes_IL: identifying codes.
    category_I: leaf categories, -1 for none.
    ordered: a code means something only after the codes before it, so a step
      hits if all steps up to it are right, and the whole path if it leads to
      the item itself, though others may share its codes.
  """
  symbol_IM = number_prefixes(codes_IL) if ordered else codes_IL
  category_MX = code_categories(symbol_IM, category_I, int(symbol_IM.max()) + 1)
  return RewardTables(
    jnp.asarray(symbol_IM, jnp.int32),
    jnp.asarray(category_I, jnp.int32),
    jnp.asarray(category_MX, jnp.int32),
  )


def number_prefixes(codes_IL: np.ndarray) -> np.ndarray:
  """(I, L) numbers of the items' first 1 .. L codes; the item in the end."""
  number_IL = np.empty(codes_IL.shape, np.int64)
  before_I = np.zeros(len(codes_IL), np.int64)
  base = int(codes_IL.max()) + 1
  for level, code_I in enumerate(codes_IL.T):
    _, before_I = np.unique(before_I * base + code_I, return_inverse=True)
    number_IL[:, level] = before_I
  number_IL[:, -1] = np.arange(len(codes_IL))
  return number_IL


def path_rewards(
  tables: RewardTables,
  paths: Paths,
  target_BW: jax.Array,
  config: RewardConfig,
) -> jax.Array:
  """R of every path against the items that came next, (B, G)."""
  step_symbol_BGM = jnp.take_along_axis(
    tables.symbol_IM[paths.item_BG], paths.codebook_BGM, axis=-1
  )
  return rewards.window_reward(
    paths.codebook_BGM,
    step_symbol_BGM,
    tables.symbol_IM[target_BW],
    tables.category_I[target_BW],
    target_BW >= 0,
    tables.category_MX,
    config,
  )
