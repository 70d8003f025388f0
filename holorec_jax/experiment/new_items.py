"""New items in a finished run: codes by its frozen quantizer, no training.

  run = recommendation.open_run("WORKDIR")
  texts = [{"title": "Rose lip balm", "categories": "Beauty > Lips"}]
  changed = new_items.append(run.recommender.catalog, "WORKDIR", items=texts)
  run.recommender.set_catalog(changed)

The new items have the next numbers and are recommended from the next request
on; `catalog.remove_items` takes others out. Nothing compiles while they fit
into config.search.room.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from holorec_jax.catalog import Catalog, add_items
from holorec_jax.data import schema
from holorec_jax.data.config import DataConfig
from holorec_jax.data.readers import (
  columns,
  delimited,
  files,
  item_table,
  json_lines,
)
from holorec_jax.errors import UserError
from holorec_jax.quantize import quantizers
from holorec_jax.vectors import encode
from holorec_jax.vectors.cold_items import Item


def append(
  catalog: Catalog,
  workdir: str | os.PathLike[str],
  vectors_NW: np.ndarray | None = None,
  items: Sequence[Item] = (),
  given: Mapping[str, np.ndarray] | None = None,
) -> Catalog:
  """The catalogue with items that the quantizer of a run gives codes.

  Args:
    catalog: of that run, possibly changed since.
    workdir: of the run.
    vectors_NW: content vectors of the new items, where they are at hand.
    items: else of each new item, column of the item table -> text.
    given: with items, rows of the sources that are no text
      (`encode.encode_items`).

  Returns:
    A catalogue where they share leaves with items of the same codes, as items
    without any interaction.

  Raises:
    UserError: the run's codes were published ones (then nothing can quantize),
      collisions are not told apart by leaf, vectors do not fit, or texts cannot
      be encoded.
  """
  sids_NRL = quantize(workdir, vectors_NW, items, given)
  if catalog.codes_IL.shape[1] != sids_NRL.shape[2]:
    raise UserError(
      "this run numbers items of equal codes by one more level"
      " (config.catalog.collisions='extra_level'), and the generator knows no"
      " new numbers: use 'leaf' for catalogues that change"
    )
  return add_items(catalog, sids_NRL, sids_NRL[:, -1])


def quantize(
  workdir: str | os.PathLike[str],
  vectors_NW: np.ndarray | None = None,
  items: Sequence[Item] = (),
  given: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
  """Codes (N, R, L) of new items; arguments and errors as of `append`."""
  folder = pathlib.Path(workdir) / "sids"
  if not (folder / "quantizer.npz").is_file():
    raise UserError(
      f"{folder} has no quantizer, since the run's codes were given to it"
      " (config.sids_path): new items need codes from where those came from;"
      " catalog.add_items takes them"
    )
  quantizer = quantizers.load(folder)
  if vectors_NW is None:
    vectors_NW = encode.encode_items(workdir, items, given)
  elif len(items):
    raise UserError(
      "both vectors and texts of new items are given: give one of them"
    )
  return quantizer.encode(vectors_NW)


def read_table(
  path: str | os.PathLike[str], config: DataConfig, known: Sequence[str]
) -> tuple[list[str], list[dict[str, str]]]:
  """Ids and texts of the new items in a table.

  Args:
    path: .csv, .tsv, .parquet or .jsonl, a row an item.
    config: names the columns of ids, titles and categories.
    known: the text columns that a run has read, "title" among them or not.

  Raises:
    UserError: the table cannot be read, an id is empty or there twice, or a
      column is none of these.
  """
  path = pathlib.Path(path)
  files.check_file(path)
  table = _read(path, config)
  key = columns.find_column(
    table.column_names, config.item_column, str(path), "item_column"
  )
  renamed = {
    config.title_column: "title",
    config.categories_column: "categories",
  }
  texts = tuple(name for name in table.column_names if name != key)
  unknown = [
    name for name in texts if renamed.get(name, name) not in {*known, "title"}
  ]
  if unknown:
    raise UserError(
      f"{path}: the columns {', '.join(unknown)} are none that the run has"
      f" read, which are {', '.join(known) or 'no texts'}: leave them out"
    )
  whole = columns.whole_ids(path, table, key, lambda row: f"row {row + 1}")
  ids = schema.strings(pc.cast(whole, pa.string())).tolist()
  chosen = DataConfig(
    item_column=key,
    title_column=config.title_column,
    categories_column=config.categories_column,
    text_columns=texts,
  )
  if not texts:
    return ids, [{} for _ in ids]
  found = item_table.select(table, chosen, frozenset(ids), path)
  rows = zip(*(column.tolist() for column in found.text.values()))
  return ids, [dict(zip(found.text, row)) for row in rows]


def _read(path: pathlib.Path, config: DataConfig) -> pa.Table:
  suffix = files.plain_suffix(path)
  if suffix in (".parquet", ".pq"):
    return files.open_parquet(path).read()
  if suffix in (".jsonl", ".json", ".ndjson"):
    objects = [row for _, row in json_lines.read_objects(path)]
    return item_table.from_rows(objects)
  source = delimited.from_path(path)
  # Ids and texts stay strings even where all are digits.
  return source.read({n: pa.string() for n in source.columns()}, only=False)
