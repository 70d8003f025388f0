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
from holorec_jax.data.readers import tables


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every line's items in order.

  Raises:
    UserError: no such file, an empty file, or a line without items.
  """
  path = _sequences_path(config)
  lines = pa.array(tables.read_text(path).split("\n"), pa.large_string())
  words = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))
  words_per_line = pc.list_value_length(words).to_numpy(zero_copy_only=False)
  flat = pc.list_flatten(words)
  starts = np.concatenate([[0], np.cumsum(words_per_line)])[:-1]
  # A blank line splits into one empty word.
  blank = pc.equal(pc.ascii_trim_whitespace(lines), "").to_numpy(
    zero_copy_only=False
  )
  short = np.flatnonzero(~blank & (words_per_line < 2))
  if len(short):
    raise errors.UserError(
      f"{path}, line {short[0] + 1}: expected '<user> <item> <item> ...', "
      "found a user without items; add items or remove the line"
    )
  is_user = np.zeros(len(flat), bool)
  is_user[starts[~blank]] = True
  is_item = ~is_user
  is_item[starts[blank]] = False
  user_ids, line_users = tables.encode(flat.filter(pa.array(is_user)))
  item_ids, items = tables.encode(flat.filter(pa.array(is_item)))
  users = np.repeat(line_users, words_per_line[~blank] - 1)
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
  return tables.read_item_table(path, config, wanted)


def _sequences_path(config: config_lib.DataConfig) -> pathlib.Path:
  path = pathlib.Path(config.path)
  return path / "sequences.txt" if path.is_dir() else path
