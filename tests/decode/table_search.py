"""A network that is a table of every prefix, and searches of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models as tiny

from holorec_jax.catalog import Catalog
from holorec_jax.decode.beam import Found, Space, beam_search
from holorec_jax.decode.filters import Lists, live_nodes, make_masks
from holorec_jax.decode.search_tree import Capacity, device_tree


def draw_table(users: int, levels: int, codes: int) -> np.ndarray:
  """(L, U, V^(L-1), V) log-probabilities after each prefix, per user."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(levels, users, codes ** (levels - 1), codes))
  return jax.nn.log_softmax(logits.astype(np.float32))


@functools.partial(tiny.jit, static_argnames=("beam", "k"))
def run(table, space: Space, beam: int, k: int) -> Found:
  """The state is the number of the prefix: right only if it moves with it."""
  codes = table.shape[-1]

  def start():
    prefix_BM = jnp.zeros((table.shape[1], beam), jnp.int32)
    return prefix_BM, table[0][:, :1]

  def level(prefix_BM, depth, code_BM):
    prefix_BM = prefix_BM * codes + code_BM
    after = jnp.take_along_axis(table[depth], prefix_BM[..., None], axis=1)
    return prefix_BM, after

  return beam_search(start, level, space, beam, k)


def search(
  table,
  catalog: Catalog,
  beam: int,
  k: int,
  deny_BT=None,
  allow: list | None = None,
  available_I=None,
  capacity: Capacity | None = None,
) -> Found:
  """Searches the table; `allow` has a list or None for each user."""
  tree = device_tree(catalog, capacity)
  items = len(tree.leaf_items)
  fine_IL = np.pad(catalog.codes_IL, ((0, items - catalog.num_items), (0, 0)))
  if available_I is None:
    available_I = np.ones(catalog.num_items, bool)
  live = live_nodes(
    tree, jnp.asarray(np.pad(available_I, (0, items - len(available_I))))
  )
  masks = None
  if deny_BT is not None or allow is not None:
    users = table.shape[1]
    if deny_BT is None:
      deny_BT = np.full((users, 1), -1)
    allow = [None] * users if allow is None else allow
    width = max([1] + [len(a) for a in allow if a is not None])
    allow_BA = np.full((users, width), -1, np.int32)
    for row, listed in enumerate(allow):
      allow_BA[row, : len(listed or [])] = listed or []
    lists = Lists(
      jnp.asarray(deny_BT),
      jnp.asarray(allow_BA),
      jnp.asarray([a is not None for a in allow]),
    )
    masks = tiny.jit(make_masks)(tree, live, jnp.asarray(fine_IL), lists)
  return run(table, Space(tree, live, masks), beam, k)


def score_all(table, catalog: Catalog) -> np.ndarray:
  """(U, I) by walking every item's codes."""
  scores = np.broadcast_to(
    catalog.log_share_I, (table.shape[1], catalog.num_items)
  ).copy()
  for item, codes in enumerate(catalog.codes_IL):
    prefix = 0
    for level, code in enumerate(codes):
      scores[:, item] += table[level, :, prefix, code]
      prefix = prefix * table.shape[-1] + code
  return scores


def beam_by_sets(
  table, catalog: Catalog, row: int, beam: int, excluded: set
) -> list[int]:
  """All items left below the beam, if it keeps the best prefixes that have any.

  No tree: prefixes are rows of codes, and what is left of them a set.
  """
  codes_IL = catalog.codes_IL.tolist()
  kept = {(): 0.0}
  for level in range(len(codes_IL[0])):
    left = {
      tuple(codes[: level + 1])
      for item, codes in enumerate(codes_IL)
      if item not in excluded
    }
    scores = {}
    for prefix in left & {
      (*p, v) for p in kept for v in range(table.shape[-1])
    }:
      number = 0
      for code in prefix[:-1]:
        number = number * table.shape[-1] + code
      step = table[level, row, number, prefix[-1]]
      scores[prefix] = kept[prefix[:-1]] + float(step)
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:beam]
    kept = {prefix: scores[prefix] for prefix in best}
  return [
    item
    for item, codes in enumerate(codes_IL)
    if tuple(codes) in kept and item not in excluded
  ]


def assert_best(found: Found, scores_BI, k: int, excluded: list[set]):
  """The k best allowed items, best first, then -1."""
  answers = zip(np.asarray(found.item_BK), np.asarray(found.score_BK))
  for row, (items_K, scores_K) in enumerate(answers):
    order = np.argsort(-scores_BI[row], kind="stable")
    allowed = [i for i in order if i not in excluded[row]][:k]
    missing = k - len(allowed)
    assert items_K.tolist() == allowed + [-1] * missing
    np.testing.assert_allclose(
      scores_K, [*scores_BI[row, allowed], *[-np.inf] * missing], rtol=1e-5
    )
