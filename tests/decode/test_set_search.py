"""Search over unordered codes, on networks that are tables and on a real one.

A table has logits for every sequence of tokens, so paths are right only if
their state moves with them. The oracle knows no lattice: what is left below a
set of codes is a set of items.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax.catalog import add_items, build_catalog, remove_items
from holorec_jax.decode.filters import Lists
from holorec_jax.decode.set_beam import SetSpace, set_search
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.decode.set_space import (
  device_lattice,
  index_of,
  live_edges,
  make_set_masks,
  needs,
)
from holorec_jax.errors import UserError
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.train.set_loss import SetLossConfig, SetObjective
from holorec_jax.types import Batch

USERS, M, V = 4, 3, 4
BASE = M * V + 1


def draw_table(order_free: bool) -> np.ndarray:
  """(users, sequences of up to M - 1 tokens, M, V) log-probabilities."""
  rng = np.random.default_rng(0)
  shape = (USERS, BASE ** (M - 1), M, V)
  logits = 2 * rng.normal(size=shape).astype(np.float32)
  if order_free:
    for first, second in itertools.product(range(1, BASE), repeat=2):
      low, high = sorted((first, second))
      logits[:, first * BASE + second] = logits[:, low * BASE + high]
  return np.asarray(jax.nn.log_softmax(logits))


@functools.partial(tiny.jit, static_argnames=("beam", "k"))
def run(table, space: SetSpace, beam: int, k: int):
  def decode(state_BN, token_BN):
    if token_BN is not None:
      state_BN = jnp.broadcast_to(state_BN, token_BN.shape) * BASE
      state_BN += token_BN + 1
    return state_BN, jax.vmap(lambda t, s: t[s])(table, state_BN)

  start = jnp.zeros((USERS, 1), jnp.int32)
  return set_search(decode, start, space, beam, k)


def make_lists(deny_BT, allow: list) -> Lists:
  """`allow` has a list or None for each user."""
  width = max([1] + [len(a) for a in allow if a is not None])
  allow_BA = np.full((len(allow), width), -1, np.int32)
  for row, listed in enumerate(allow):
    allow_BA[row, : len(listed or [])] = listed or []
  restricted_B = jnp.asarray([a is not None for a in allow])
  return Lists(jnp.asarray(deny_BT), jnp.asarray(allow_BA), restricted_B)


def make_space(catalog, available_I=None, lists=None, **changes) -> SetSpace:
  index = index_of(catalog)
  lattice = device_lattice(index, catalog.log_share_I, needs(index))
  if available_I is None:
    available_I = np.ones(catalog.num_items, bool)
  live = live_edges(lattice, jnp.asarray(available_I))
  masks = None
  if lists is not None:
    masks = tiny.jit(make_set_masks)(lattice, live, lists)
  return SetSpace(lattice, live, masks, **changes)


def log_prob(table_X, sequence, token) -> float:
  number = 0
  for earlier in sequence:
    number = number * BASE + earlier + 1
  return float(table_X[number, token // V, token % V])


def next_codebooks(table_X, sequence, order) -> list[int]:
  unused = [r for r in range(M) if r not in {t // V for t in sequence}]
  if order == "any":
    return unused
  if order == "fixed":
    return unused[:1]
  return [
    max(
      unused,
      key=lambda r: max(
        log_prob(table_X, sequence, r * V + v) for v in range(V)
      ),
    )
  ]


def oracle(table_X, catalog, allowed, order, beam, k, category_X=None):
  """Items and scores of a beam over sets, kept by their best sequence."""
  tokens = {
    item: frozenset(r * V + v for r, v in enumerate(codes))
    for item, codes in enumerate(catalog.codes_IL.tolist())
  }

  def consistent(sequence):
    if category_X is None or len(sequence) < 2:
      return True
    pairs = itertools.pairwise(category_X[list(sequence)])
    return 2 * sum(a == b for a, b in pairs) >= len(sequence) - 1

  kept = {frozenset(): ((True, 0.0), ())}
  for _ in range(M):
    best: dict = {}
    for chosen, ((_, score), sequence) in kept.items():
      turns = next_codebooks(table_X, sequence, order)
      below = {
        token
        for item in allowed
        if chosen <= tokens[item]
        for token in tokens[item] - chosen
        if token // V in turns
      }
      for token in below:
        longer = (*sequence, token)
        rank = (
          consistent(longer),
          score + log_prob(table_X, sequence, token),
        )
        key = frozenset(longer)
        best[key] = max(best.get(key, (rank, longer)), (rank, longer))
    ranked = sorted(best.items(), key=lambda x: x[1][0], reverse=True)
    kept = {
      key: value
      for place, (key, value) in enumerate(ranked[:beam])
      if value[0][0] or place < k
    }
  scores = {
    item: kept[tokens[item]][0][1] + float(catalog.log_share_I[item])
    for item in allowed
    if tokens[item] in kept
  }
  items = sorted(scores, key=scores.__getitem__, reverse=True)[:k]
  return items, [scores[item] for item in items]


def assert_found(found, row, items, scores):
  missing = len(found.item_BK[row]) - len(items)
  assert found.item_BK[row].tolist() == items + [-1] * missing
  np.testing.assert_allclose(
    found.score_BK[row], scores + [-np.inf] * missing, rtol=1e-5
  )


CATALOG = tiny.make_catalog(40, M, V, distinct=False)
FREE, BOUND = draw_table(True), draw_table(False)


@pytest.mark.parametrize("order", ["confident", "fixed", "any"])
def test_a_wide_beam_is_exhaustive(order):
  """All items, each by all M! orders where any order may be taken."""
  found = run(FREE, make_space(CATALOG, order=order), 200, 40)
  for row in range(USERS):
    scores = {}
    for item, codes in enumerate(CATALOG.codes_IL.tolist()):
      ways = []
      for codebooks in itertools.permutations(range(M)):
        sequence: tuple = ()
        score = float(CATALOG.log_share_I[item])
        for codebook in codebooks:
          if codebook not in next_codebooks(FREE[row], sequence, order):
            break
          token = codebook * V + codes[codebook]
          score += log_prob(FREE[row], sequence, token)
          sequence = (*sequence, token)
        else:
          ways.append(score)
      assert len(ways) == (6 if order == "any" else 1)
      scores[item] = max(ways)
    items = sorted(scores, key=scores.__getitem__, reverse=True)
    assert_found(found, row, items, [scores[item] for item in items])
    # The path is told with the item, and no set came twice.
    for item, token_M in zip(items, np.asarray(found.token_BKM[row])):
      codes = {t // V: t % V for t in token_M.tolist()}
      assert [codes[r] for r in range(M)] == CATALOG.codes_IL[item].tolist()


def test_probabilities_of_all_sets_sum_to_one():
  """In an order of its own for every user and path."""
  every = np.stack(np.unravel_index(np.arange(V**M), (V,) * M), axis=1)
  catalog = build_catalog(every[:, None], every, np.ones(V**M), V)
  for order in ("confident", "fixed"):
    found = run(BOUND, make_space(catalog, order=order), 64, 64)
    np.testing.assert_allclose(np.exp(found.score_BK).sum(1), 1.0, rtol=1e-5)
    firsts = np.asarray(found.token_BKM)[:, 0, :] // V
    assert len(np.unique(firsts, axis=0)) > (order == "confident")


def test_probabilities_of_items_sum_to_one_over_the_lattice():
  """Of the catalogue's items, whatever is unavailable or denied."""
  for order in ("confident", "fixed"):
    space = make_space(CATALOG, order=order, over_lattice=True)
    found = run(BOUND, space, 40, 40)
    np.testing.assert_allclose(np.exp(found.score_BK).sum(1), 1.0, rtol=1e-5)
    # Filters take items away, and change no score of those that stay.
    lists = make_lists(np.full((USERS, 1), 13, np.int32), [None] * USERS)
    fewer = make_space(
      CATALOG, np.arange(40) > 9, lists, order=order, over_lattice=True
    )
    left = run(BOUND, fewer, 40, 40)
    for row in range(USERS):
      keep_K = (found.item_BK[row] > 9) & (found.item_BK[row] != 13)
      items = found.item_BK[row][keep_K].tolist()
      assert_found(left, row, items, found.score_BK[row][keep_K].tolist())


@pytest.mark.parametrize("beam", [1, 6, 15])
@pytest.mark.parametrize("order", ["confident", "fixed", "any"])
def test_beams_and_filters_against_brute_force(order, beam):
  k, items = min(beam, 6), CATALOG.num_items
  for seed in range(6):
    rng = np.random.default_rng(seed)
    available_I = rng.random(items) < rng.choice([0.1, 0.6, 1.0])
    deny_BT = rng.integers(-1, items, (USERS, items)).astype(np.int32)
    deny_BT[0] = -1
    allow: list = [None if rng.random() < 0.4 else [] for _ in range(USERS)]
    for listed in allow:
      if listed is not None:
        listed += rng.integers(0, items, rng.integers(0, items)).tolist()
    # One width of the lists: one compilation.
    allow = [a if a is None else (a + [-1] * items)[:items] for a in allow]
    if allow == [None] * USERS:
      allow[0] = list(range(items))
    lists = make_lists(deny_BT, allow)
    space = make_space(CATALOG, available_I, lists, order=order)
    found = run(BOUND, space, beam, k)
    for row in range(USERS):
      allowed = set(np.flatnonzero(available_I)) - set(deny_BT[row].tolist())
      if allow[row] is not None:
        allowed &= set(allow[row])
      best, scores = oracle(BOUND[row], CATALOG, allowed, order, beam, k)
      assert_found(found, row, best, scores)
      if order != "any":
        assert len(best) == min(k, len(allowed))


def test_equal_sets_are_merged():
  """Two items, six orders each: a beam of two holds both to the end."""
  catalog = remove_items(CATALOG, np.arange(2, 40))
  found = run(FREE, make_space(catalog, order="any"), 6, 6)
  for row in range(USERS):
    assert sorted(found.item_BK[row, :2].tolist()) == [0, 1]
    assert (found.item_BK[row, 2:] == -1).all()


@pytest.mark.parametrize("order", ["confident", "any"])
def test_inconsistent_paths_are_pruned(order):
  category_X = np.random.default_rng(1).integers(0, 2, M * V)
  space = make_space(CATALOG, order=order, category_X=jnp.asarray(category_X))
  everything = set(range(CATALOG.num_items))
  fewer = 0
  for k in (2, 8):
    found = run(BOUND, space, 16, k)
    for row in range(USERS):
      best, scores = oracle(
        BOUND[row], CATALOG, everything, order, 16, k, category_X
      )
      assert_found(found, row, best, scores)
      assert len(best) == k
      plain, _ = oracle(BOUND[row], CATALOG, everything, order, 16, k)
      fewer += best != plain
  assert fewer


def make_engine(catalog, softmax="level", **changes):
  codebooks = catalog.codes_IL.shape[1]
  model = SetGenerator(
    tiny.make_config(
      start="last", softmax=softmax, repeat_bias=softmax == "tree"
    ),
    codebooks,
    catalog.num_codes,
  )
  objective = SetObjective(model, SetLossConfig(), index_of(catalog))
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(functools.partial(objective.init_params, 0))
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) / 2,
    shapes,
  )
  return objective, params, SetEngine(model, **changes)


@pytest.mark.parametrize("softmax", ["level", "tree"])
def test_the_engine_finds_what_training_scores(softmax):
  """Search, and the unroll that training differentiates, item by item."""
  objective, params, engine = make_engine(CATALOG, softmax)
  engine.check(CATALOG)
  codes, lattice = engine.place(CATALOG)
  items = CATALOG.num_items
  live = engine.live(lattice, np.arange(items) % 5 > 0)
  item_BT = np.array([[3, 1, 2], [7, 7, -1]], np.int32)
  lists = make_lists(item_BT, [None, list(range(30))])
  found = engine.make_search(40, 40)(
    params, codes, lattice, live, item_BT, lists
  )
  every_BI = np.broadcast_to(np.arange(items), (2, items))
  last_BI = np.broadcast_to([[2], [1]], (2, items))
  batch = Batch(
    item_BT,
    (item_BT >= 0).astype(np.int32),
    last_BI,
    every_BI,
    np.ones((2, items), np.float32),
  )

  @tiny.jit
  def unroll(params):
    valid = objective.valid(every_BI)
    return engine.model.apply({"params": params}, batch, codes, valid=valid)

  steps = unroll(params)
  score_BI = np.tile(CATALOG.log_share_I, (2, 1))
  for step in steps:
    log_prob_BIMV = np.asarray(jax.nn.log_softmax(step.logits_BNMV))
    codebook_BI = np.asarray(step.codebook_BN)
    code_BI = CATALOG.codes_IL[every_BI, codebook_BI]
    row_BI = np.arange(2)[:, None]
    score_BI += log_prob_BIMV[row_BI, every_BI, codebook_BI, code_BI]
  # What has no item takes its share of 64 sets, or none.
  total_B = np.exp(score_BI).sum(axis=1)
  if softmax == "tree":
    np.testing.assert_allclose(total_B, 1.0, rtol=1e-5)
  else:
    assert (total_B < 0.9).all()
  for row in range(2):
    allowed = np.setdiff1d(np.arange(items), np.arange(0, items, 5))
    allowed = np.setdiff1d(allowed, item_BT[row])
    allowed = allowed[allowed < 30] if row else allowed
    best = allowed[np.argsort(-score_BI[row, allowed], kind="stable")]
    assert_found(found, row, best.tolist(), score_BI[row, best].tolist())


def test_a_changed_catalogue_and_filters_compile_nothing():
  _, params, engine = make_engine(CATALOG, "tree", room=0.5)
  search = engine.make_search(4, 4)
  item_BT = np.array([[3, 1, 2]], np.int32)

  def best(catalog):
    codes, lattice = engine.place(catalog)
    available_I = np.ones(catalog.num_items, bool)
    live = engine.live(lattice, available_I)
    return np.asarray(search(params, codes, lattice, live, item_BT).item_BK)[0]

  before = best(CATALOG)
  new = CATALOG.codes_IL[before[:1]]
  larger = add_items(
    remove_items(CATALOG, before), np.stack([new, new], 1), new
  )
  assert 40 in best(larger)
  assert not set(before) & set(best(larger))
  assert search._cache_size() == 1


def test_what_an_engine_does_not_take():
  _, _, engine = make_engine(CATALOG)
  with pytest.raises(UserError, match="3 levels of 5 codes"):
    engine.check(tiny.make_catalog(9, 3, 5))
  with pytest.raises(UserError, match="categories have shape"):
    make_engine(CATALOG, category_MV=np.zeros((M, V + 1), int))
