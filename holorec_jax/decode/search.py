"""Search with the generator: histories in, items out.

Joins the pure beam search with the stepwise decoder. The users' context is
encoded and projected once; beams share it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from holorec_jax.codes import Codes
from holorec_jax.decode.beam import Items, SearchTree, beam_search
from holorec_jax.models.generator import Generator


def search(
  params: dict,
  model: Generator,
  codes: Codes,
  tree: SearchTree,
  item_BT: jax.Array,
  beam: int,
  k: int,
  exclude_seen: bool,
  seen_BT: jax.Array | None = None,
) -> Items:
  """Recommends k items to every user.

  Args:
    params: the generator's parameters in the compute dtype.
    model: the generator.
    codes: of the catalogue.
    tree: the catalogue's tree on device.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    beam: prefixes kept per level.
    k: items returned.
    exclude_seen: never return items of `seen_BT`.
    seen_BT: what counts as seen, -1 padded; the history itself when None.

  Returns:
    Items and float32 log-probabilities, best first.
  """
  filled_BT = item_BT >= 0
  last_B1 = jnp.maximum(jnp.sum(filled_BT, axis=1, keepdims=True) - 1, 0)

  def apply(method, *args):
    return model.apply({"params": params}, *args, method=method)

  context = apply(
    Generator.open_branches,
    item_BT,
    codes,
    filled_BT.astype(jnp.int32),
    last_B1,
  )

  def decode(state, level, code_BM):
    state, output = apply(Generator.level, state, context, level, code_BM)
    return state, jax.nn.log_softmax(output.fine_BNV, axis=-1)

  state = model.apply(
    {"params": params}, context, False, method=Generator.start
  )
  excluded_BT = None
  if exclude_seen:
    excluded_BT = item_BT if seen_BT is None else seen_BT
  return beam_search(
    lambda: decode(state, 0, None),
    decode,
    tree,
    beam,
    k,
    excluded_BT,
    over_tree=model.config.softmax == "tree",
  )


def make_search(
  model: Generator, beam: int, k: int, exclude_seen: bool
) -> Callable:
  """Jitted search(params, codes, tree, item_BT, seen_BT=None) -> Items."""

  def run(params, codes, tree, item_BT, seen_BT=None):
    return search(
      params, model, codes, tree, item_BT, beam, k, exclude_seen, seen_BT
    )

  return jax.jit(run)
