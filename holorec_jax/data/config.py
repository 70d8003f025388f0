"""Everything that says which data is read and how: `config.data.*`."""

import dataclasses

from holorec_jax.data.splits import SplitConfig
from holorec_jax.data.synthetic import SyntheticConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Source, filters and split; each field is a leaf of `config.data`.

  Attributes:
    source: a key of `readers.READERS`.
    path: the raw file or folder, as the source's reader describes it.
    items_path: the item table, where the source does not know its place.
    name: what reports call the data set; "" for the path's last part.
    user_column: column of users (or this name followed by `_id`).
    item_column: column of items, likewise, in events and item table.
    timestamp_column: column of times; "" when file order is time order.
    time_unit: "s", "ms", "us" or "ns", the unit of numeric timestamps.
    rating_column: column of ratings, needed for `min_rating` only.
    title_column: item table column that becomes "title".
    categories_column: item table column that becomes "categories".
    text_columns: item table columns to keep; () keeps all that hold text.
    allow_unknown_items: keep event items that the item table lacks (with empty
      text) instead of raising.
    min_rating: events rated below are dropped; 0 keeps all.
    duplicates: "keep" every event; "first" keeps a user's first event with an
      item; "consecutive" collapses runs of the same item.
    k_core: users and items with fewer events go, repeatedly; 0 for none.
    min_length: users with fewer events go (with `k_core`, the larger counts).
    split: which events are targets.
    synthetic: size and seed of the embedded data set.
  """

  source: str = "synthetic"
  path: str = ""
  items_path: str = ""
  name: str = ""
  user_column: str = "user"
  item_column: str = "item"
  timestamp_column: str = "timestamp"
  time_unit: str = "s"
  rating_column: str = "rating"
  title_column: str = "title"
  categories_column: str = "categories"
  text_columns: tuple[str, ...] = ()
  allow_unknown_items: bool = False
  min_rating: float = 0.0
  duplicates: str = "keep"
  k_core: int = 0
  min_length: int = 3
  split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
  synthetic: SyntheticConfig = dataclasses.field(
    default_factory=SyntheticConfig
  )
