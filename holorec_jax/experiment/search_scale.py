"""What the constraint, filters and the catalogue's size cost search.

catalogue   the published network over catalogues of growing size: without
            constraint, with it, and with all filters
evaluation  all users of a data set of Beauty's size, by the recommender that
            evaluates: padding, transfers and all
large       milliseconds of a batch on an accelerator, by a larger network
"""

import dataclasses
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax import sharding
from holorec_jax.decode.beam import over_levels, reorder, top_k
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Filters, Histories
from holorec_jax.decode.search import make_decoder, unrolls
from holorec_jax.experiment import timing
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.made_up import draw_histories, random_catalog
from holorec_jax.experiment.search_speed import (
  PAPER_HISTORY,
  Ours,
  Side,
  time_sides,
)

BEAUTY_USERS, BEAUTY_ITEMS = 22_363, 12_101
LARGE_HISTORY, LARGE_BATCHES = 64, (1, 16)


def unconstrained(name: str, ours: Ours, item_BT: np.ndarray) -> Side:
  """Plain beam search over all codes, whether items have them or not."""

  @jax.jit
  def search(params, codes, item_BT):
    start, level = make_decoder(
      params, ours.model, codes, item_BT, ours.beam, unrolls()
    )
    return _search_all_codes(start, level, ours.model, ours.beam)

  def run():
    rows = sharding.put_rows(item_BT, ours.mesh)
    jax.block_until_ready(search(ours.params, ours.codes, rows))

  return Side(name, run, len(item_BT))


def _search_all_codes(start, level, model, beam: int):
  """Scores and code strings (B, M, L) of beam search without a tree."""

  def expand(score_BM, logits_BMV):
    log_prob_BMV = jax.nn.log_softmax(logits_BMV, axis=-1)
    flat_BX = (score_BM[..., None] + log_prob_BMV).reshape(len(score_BM), -1)
    score_BM, index_BM = top_k(flat_BX, beam)
    return score_BM, index_BM // model.num_codes, index_BM % model.num_codes

  state, logits_B1V = start()
  score_BM, _, code_BM = expand(jnp.zeros((len(logits_B1V), 1)), logits_B1V)

  def inner(carry, depth):
    state, score_BM, code_BM = carry
    state, logits_BMV = level(state, depth, code_BM)
    score_BM, parent_BM, next_BM = expand(score_BM, logits_BMV)
    return (reorder(state, parent_BM), score_BM, next_BM), (parent_BM, next_BM)

  carry, last = (state, score_BM, code_BM), model.num_levels - 1
  kept = ()
  if last > 1:
    carry, kept = over_levels(inner, carry, range(1, last), unrolls())
  _, logits_BMV = level(carry[0], last, carry[2])
  return expand(carry[1], logits_BMV), kept


def compare_catalogues(
  config: Config, sizes: list[int], users: int, repeats: int
) -> timing.Result:
  """The case `catalogue`: one row of each kind and size."""
  rows: list[timing.Row] = []
  ratios: dict[str, float] = {}
  for size in sizes:
    built = random_catalog(size, config)
    ours = Ours(f"{size:,} items", config, "non_thinking", built)
    item_BT = draw_histories(size, users, PAPER_HISTORY)
    sides = [
      unconstrained(f"{size:,}, any code", ours, item_BT),
      ours.side(item_BT),
      ours.filtered(f"{size:,}, filtered", item_BT),
    ]
    rows += time_sides("catalogue", sides, repeats)
    free, bound, filtered = rows[-3:]
    ratios[f"constraint_overhead/{size}"] = _overhead(bound, free)
    ratios[f"filters_overhead/{size}"] = _overhead(filtered, free)
    del ours, sides, built
  ratios["constraint_overhead"] = max(
    value for name, value in ratios.items() if name.startswith("filters")
  )
  slowest = [row["ms_per_batch"] for row in rows[1::3]]
  ratios["slowest_vs_fastest_catalogue"] = max(slowest) / min(slowest)
  return timing.Result(rows, ratios)


def _overhead(row: timing.Row, free: timing.Row) -> float:
  """Further time, turn by turn: what disturbs one side disturbs the next."""
  turns = zip(row["seconds"], free["seconds"])
  return statistics.median(taken / least for taken, least in turns) - 1


def time_large(config: Config, items: int, repeats: int) -> timing.Result:
  """The case `large`: milliseconds of a batch of 1 and of 16 users.

  A network of 8 + 8 layers of width 1,024 with 200 beams, histories of 256 code
  tokens, on an accelerator in bfloat16. The published figures that it stands
  beside are of 8 layers without a catalogue.
  """
  built = random_catalog(items, config)
  dtype = config.search.dtype
  rows: list[timing.Row] = []
  for mode in ("non_thinking", "thinking"):
    ours = Ours(mode, config, mode, built)
    sides = [
      dataclasses.replace(
        ours.side(draw_histories(items, users, LARGE_HISTORY)),
        name=f"{mode}, B = {users}",
      )
      for users in LARGE_BATCHES
    ]
    rows += time_sides("large", sides, repeats, dtype)
  one, many, *_ = rows
  return timing.Result(
    rows,
    {
      "large/ms_batch_1": one["ms_per_batch"],
      "large/ms_batch_16": many["ms_per_batch"],
      "large/share_of_limit_batch_16": many["matmul_share"],
    },
  )


def time_evaluation(
  case: str, config: Config, mode: str, history: int
) -> timing.Result:
  """The case `evaluation`: one run over all users, seen items kept and not."""
  built = random_catalog(BEAUTY_ITEMS, config)
  ours = Ours(mode, config, mode, built)
  recommender = Recommender(
    ours.engine,
    ours.params,
    built,
    sharding.make_mesh(),
    history,
    config.search,
  )
  histories = _draw_users(history)
  few = Histories(
    histories.items_E,
    histories.starts_U[: config.search.batch],
    histories.ends_U[: config.search.batch],
  )
  rows = []
  for side, filters in (("kept", Filters()), ("unseen", Filters(True))):
    recommender.recommend(few, filters)
    began = time.perf_counter()
    recommender.recommend(histories, filters, progress=f"{mode}, {side}")
    seconds = time.perf_counter() - began
    row = timing.make_row(
      case, f"{mode}, {side}", "users", BEAUTY_USERS, [seconds]
    )
    rows.append(row | {"note": f"{seconds:.0f} s for {BEAUTY_USERS:,} users"})
  return timing.Result(rows)


def _draw_users(longest: int) -> Histories:
  """Histories as short as Beauty's: 5 items and more, 9 on average."""
  rng = np.random.default_rng(0)
  lengths_U = np.minimum(4 + rng.geometric(0.22, BEAUTY_USERS), longest)
  ends_U = np.cumsum(lengths_U)
  items_E = rng.integers(0, BEAUTY_ITEMS, ends_U[-1], dtype=np.int32)
  return Histories(items_E, ends_U - lengths_U, ends_U)
