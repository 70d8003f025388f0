"""The embedded data set: a small shop whose customers can be understood.

Nothing is downloaded, yet there is something to learn at every depth:

* popularity is skewed, so counting clicks is not hopeless;
* users have home departments, a price tier and favourite brands, which drift;
* what comes next depends on order: each *kind* of thing is followed by its
  complement (grinder -> kettle), of the last item or of the one before;
* these rules hold between kinds, brands and tiers, not between single items,
  and most items are rare: a model that sees what items have in common
  generalises where item-to-item counts have nothing to count.

Titles, brands and a three-level category path say what an item is.
"""

import dataclasses

import numpy as np

from holorec_jax import errors
from holorec_jax.data import schema

DEPARTMENTS = {
  "Kitchen": {
    "Coffee": ("Burr Grinder", "Pour-Over Kettle"),
    "Baking": ("Loaf Pan", "Rolling Pin"),
    "Knives": ("Chef Knife", "Whetstone"),
  },
  "Garden": {
    "Seeds": ("Tomato Seeds", "Herb Seeds"),
    "Tools": ("Pruning Shears", "Hand Trowel"),
    "Watering": ("Watering Can", "Soaker Hose"),
  },
  "Beauty": {
    "Hair Care": ("Shampoo", "Conditioner"),
    "Skin Care": ("Face Cream", "Cleansing Gel"),
    "Makeup": ("Lip Balm", "Mascara"),
  },
  "Music": {
    "Guitar": ("Guitar Strings", "Clip Tuner"),
    "Piano": ("Keyboard Stand", "Sustain Pedal"),
    "Studio": ("Microphone", "Pop Filter"),
  },
  "Outdoors": {
    "Camping": ("Tent", "Sleeping Bag"),
    "Climbing": ("Chalk Bag", "Harness"),
    "Cycling": ("Bike Light", "Tire Pump"),
  },
  "Toys": {
    "Building": ("Brick Set", "Marble Run"),
    "Puzzles": ("Jigsaw Puzzle", "Logic Cube"),
    "Games": ("Card Game", "Dice Set"),
  },
  "Office": {
    "Paper": ("Notebook", "Sketch Pad"),
    "Writing": ("Fountain Pen", "Ink Bottle"),
    "Desk": ("Desk Lamp", "Monitor Stand"),
  },
  "Pets": {
    "Dogs": ("Dog Leash", "Chew Toy"),
    "Cats": ("Scratching Post", "Cat Tree"),
    "Aquarium": ("Fish Food", "Water Filter"),
  },
}
BRANDS = (
  ("Ardent", "Copperleaf", "Hearthwell"),
  ("Greenfold", "Loam & Vine", "Thistledown"),
  ("Aurelia", "Petalcraft", "Silkwater"),
  ("Cadenza", "Northtone", "Resonant"),
  ("Ridgeway", "Summitline", "Wildpath"),
  ("Brightbox", "Playwright", "Tumblewood"),
  ("Inkstone", "Margin", "Paperhaus"),
  ("Fernpaw", "Tailwind", "Whiskerly"),
)
TIERS = ("Basic", "Classic", "Premium")
COLORS = (
  "Amber", "Charcoal", "Coral", "Indigo", "Ivory", "Olive", "Scarlet", "Teal",
)  # fmt: skip
MEAN_LENGTH, MIN_LENGTH, MAX_LENGTH = 12, 5, 40
DAY_MS = 86_400_000
# Where the next kind comes from: the last item's complement, the complement of
# the one before it, or a new wish from a home department.
SOURCES = (0.6, 0.15, 0.25)
MAIN_COMPLEMENT = 0.75
DRIFT = 0.06
# Weights, in nats, of what decides between the items of a kind.
BRAND_PULL, TIER_PULL, POPULARITY_SKEW = 2.0, 2.0, 0.8


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
  """Size of the shop and its customers; equal seeds give equal data."""

  users: int = 1500
  items: int = 600
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class _Shop:
  """Items by their hidden attributes, and the rules between kinds."""

  kind_I: np.ndarray
  brand_I: np.ndarray
  tier_I: np.ndarray
  color_I: np.ndarray
  log_popularity_I: np.ndarray
  complements: np.ndarray  # (kinds, 2): the main one, the other


def make_events(config: SyntheticConfig) -> schema.Events:
  """Everybody's events, deterministic for `config.seed`.

  Raises:
    UserError: fewer users or items than make sense.
  """
  if config.users < 1 or config.items < 2 * MAX_LENGTH:
    raise errors.UserError(
      f"data.synthetic.users={config.users}, data.synthetic.items="
      f"{config.items}: expected at least 1 and {2 * MAX_LENGTH}"
    )
  rng = np.random.default_rng([config.seed, 1])
  shop = _build_shop(config)
  num_users = config.users
  items_UT = _walk(shop, num_users, rng)
  lengths_U = np.minimum(
    MIN_LENGTH + rng.geometric(1 / (MEAN_LENGTH - MIN_LENGTH), num_users) - 1,
    MAX_LENGTH,
  )
  starts_U = rng.integers(0, 730 * DAY_MS, num_users)
  gaps_UT = rng.exponential(9 * DAY_MS, items_UT.shape).astype(np.int64)
  times_UT = 1_600_000_000_000 + starts_U[:, None] + np.cumsum(gaps_UT, 1)
  taken_UT = np.arange(MAX_LENGTH) < lengths_U[:, None]
  users_UT = np.broadcast_to(np.arange(num_users)[:, None], items_UT.shape)
  return schema.Events(
    user_ids=np.array([f"user{u + 1}" for u in range(num_users)], object),
    item_ids=_item_ids(config),
    users=users_UT[taken_UT].astype(np.int32),
    items=items_UT[taken_UT].astype(np.int32),
    times_ms=times_UT[taken_UT],
  )


def make_items(
  config: SyntheticConfig, wanted: frozenset[str]
) -> schema.ItemTable:
  """Title, category path and brand of the wanted items."""
  shop = _build_shop(config)
  paths = _kind_paths()
  ids = _item_ids(config)
  rows = np.flatnonzero([item in wanted for item in ids])
  text: dict[str, list[str]] = {"title": [], "categories": [], "brand": []}
  for i in rows:
    path = paths[shop.kind_I[i]]
    brand = BRANDS[shop.brand_I[i] // 3][shop.brand_I[i] % 3]
    tier, color = TIERS[shop.tier_I[i]], COLORS[shop.color_I[i]]
    text["title"].append(f"{brand} {tier} {path[-1]}, {color}")
    text["categories"].append(schema.PATH_SEPARATOR.join(path))
    text["brand"].append(brand)
  return schema.ItemTable(
    ids=ids[rows],
    rows=rows,
    num_rows=len(ids),
    text={name: np.array(values, object) for name, values in text.items()},
  )


def _kind_paths() -> list[tuple[str, str, str]]:
  return [
    (department, category, kind)
    for department, categories in DEPARTMENTS.items()
    for category, kinds in categories.items()
    for kind in kinds
  ]


def _item_ids(config: SyntheticConfig) -> np.ndarray:
  count = config.items
  return np.array([f"item{i + 1}" for i in range(count)], object)


def _build_shop(config: SyntheticConfig) -> _Shop:
  rng = np.random.default_rng([config.seed, 0])
  num_items = config.items
  kinds = len(_kind_paths())
  per_department = kinds // len(DEPARTMENTS)
  # Item ids say nothing about kinds: a random deal, even to within one.
  kind_I = rng.permutation(np.arange(num_items) % kinds)
  main = np.concatenate(
    [
      first + _cycle(rng, per_department)
      for first in range(0, kinds, per_department)
    ]
  )
  rank_I = 1 + rng.permutation(num_items)
  return _Shop(
    kind_I=kind_I,
    brand_I=kind_I // per_department * 3 + rng.integers(0, 3, num_items),
    tier_I=rng.integers(0, len(TIERS), num_items),
    color_I=rng.integers(0, len(COLORS), num_items),
    log_popularity_I=-POPULARITY_SKEW * np.log(rank_I),
    complements=np.stack([main, _cycle(rng, kinds)], 1),
  )


def _cycle(rng: np.random.Generator, size: int) -> np.ndarray:
  """Successor of each of 0..size-1 on one random cycle through all."""
  tour = rng.permutation(size)
  successor = np.empty(size, np.int64)
  successor[tour] = np.roll(tour, -1)
  return successor


def _walk(shop: _Shop, num_users: int, rng: np.random.Generator) -> np.ndarray:
  """(U, MAX_LENGTH) items: every user's way through the shop, no repeats."""
  departments = len(DEPARTMENTS)
  everyone = np.arange(num_users)
  homes_U2 = rng.integers(0, departments, (num_users, 2))
  tier_U = rng.integers(0, len(TIERS), num_users)
  favourite_UD = rng.integers(0, 3, (num_users, departments))
  unseen_UI = np.ones((num_users, len(shop.kind_I)), bool)
  items_UT = np.zeros((num_users, MAX_LENGTH), np.int64)
  for step in range(MAX_LENGTH):
    drifts_U = np.flatnonzero(rng.random(num_users) < DRIFT)
    homes_U2[drifts_U, rng.integers(0, 2, len(drifts_U))] = rng.integers(
      0, departments, len(drifts_U)
    )
    kind_U = _next_kind(shop, items_UT[:, :step], homes_U2, rng)
    brand_U = kind_U // (len(shop.complements) // departments) * 3
    brand_U = brand_U + favourite_UD[everyone, brand_U // 3]
    logits_UI = (
      shop.log_popularity_I
      + BRAND_PULL * (shop.brand_I == brand_U[:, None])
      + TIER_PULL * (shop.tier_I == tier_U[:, None])
      - 50.0 * (shop.kind_I != kind_U[:, None])  # Another kind if sold out.
    )
    logits_UI[~unseen_UI] = -np.inf
    items_UT[:, step] = np.argmax(
      logits_UI + rng.gumbel(size=logits_UI.shape), 1
    )
    unseen_UI[everyone, items_UT[:, step]] = False
  return items_UT


def _next_kind(
  shop: _Shop,
  history_UT: np.ndarray,
  homes_U2: np.ndarray,
  rng: np.random.Generator,
) -> np.ndarray:
  """(U,) the kind each user wants next, given all items so far."""
  num_users, steps = history_UT.shape
  kinds = len(shop.complements)
  per_department = kinds // len(DEPARTMENTS)
  home_U = homes_U2[np.arange(num_users), rng.integers(0, 2, num_users)]
  wish_U = home_U * per_department + rng.integers(0, per_department, num_users)
  source_U = rng.choice(3, num_users, p=SOURCES)
  which_U = np.where(rng.random(num_users) < MAIN_COMPLEMENT, 0, 1)
  for source, back in ((0, 1), (1, 2)):
    if steps >= back:
      before_U = shop.kind_I[history_UT[:, -back]]
      wish_U = np.where(
        source_U == source, shop.complements[before_U, which_U], wish_U
      )
  return wish_U
