"""Raw files -> canonical data set: read, filter, join the item table."""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from holorec_jax import errors
from holorec_jax.data import filters, readers, schema, shards
from holorec_jax.data.config import DataConfig


def prepare(config: DataConfig) -> schema.Dataset:
  """Reads, filters and numbers the data that `config` names.

  Items are numbered in the item table's order, without a table by id: never by
  first appearance, which would tell the future.

  Raises:
    UserError: unknown source, unreadable input, or nothing left to learn from.
  """
  check(config)
  events = shards.concat([shards.read(shard) for shard in shards.split(config)])
  logging.info(
    "%s: read %d events of %d users and %d items",
    config.source,
    events.num_events,
    len(events.user_ids),
    len(events.item_ids),
  )
  return finish(filters.apply_filters(events, config), config)


def check(config: DataConfig) -> None:
  """Raises UserError unless the config says what to read and how."""
  if config.source not in readers.READERS:
    raise errors.UserError(
      f"data.source is {config.source!r}, expected one of "
      f"{sorted(readers.READERS)}"
    )
  if config.source != "synthetic" and not config.path:
    raise errors.UserError(
      f"data.source={config.source} reads files: set data.path"
    )


def finish(events: schema.Events, config: DataConfig) -> schema.Dataset:
  """Joins the item table to filtered events, and numbers users and items."""
  used = np.unique(events.items)
  wanted = frozenset(events.item_ids[used].tolist())
  table = readers.READERS[config.source].read_items(config, wanted)
  dataset = _number(
    events, used, _complete(events.item_ids[used], table, config)
  )
  dataset = dataclasses.replace(dataset, name=_name(config))
  schema.validate(dataset)
  logging.info(
    "data set %s: %d users, %d items, %d events, text columns %s",
    dataset.name,
    dataset.num_users,
    dataset.num_items,
    dataset.num_events,
    list(dataset.item_text),
  )
  return dataset


def _name(config: DataConfig) -> str:
  """The name in the config, else that of the folder or file."""
  path = pathlib.Path(config.path)
  own = path.resolve().name if path.is_dir() else path.name.partition(".")[0]
  return config.name or (own if config.path else config.source)


def _complete(
  ids: np.ndarray, table: schema.ItemTable | None, config: DataConfig
) -> schema.ItemTable:
  """A table with exactly the items of the events."""
  if table is None:
    logging.warning("no item table: items have no text")
    ids = np.array(sorted(ids, key=_natural), object)
    return schema.ItemTable(ids, np.full(len(ids), -1), 0, {})
  unused = table.num_rows - len(table.ids)
  if unused:
    logging.info("%d items of the table have no events left: not used", unused)
  unknown = sorted(set(ids) - set(table.ids), key=_natural)
  if not unknown:
    return table
  if not config.allow_unknown_items:
    raise errors.UserError(
      f"{len(unknown)} of {len(ids)} items in the events are not in the item "
      f"table (first: {unknown[:3]}); complete the table, or set "
      "data.allow_unknown_items=True to keep them without text"
    )
  logging.warning("%d items are not in the item table: no text", len(unknown))
  blank = [""] * len(unknown)
  return schema.ItemTable(
    ids=np.concatenate([table.ids, np.array(unknown, object)]),
    rows=np.concatenate([table.rows, np.full(len(unknown), -1)]),
    num_rows=table.num_rows,
    text={k: np.concatenate([v, blank]) for k, v in table.text.items()},
  )


def _natural(item: str) -> tuple[bool, int, str]:
  """Numbers by value, then words."""
  return (not item.isdecimal(), int(item) if item.isdecimal() else 0, item)


def _number(
  events: schema.Events, used: np.ndarray, table: schema.ItemTable
) -> schema.Dataset:
  """Renumbers users and items of ordered events to what is left of them."""
  row_of = {item: row for row, item in enumerate(table.ids.tolist())}
  renumber = np.full(len(events.item_ids), -1, np.int32)
  renumber[used] = [row_of[item] for item in events.item_ids[used].tolist()]
  users, lengths = np.unique(events.users, return_counts=True)
  times = events.times_ms
  return schema.Dataset(
    name="",
    item_ids=table.ids,
    item_text=table.text,
    user_ids=events.user_ids[users],
    offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    items=renumber[events.items],
    timestamps=None if times is None else times // 1000,
    item_rows=table.rows if table.num_rows else None,
    table_rows=table.num_rows,
  )
