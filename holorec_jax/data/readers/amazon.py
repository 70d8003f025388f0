"""Amazon reviews and product metadata as released in 2014, 2018 and 2023.

`path` is a reviews file, `items_path` the metadata of the same category. The
releases differ in field names and in how untidy they are; each line tells which
it is. 2014 metadata are Python literals, 2018 metadata repeat products and
carry scraps of HTML, 2023 times are milliseconds.

McAuley et al., SIGIR 2015; Ni et al., EMNLP 2019; Hou et al., arXiv 2403.03952.
"""

import ast
import dataclasses
import html
import json
import pathlib
import re

import numpy as np
from absl import logging

from holorec_jax import errors
from holorec_jax.data import config as config_lib
from holorec_jax.data import schema
from holorec_jax.data.readers import columns, files, item_table, json_lines

# Fields of user, item, time and rating, and the unit of time.
RELEASES: tuple[tuple[tuple[str, str, str, str], str], ...] = (
  (("reviewerID", "asin", "unixReviewTime", "overall"), "s"),
  (("user_id", "parent_asin", "timestamp", "rating"), "ms"),
)
FIELDS = ("item", "title", "categories", "brand", "description", "price")
_ID = re.compile(r"""["'](?:parent_)?asin["']: *["']([^"']+)["']""")
_PRICE = re.compile(r"^\$?([0-9][0-9,]*\.?[0-9]*)$")


def read_events(config: config_lib.DataConfig) -> schema.Events:
  """Every review of the file.

  Raises:
    UserError: no release's fields, an unreadable file or a bad line.
  """
  path = pathlib.Path(config.path)
  first = json_lines.first_object(path)
  for (user, item, time, rating), unit in RELEASES:
    if user in first and item in first:
      wanted_rating = rating if config.min_rating else None
      names: columns.Names = (user, item, time, wanted_rating)
      return json_lines.read_fields(path, first, names, unit)
  raise errors.UserError(
    f"{path}: fields {list(first)}, expected those of a reviews file, "
    f"{' or '.join(str(fields) for fields, _ in RELEASES)}"
  )


def read_items(
  config: config_lib.DataConfig, wanted: frozenset[str]
) -> schema.ItemTable | None:
  """Title, categories, brand and description of the wanted products.

  Lines of other products are not even parsed; of a repeated product the first
  line counts. The price is a number, so kept as text only on request.

  Raises:
    UserError: a line that is neither JSON nor a Python literal.
  """
  if not config.items_path:
    return None
  path = pathlib.Path(config.items_path)
  products: dict[str, dict] = {}
  rows: list[int] = []
  total = repeated = 0
  for number, line in files.read_lines(path):
    total += 1
    if wanted.isdisjoint(_ID.findall(line)):
      continue
    product = _parse(path, number, line)
    item = str(product.get("parent_asin") or product.get("asin"))
    if item in products:
      repeated += 1
    elif item in wanted:
      products[item] = {"item": item} | _tidy(product)
      rows.append(total - 1)
  if repeated:
    logging.info("%s: %d repeated products, the first counts", path, repeated)
  tidy = dataclasses.replace(
    config,
    item_column="item",
    title_column="title",
    categories_column="categories",
  )
  known = item_table.from_rows(list(products.values()), FIELDS)
  table = item_table.select(known, tidy, wanted, path)
  return dataclasses.replace(table, rows=np.array(rows, int), num_rows=total)


def _parse(path: pathlib.Path, number: int, line: str) -> dict:
  try:
    return json.loads(line)
  except json.JSONDecodeError:
    pass
  try:
    return ast.literal_eval(line)
  except (SyntaxError, ValueError) as error:
    raise errors.UserError(
      f"{path}, line {number}: neither JSON nor a Python literal ({error}); "
      "fetch the file again"
    ) from error


def _tidy(product: dict) -> dict:
  """The fields that all releases have, under one name and cleaned."""
  path = product.get("categories") or product.get("category") or []
  if isinstance(path, str):
    path = [path]
  if path and isinstance(path[0], list):
    path = path[0]  # 2014 lists several paths, the main one first.
  if not path and product.get("main_category"):
    path = [product["main_category"]]
  title = _clean(product.get("title"))
  brand = _clean(product.get("brand") or product.get("store"))
  names = [_clean(p) for p in path if "<" not in p]
  price = _PRICE.match(str(product.get("price")))
  return {
    # 2018 has scripts of product pages in place of some titles.
    "title": "" if "getTime" in title else title,
    "categories": schema.PATH_SEPARATOR.join(filter(None, names)),
    "brand": brand.removeprefix("by ").removeprefix("Visit the "),
    "description": _clean(product.get("description")),
    "price": float(price[1].replace(",", "")) if price else None,
  }


def _clean(text: object) -> str:
  """Entities resolved, tags and runs of white space gone, lists joined."""
  if isinstance(text, list):
    text = " ".join(str(part) for part in text)
  plain = re.sub(r"<[^>]*>", " ", html.unescape(str(text or "")))
  return " ".join(plain.split())
