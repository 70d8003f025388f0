"""LETTER's files: `*.inter.json` {user: [items]}, `*.item.json` {item: text}.

`path` is the folder with both, or the first of them. Lists are oldest first and
there are no timestamps.

Wang et al., arXiv 2405.07314.
"""

import dataclasses
import itertools
import json
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import columns, files, item_table


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every user's list.

  Raises:
    UserError: no such file, not such JSON, or a user without items.
  """
  path = files.find_one(pathlib.Path(config.path), "*.inter.json")
  histories = _read_object(path)
  for user, items in histories.items():
    if not isinstance(items, list) or not items:
      raise errors.UserError(
        f"{path}: user {user!r} has {items!r:.40}, expected a list of items"
      )
  lengths = np.fromiter(map(len, histories.values()), int, len(histories))
  flat = itertools.chain.from_iterable(histories.values())
  item_ids, items = columns.encode(pa.array(map(str, flat), pa.string()))
  return schema.Events(
    user_ids=np.array(list(histories), object),
    item_ids=item_ids,
    users=np.repeat(np.arange(len(histories), dtype=np.int32), lengths),
    items=items,
  )


def read_items(
  config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable:
  """The item file beside the interactions (or `items_path`)."""
  events_path = files.find_one(pathlib.Path(config.path), "*.inter.json")
  path = files.find_one(
    pathlib.Path(config.items_path or events_path.parent), "*.item.json"
  )
  rows = []
  for item, fields in _read_object(path).items():
    if not isinstance(fields, dict):
      raise errors.UserError(
        f"{path}: item {item!r} has {fields!r:.40}, expected an object of text"
      )
    rows.append({"item": item} | fields)
    categories = fields.get(config.categories_column)
    if isinstance(categories, str):
      # Names keep their commas ("Drums, Cymbals"), separators have no space.
      rows[-1][config.categories_column] = re.sub(
        r",(?! )", schema.PATH_SEPARATOR, categories
      )
  own = dataclasses.replace(config, item_column="item")
  return item_table.select(item_table.from_rows(rows), own, wanted, path)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
  files.check_file(path)
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise errors.UserError(f"{path}: not JSON ({error})") from error
  if not isinstance(value, dict) or not value:
    raise errors.UserError(f"{path}: expected one JSON object, not empty")
  return value
