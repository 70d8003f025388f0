"""Search with the generator: histories in, items out.

Joins the pure beam search with the stepwise decoder. The users' context is
encoded and projected once; beams share it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from holorec_jax.codes import Codes
from holorec_jax.decode import evidence
from holorec_jax.decode.beam import (
  Found,
  LevelFn,
  Space,
  StartFn,
  beam_search,
)
from holorec_jax.decode.filters import Lists, Live, make_masks
from holorec_jax.decode.search_tree import SearchTree
from holorec_jax.models.generator import Generator


def make_decoder(
  params: dict,
  model: Generator,
  codes: Codes,
  item_BT: jax.Array,
  beam: int,
  unroll: bool = False,
) -> tuple[StartFn, LevelFn]:
  """Encodes the histories once; returns `start` and `level` of `beam_search`.

  Args:
    params: the generator's parameters in the compute dtype.
    model: the generator.
    codes: of the catalogue.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    beam: prefixes kept per level.
    unroll: the state grows from level to level, instead of keeping its form.
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
  shared, steps = model.first_steps, model.steps_per_level

  def decode(state, depth, code_BM):
    state, output = apply(Generator.level, state, context, depth, code_BM)
    return state, output.fine_BNV

  def start():
    state, logits_B1V = decode(apply(Generator.start, context), 0, None)
    spare = 0 if unroll else max(model.num_levels - 2, 0) * steps
    return state.spread(beam, spare), logits_B1V

  def level(state, depth, code_BM):
    state, logits_BMV = decode(state, depth, code_BM)
    return state if unroll else state.drop_spare(shared, steps), logits_BMV

  return start, level


def search(
  params: dict,
  model: Generator,
  codes: Codes,
  tree: SearchTree,
  live: Live,
  item_BT: jax.Array,
  lists: Lists | None,
  beam: int,
  k: int,
  unroll: bool = False,
) -> Found:
  """Recommends k items to every user.

  Args:
    params: the generator's parameters in the compute dtype.
    model: the generator.
    codes: of the catalogue.
    tree: the catalogue's tree on device.
    live: what is available.
    item_BT: histories, oldest first, left-aligned, -1 where empty.
    lists: items that requests deny or ask for; None: none do.
    beam: prefixes kept per level.
    k: items returned.
    unroll: as in `beam.over_levels`.

  Returns:
    Items and their float32 scores, best first: log-probabilities, with
    neighbours those of `decode/evidence.py`.
  """
  start, level = make_decoder(params, model, codes, item_BT, beam, unroll)
  masks = None
  if lists is not None:
    masks = make_masks(tree, live, codes.fine_IL, lists)
  found = None
  if codes.neighbours is not None:
    found = evidence.find(
      codes.neighbours, item_BT, codes.fine_IL, live.item_I, lists
    )
  over_tree = model.config.softmax == "tree"
  space = Space(tree, live, masks, found, over_tree)
  return beam_search(start, level, space, beam, k, unroll)


def unrolls() -> bool:
  """Whether search unrolls its levels: on CPU it is faster that way."""
  return jax.default_backend() == "cpu"


@functools.cache
def make_search(model: Generator, beam: int, k: int) -> Callable:
  """Jitted search(params, codes, tree, live, item_BT, lists=None) -> Found.

  It compiles once for each shape of its arguments (batch, history, lists), and
  once for all equal models: a run's validation and evaluation share it.
  """
  unroll = unrolls()

  def run(params, codes, tree, live, item_BT, lists=None):
    return search(
      params, model, codes, tree, live, item_BT, lists, beam, k, unroll
    )

  return jax.jit(run)
