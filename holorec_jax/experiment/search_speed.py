"""What thinking costs in search: users per second of both modes, in turns.

Both systems of a config search the same random histories with the same beam;
they take turns, so that whatever else the machine does hits both alike. Speed
depends neither on what the parameters are nor on which codes items have.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from holorec_jax.codes import device_codes
from holorec_jax.decode.beam import device_tree
from holorec_jax.decode.search import make_search
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.training import make_generator
from holorec_jax.experiment.training_speed import random_catalog
from holorec_jax.train.step import init_params

MODES = ("non_thinking", "thinking")


@dataclasses.dataclass(frozen=True)
class SearchCase:
  """One comparison.

  Attributes:
    name: as printed.
    config: network and beam.
    items: size of the random catalogue.
    history: items of every history.
    users: searched at once.
  """

  name: str
  config: Config
  items: int
  history: int
  users: int


def compare_modes(case: SearchCase, repeats: int) -> dict[str, Any]:
  """Times both modes.

  Returns:
    {mode: {"users_per_second", "spread"}, "thinking_vs_non_thinking": ratio of
    seconds per user}; spread is (slowest - fastest) / median.
  """
  built = random_catalog(case.items, case.config)
  tree = device_tree(built)
  codes = device_codes(built, case.config.model.softmax)
  item_BT = np.random.default_rng(0).integers(
    0, case.items, (case.users, case.history), dtype=np.int32
  )
  beam, k = case.config.search.beam, case.config.search.k
  searches = {}
  for mode in MODES:
    model = make_generator(case.config, built, mode)
    params = jax.jit(lambda model=model: init_params(model, 0))()
    search: Any = make_search(model, beam, k, exclude_seen=False)
    compiled = search.lower(params, codes, tree, item_BT).compile()
    searches[mode] = (compiled, params)
  seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
  for _ in tqdm(range(repeats + 1), desc=case.name, unit="round"):
    for mode, (search, params) in searches.items():
      began = time.perf_counter()
      jax.block_until_ready(search(params, codes, tree, item_BT))
      seconds[mode].append(time.perf_counter() - began)
  rows: dict[str, Any] = {}
  for mode, taken in seconds.items():
    median = statistics.median(taken[1:])
    rows[mode] = {
      "users_per_second": case.users / median,
      "spread": (max(taken[1:]) - min(taken[1:])) / median,
    }
  rows["thinking_vs_non_thinking"] = (
    rows["non_thinking"]["users_per_second"]
    / rows["thinking"]["users_per_second"]
  )
  return rows
