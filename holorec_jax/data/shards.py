"""Events that lie in several files, and events brought together.

Where a source's `path` is one file of events, it may also be a folder of such
files. They count as one file, in the order of their names: users appear, and
equal times are ordered, as if the files were read one after the other.
"""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import readers, schema
from holorec_jax.data.readers import columns


def split(config: config_lib.DataConfig) -> list[config_lib.DataConfig]:
  """One config per file of events, in order; [config] if there is one.

  Raises:
    UserError: a folder of shards without any.
  """
  folder = pathlib.Path(config.path)
  whole = config.source == "synthetic" or not folder.is_dir()
  if whole or readers.READERS[config.source].folders:
    return [config]
  paths = sorted(p for p in folder.glob(readers.SHARDS) if p.is_file())
  if not paths:
    raise errors.UserError(
      f"{folder}: no files in it; set data.path to a file of events, or to a "
      "folder of such files"
    )
  return [dataclasses.replace(config, path=str(path)) for path in paths]


def read(shard: config_lib.DataConfig) -> schema.Events:
  """The events of one of the configs of `split`."""
  return readers.READERS[shard.source].read_events(shard)


def concat(parts: list[schema.Events]) -> schema.Events:
  """One after the other; ids by first appearance, as if read from one file.

  Args:
    parts: at least one, all with times or none, with ratings or none.
  """
  if len(parts) == 1:
    return parts[0]
  user_ids, users = _merge([(part.user_ids, part.users) for part in parts])
  item_ids, items = _merge([(part.item_ids, part.items) for part in parts])
  times = [part.times_ms for part in parts if part.times_ms is not None]
  ratings = [part.ratings for part in parts if part.ratings is not None]
  return schema.Events(
    user_ids=user_ids,
    item_ids=item_ids,
    users=users,
    items=items,
    times_ms=np.concatenate(times) if times else None,
    ratings=np.concatenate(ratings) if ratings else None,
  )


def _merge(
  coded: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  """Distinct ids, and rows of them, of several (ids, rows of them)."""
  ids, rows = columns.encode(
    pa.array(np.concatenate([ids for ids, _ in coded]), pa.string())
  )
  ends = np.cumsum([len(own) for own, _ in coded])
  renumbered = np.split(rows, ends[:-1])
  return ids, np.concatenate(
    [new[codes] for new, (_, codes) in zip(renumbered, coded)]
  )


def compact(events: schema.Events) -> schema.Events:
  """Without the ids that no event has; those left keep their order."""
  used_users, users = np.unique(events.users, return_inverse=True)
  used_items, items = np.unique(events.items, return_inverse=True)
  return dataclasses.replace(
    events,
    user_ids=events.user_ids[used_users],
    item_ids=events.item_ids[used_items],
    users=users.astype(np.int32),
    items=items.astype(np.int32),
  )
