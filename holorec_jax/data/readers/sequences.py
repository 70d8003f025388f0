"""One user per line: `<user> <item> <item> ...`, oldest first.

`path` is a folder with `sequences.txt` and, for titles, `items.jsonl` (or
`items_path`), or the text file itself. There are no timestamps.
"""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import columns, files, item_table


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every line's items in order.

  Raises:
    UserError: no such file, an empty file, or a line without items.
  """
  path = _sequences_path(config)
  numbered = list(files.read_lines(path))
  lines = pa.array([line for _, line in numbered], pa.large_string())
  words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))
  counts = pc.list_value_length(words).to_numpy()
  if (counts < 2).any():
    number = numbered[int(np.argmax(counts < 2))][0]
    raise errors.UserError(
      f"{path}, line {number}: expected '<user> <item> <item> ...', found a "
      "user without items; add items or remove the line"
    )
  flat = pc.list_flatten(words)
  is_user = np.zeros(len(flat), bool)
  is_user[np.cumsum(counts) - counts] = True
  user_ids, line_users = columns.encode(flat.filter(pa.array(is_user)))
  item_ids, items = columns.encode(flat.filter(pa.array(~is_user)))
  users = np.repeat(line_users, counts - 1)
  return schema.Events(user_ids, item_ids, users, items)


def read_items(
  config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable | None:
  """The rows of `items.jsonl`, None where there is no such file."""
  path = (
    pathlib.Path(config.items_path)
    if config.items_path
    else _sequences_path(config).with_name("items.jsonl")
  )
  if not config.items_path and not path.exists():
    return None
  return item_table.read_item_table(path, config, wanted)


def _sequences_path(config: config_lib.DataConfig) -> pathlib.Path:
  path = pathlib.Path(config.path)
  return path / "sequences.txt" if path.is_dir() else path
