"""One module per raw format; `READERS` names them all.

A reader is two functions: `read_events(config)` gives every interaction of the
source, `read_items(config, wanted)` the item table's rows of the items that
survived filtering. Reading the table second keeps the parsing of large metadata
files proportional to the catalogue, not to the shop.
"""

import dataclasses
from collections.abc import Callable

from holorec_jax.data import config as config_lib
from holorec_jax.data import schema, synthetic
from holorec_jax.data.readers import (
  amazon,
  events,
  letter,
  movielens,
  recbole,
  sequences,
)


@dataclasses.dataclass(frozen=True)
class Reader:
  """The two halves of a raw format."""

  read_events: Callable[[config_lib.DataConfig], schema.Events]
  read_items: Callable[
    [config_lib.DataConfig, frozenset[str]], schema.ItemTable | None
  ]


READERS = {
  "sequences": Reader(sequences.read_events, sequences.read_items),
  "events": Reader(events.read_events, events.read_items),
  "amazon": Reader(amazon.read_events, amazon.read_items),
  "movielens": Reader(movielens.read_events, movielens.read_items),
  "letter": Reader(letter.read_events, letter.read_items),
  "recbole": Reader(recbole.read_events, recbole.read_items),
  "synthetic": Reader(
    lambda config: synthetic.make_events(config.synthetic),
    lambda config, wanted: synthetic.make_items(config.synthetic, wanted),
  ),
}
