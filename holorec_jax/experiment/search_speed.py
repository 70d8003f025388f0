"""Users per second of search, beside other searches and beside the limit.

Sides take turns on the same random histories and catalogue: speed depends
neither on what the parameters are nor on which codes items have.

  systems     --config's network in every system, on pooled histories; "plain"
              is the search of a TIGER with as many levels
  comparison  the published network: our modes, the same with pooled histories,
              and, where torch is installed, a plain torch form of our algorithm
              and transformers' `generate`, on the same weights; their items
              must be ours
"""

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from holorec_jax import sharding
from holorec_jax.catalog import Catalog
from holorec_jax.decode.filters import Lists
from holorec_jax.errors import UserError
from holorec_jax.experiment import ceiling, search_work, timing
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.made_up import draw_histories, random_catalog
from holorec_jax.experiment.systems import make_system
from holorec_jax.models.generator import Generator
from holorec_jax.precision import Dtype, cast

MODES = ("non_thinking", "thinking", "pause")
SYSTEMS = ("plain", *MODES, "s2gr", "reg4rec", "sasrec")
PAPER_HISTORY = 20
LISTED = 64
# search(item_BT) -> (items (B, K), scores).
Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# name -> (make(params, config, catalogue, beam) -> Search, batch sizes).
Rivals = dict[str, tuple[Callable[..., Search], tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Side:
  """One that takes turns.

  Attributes:
    name: as printed.
    run: searches once, for `users` users.
    users: of one run.
    flops: of one user; 0: not counted.
    bytes: likewise.
  """

  name: str
  run: Callable[[], Any]
  users: int
  flops: float = 0.0
  bytes: float = 0.0


class Ours:
  """Our search of one system, users over all devices; compiled on first use."""

  def __init__(self, name: str, config: Config, mode: str, built: Catalog):
    self.name = name
    system = make_system(config, built, mode)
    self.generator = system.generator
    self.engine = system.engine
    self.beam = config.search.beam
    self._dtype = config.search.dtype
    self.mesh = sharding.make_mesh()
    self._built = built
    whole = sharding.replicated(self.mesh)
    init = lambda: cast(system.objective.init_params(0), config.search.dtype)  # noqa: E731
    params = jax.jit(init)()
    self.params = jax.device_put(params, whole)
    self.codes, self._index = jax.device_put(self.engine.place(built), whole)
    self._live = self.engine.live(self._index, np.ones(built.num_items, bool))
    self._search = self.engine.make_search(self.beam, self.beam)

  @property
  def model(self) -> Generator:
    """The generator; there is one where codes come level by level."""
    assert self.generator is not None
    return self.generator

  def find(self, item_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores."""
    rows = sharding.put_rows(item_BT, self.mesh)
    found = self._search(self.params, self.codes, self._index, self._live, rows)
    return np.asarray(found.item_BK), np.asarray(found.score_BK)

  def side(self, item_BT: np.ndarray) -> Side:
    """Its turns; of a generator with its work."""
    run = lambda: self.find(item_BT)  # noqa: E731
    # Work is counted for layers of T5.
    if self.generator is None or self.generator.config.backbone != "t5":
      return Side(self.name, run, len(item_BT))
    shape = search_work.Shape(
      item_BT.shape[1],
      self._built.codes_IL.shape[1],
      self._built.num_codes,
      self.beam,
      len(item_BT),
      self._dtype,
    )
    return Side(
      self.name,
      run,
      len(item_BT),
      search_work.flops_per_user(self.model.config, shape),
      search_work.bytes_per_user(self.model.config, shape),
    )

  def filtered(self, name: str, item_BT: np.ndarray) -> Side:
    """The same with every filter: availability, seen and denied, allowed."""
    rng = np.random.default_rng(2)
    items, users = self._built.num_items, len(item_BT)
    live = self.engine.live(self._index, rng.random(items) < 0.9)
    deny_BT = rng.integers(0, items, (users, LISTED), dtype=np.int32)
    deny_BT[:, : item_BT.shape[1]] = item_BT
    allow_BA = rng.integers(0, items, (users, LISTED), dtype=np.int32)
    # Every other user asks for some of 64 items.
    restricted_B = np.arange(users) % 2 == 0
    columns: Any = (deny_BT, allow_BA, restricted_B)
    lists = Lists(*columns)

    def run():
      rows = sharding.put_rows((item_BT, lists), self.mesh)
      found = self._search(self.params, self.codes, self._index, live, *rows)
      jax.block_until_ready(found)

    return Side(name, run, users)


def time_sides(
  case: str, sides: list[Side], repeats: int, dtype: Dtype = "float32"
) -> list[timing.Row]:
  """Rows of the sides, after turns that a matrix product takes part in."""
  product = ceiling.Product(sharding.make_mesh(), dtype)
  runs = [side.run for side in sides] + [product.run]
  *seconds, product_seconds = timing.take_turns(runs, repeats, case)
  speed = product.speed(product_seconds)
  rows = []
  for side, taken in zip(sides, seconds):
    row = timing.make_row(case, side.name, "users", side.users, taken)
    row |= {"batch": side.users, "seconds": taken}
    row |= {"ms_per_batch": 1e3 * statistics.median(taken)}
    if side.flops:
      row = timing.add_costs(row, "user", side.flops, side.bytes, speed)
    rows.append(row)
  return rows


def compare_systems(
  config: Config, items: int, history: int, users: int, repeats: int
) -> timing.Result:
  """The case `systems`: --config's network in every system."""
  built = random_catalog(items, config)
  item_BT = draw_histories(items, users, history)
  sides = [Ours(name, config, name, built).side(item_BT) for name in SYSTEMS]
  rows = time_sides("systems", sides, repeats)
  speed = {row["side"]: row["median"] for row in rows}
  ratios = {
    f"systems/{name}_vs_plain": speed["plain"] / speed[name]
    for name in SYSTEMS[1:]
  }
  ratios["systems/thinking_vs_non_thinking"] = (
    speed["non_thinking"] / speed["thinking"]
  )
  return timing.Result(rows, ratios)


def compare_rivals(
  config: Config,
  items: int,
  batches: tuple[int, ...],
  repeats: int,
  rivals: Rivals,
) -> timing.Result:
  """The case `comparison`; of several batch sizes everybody's fastest counts.

  Args:
    config: the published network, as T5 can express it.
    items: of the catalogue.
    batches: users searched at once by us, on every device.
    repeats: timed turns.
    rivals: to search beside us.

  Raises:
    UserError: a rival found other items than we do.
  """
  built = random_catalog(items, config)
  pooled = dataclasses.replace(
    config, model=dataclasses.replace(config.model, history="pooled")
  )
  modes = [Ours(mode, config, mode, built) for mode in MODES]
  plain = modes[0]
  sides = []
  for ours in (*modes, Ours("pooled", pooled, "non_thinking", built)):
    for batch in (batch * ours.mesh.size for batch in batches):
      side = ours.side(draw_histories(items, batch, PAPER_HISTORY))
      name = f"{ours.name}, B = {batch}"
      sides.append(dataclasses.replace(side, name=name))
  for name, (make, batches) in rivals.items():
    theirs = make(plain.params, plain.model.config, built, plain.beam)
    _check_same(name, theirs, plain, draw_histories(items, 8, PAPER_HISTORY))
    for batch in batches:
      rows_BT = draw_histories(items, batch, PAPER_HISTORY)
      run = lambda theirs=theirs, rows_BT=rows_BT: theirs(rows_BT)  # noqa: E731
      sides.append(Side(f"{name}, B = {batch}", run, batch))
  rows = time_sides("comparison", sides, repeats)
  return timing.Result(rows, _comparison_ratios(rows, list(rivals)))


def _comparison_ratios(
  rows: list[timing.Row], rivals: list[str]
) -> dict[str, float]:
  def best(name: str) -> timing.Row:
    own = [row for row in rows if row["side"].startswith(f"{name}, B = ")]
    return max(own, key=lambda row: row["median"])

  plain, pooled = best("non_thinking"), best("pooled")
  ratios = {
    "share_of_limit": plain["matmul_share"],
    "thinking_vs_non_thinking": plain["median"] / best("thinking")["median"],
  }
  for rival in rivals:
    theirs = best(rival)["median"]
    ratios[f"vs_{rival}"] = plain["median"] / theirs
    ratios[f"pooled_vs_{rival}"] = pooled["median"] / theirs
  return ratios


def _check_same(name: str, theirs: Search, ours: Ours, item_BT) -> None:
  found, expected = theirs(item_BT), ours.find(item_BT)
  # Scores closer than rounding may change places.
  close = np.allclose(found[1], expected[1], atol=1e-3)
  same = np.mean(found[0] == expected[0])
  if not close or same < 0.99:
    raise UserError(
      f"{name} found other items than ours ({same:.1%} in the same places):"
      " the comparison would be of different searches"
    )
