"""One module per raw format; `READERS` names them all.

A reader is two functions: `read_events(config)` gives every interaction of the
source, `read_items(config, wanted)` the item table's rows of the items that
survived filtering. Reading the table second keeps the parsing of large metadata
files proportional to the catalogue, not to the shop. `raw_files` says which
files the two open.
"""

import dataclasses
import pathlib
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

# Writers of shards leave _SUCCESS and the like beside them.
SHARDS = "[!._]*"


@dataclasses.dataclass(frozen=True)
class Folder:
  """What a reader opens in a raw folder.

  Attributes:
    always: patterns of what it reads in any case, the events first.
    items: of the item table, which `items_path` can stand in for.
  """

  always: tuple[str, ...] = ()
  items: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Reader:
  """A raw format.

  Attributes:
    read_events: every interaction.
    read_items: the item table, of the wanted items.
    folders: what a raw folder looks like, the first that fits; () where `path`
      is a file of events, or a folder of such files (data/shards.py).
  """

  read_events: Callable[[config_lib.DataConfig], schema.Events]
  read_items: Callable[
    [config_lib.DataConfig, frozenset[str]], schema.ItemTable | None
  ]
  folders: tuple[Folder, ...] = ()


READERS = {
  "sequences": Reader(
    sequences.read_events,
    sequences.read_items,
    (Folder(("sequences.txt",), ("items.jsonl",)),),
  ),
  "events": Reader(events.read_events, events.read_items),
  "amazon": Reader(amazon.read_events, amazon.read_items),
  "movielens": Reader(
    movielens.read_events,
    movielens.read_items,
    (
      Folder(("u.data", "u.item")),
      Folder(("ratings.dat", "movies.dat")),
      Folder(("ratings.csv", "movies.csv")),
    ),
  ),
  "letter": Reader(
    letter.read_events,
    letter.read_items,
    (Folder(("*.inter.json",), ("*.item.json",)),),
  ),
  "recbole": Reader(
    recbole.read_events,
    recbole.read_items,
    (Folder(("*.inter",), ("*.item",)),),
  ),
  "synthetic": Reader(
    lambda config: synthetic.make_events(config.synthetic),
    lambda config, wanted: synthetic.make_items(config.synthetic, wanted),
  ),
}


def raw_files(config: config_lib.DataConfig) -> dict[str, pathlib.Path]:
  """The files that the source's reader opens, as far as they are there.

  Returns:
    paths by the config field that leads to them, such as "data.path/u.item"
    for a file in a folder; {} of a source that reads none, or is unknown.
  """
  reader = READERS.get(config.source)
  if reader is None or config.source == "synthetic" or not config.path:
    return {}
  path = pathlib.Path(config.path)
  folder = path.parent if path.is_file() else path
  fits = _fitting(reader.folders, path)
  if path.is_file():
    found = {"data.path": path}
  else:
    found = _inside("data.path", folder, fits.always)
  if not config.items_path:
    return found | _inside("data.path", folder, fits.items)
  table = pathlib.Path(config.items_path)
  if table.is_file():
    return found | {"data.items_path": table}
  return found | _inside("data.items_path", table, fits.items)


def _fitting(folders: tuple[Folder, ...], path: pathlib.Path) -> Folder:
  for folder in folders:
    if path.is_file() or _inside("", path, folder.always[:1]):
      return folder
  return Folder() if folders else Folder((SHARDS,))


def _inside(
  field: str, folder: pathlib.Path, patterns: tuple[str, ...]
) -> dict[str, pathlib.Path]:
  paths = [path for p in patterns for path in sorted(folder.glob(p))]
  return {f"{field}/{path.name}": path for path in paths if path.is_file()}
