"""The repeat bias against its formula, spelt out in loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models as tiny

from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.nn.layers import relative_bucket
from holorec_jax.train.objective import init_params
from holorec_jax.types import Batch

ITEM_T = [3, 0, 3, 7, 1]
CATALOG = tiny.make_catalog(12, levels=3, codes=3, distinct=False)


def bias_in_loops(params, prefix, level, last, visible):
  """The docstring's sum, item by item."""
  codes_IL = CATALOG.codes_IL
  bias_V = np.zeros(3)
  for slot, item in enumerate(ITEM_T):
    code = codes_IL[item]
    if slot not in visible or tuple(code[:level]) != prefix:
      continue
    below = (codes_IL[:, : level + 1] == code[: level + 1]).all(axis=1).sum()
    bucket = int(relative_bucket(np.int32(last - slot), False))
    bias_V[code[level]] += params["recency"]["table"][level, bucket]
    bias_V[code[level]] += params["seen"][level] / below
  return bias_V


def test_bias_is_the_sum_over_matching_visible_items():
  """Through the generator, target by target: logits with it less without."""
  model, params = tiny.make_model(CATALOG, thought="holorec", repeat_bias=True)
  plain, _ = tiny.make_model(CATALOG, thought="holorec")
  codes = tiny.make_codes(CATALOG)
  lasts, visible = (4, 2), ({2, 3, 4}, {2})
  # The first two slots are another history's.
  rows = 12
  batch = Batch(
    item_BT=np.tile(ITEM_T, (rows, 1)),
    segment_BT=np.tile([1, 1, 2, 2, 2], (rows, 1)),
    last_BN=np.tile(lasts, (rows, 1)),
    target_BN=np.tile(np.arange(rows)[:, None], (1, 2)),
    weight_BN=np.ones((rows, 2), np.float32),
  )

  @tiny.jit
  def biases(params):
    bare = {k: v for k, v in params.items() if k != "repeat_bias"}
    ours = model.apply({"params": params}, batch, codes)
    theirs = plain.apply({"params": bare}, batch, codes)
    return [a.fine_BNV - b.fine_BNV for a, b in zip(ours, theirs)]

  nonzero = 0
  for level, bias_BNV in enumerate(biases(params)):
    for item, branch in np.ndindex(rows, 2):
      prefix = tuple(CATALOG.codes_IL[item, :level])
      expected_V = bias_in_loops(
        params["repeat_bias"], prefix, level, lasts[branch], visible[branch]
      )
      np.testing.assert_allclose(bias_BNV[item, branch], expected_V, atol=1e-5)
      nonzero += (expected_V != 0).sum()
  # Matches are there to be found at every level, and not everywhere.
  assert 30 < nonzero < 3 * 12 * 2 * 3


def set_bias_in_loops(params, chosen, codebook, last, visible):
  """The same for a codebook's codes after those of other codebooks."""
  codes_IM, M = CATALOG.codes_IL, CATALOG.codes_IL.shape[1]
  row = len(chosen) * M + codebook
  bias_V = np.zeros(3)
  for slot, item in enumerate(ITEM_T):
    code = codes_IM[item]
    if slot not in visible or any(code[r] != v for r, v in chosen.items()):
      continue
    subset = [*chosen, codebook]
    below = (codes_IM[:, subset] == code[subset]).all(axis=1).sum()
    bucket = int(relative_bucket(np.int32(last - slot), False))
    bias_V[code[codebook]] += params["recency"]["table"][row, bucket]
    bias_V[code[codebook]] += params["seen"][row] / below
  return bias_V


def test_bias_on_code_sets_heeds_the_codes_in_whatever_order():
  """Through the generator; its orders differ from branch to branch."""
  model = SetGenerator(tiny.make_config(repeat_bias=True), 3, 3)
  plain = SetGenerator(tiny.make_config(), 3, 3)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
    jax.eval_shape(functools.partial(init_params, model, 0)),
  )
  codes = tiny.make_codes(CATALOG, unordered=True)
  context_args = (np.array([ITEM_T]), codes, np.array([[1, 1, 2, 2, 2]]))
  lasts, visible = (4, 2), ({2, 3, 4}, {2})
  # The first branch chooses codebooks 2, 0, the other 1, 2; codes of an item
  # that it sees.
  turns = np.array([[2, 0], [1, 2]])
  fed = CATALOG.codes_IL[[[7], [3]], turns]
  bare = {k: v for k, v in params.items() if k != "repeat_bias"}

  def logits(model, params):
    def run(module):
      context = module.open_branches(*context_args, np.array([lasts]))
      state, found = module.step(module.start(), context, None, None)
      founds = [found]
      for step in range(2):
        state, found = module.step(
          state, context, turns[None, :, step], fed[None, :, step]
        )
        founds.append(found)
      return founds

    return model.apply({"params": params}, method=run)

  nonzero = [0, 0, 0]
  ours, theirs = logits(model, params), logits(plain, bare)
  for size, (with_1NMV, without_1NMV) in enumerate(zip(ours, theirs)):
    for branch, codebook in np.ndindex(2, 3):
      chosen = dict(zip(turns[branch, :size], fed[branch, :size]))
      if codebook in chosen:
        continue
      expected_V = set_bias_in_loops(
        params["repeat_bias"], chosen, codebook, lasts[branch], visible[branch]
      )
      np.testing.assert_allclose(
        (with_1NMV - without_1NMV)[0, branch, codebook], expected_V, atol=1e-4
      )
      nonzero[size] += (expected_V != 0).sum()
  assert min(nonzero) >= 2
