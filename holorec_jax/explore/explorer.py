"""What the page shows of a run: items, users, recommendations, the code tree.

Items and users go by their external ids, and every answer is ready for JSON.
"""

import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from holorec_jax.decode import requests
from holorec_jax.experiment import examples
from holorec_jax.experiment.recommendation import Run
from holorec_jax.tree import Tree

SHOWN_TITLES = 3  # of the items below a node
_WORD = re.compile(r"\w+")


class RefusedError(Exception):
  """A request that cannot be answered.

  Attributes:
    status: of HTTP.
    what: is wrong.
    where: the field of the request.
    how: to mend it.
  """

  def __init__(self, status: int, what: str, where: str, how: str):
    super().__init__(what)
    self.status, self.what, self.where, self.how = status, what, where, how


class Explorer:
  """Answers about one run; any thread may ask."""

  def __init__(self, run: Run):
    dataset, self._catalog = run.dataset, run.recommender.catalog
    self._run = run
    self._names = examples.name_all(dataset, self._catalog)
    self._item_row = {id_: row for row, id_ in enumerate(dataset.item_ids)}
    self._user_row = {id_: row for row, id_ in enumerate(dataset.user_ids)}
    counts_I = self._catalog.counts_I
    self._popular = np.argsort(-counts_I, kind="stable").tolist()
    self._rank_I = np.empty(len(counts_I), np.int64)
    self._rank_I[self._popular] = np.arange(len(counts_I))
    # Words of title and id, the most popular item's first.
    self._texts = [
      _words(f"{self._title(item)} {dataset.item_ids[item]}")
      for item in self._popular
    ]
    # One search at a time: several would only share the same cores.
    self._searching = threading.Lock()

  def about(self) -> dict[str, Any]:
    """What run this is."""
    dataset, made_from = self._run.dataset, self._run.made_from
    return {
      "system": made_from["system"],
      "data": dataset.name,
      "step": made_from["checkpoint"]["step"],
      "items": dataset.num_items,
      "users": dataset.num_users,
      "events": dataset.num_events,
      "levels": self._catalog.tree.num_levels,
      "codes": self._catalog.num_codes,
      "max_history": self._run.recommender.max_history,
      # Else it ranks otherwise, and an item's codes are no way to it.
      "by_level": self._run.probe is not None,
    }

  def find_items(self, query: str, limit: int) -> list[dict[str, str]]:
    """Items with all words of the query in title or id, popular ones first.

    The item of just this id goes first, then those with words that begin like
    the query's, then those that contain them.
    """
    words = _words(query).split()
    item = self._item_row.get(query.strip())
    places = itertools.chain(
      [] if item is None else [int(self._rank_I[item])],
      self._with_all([f" {word}" for word in words]),
      self._with_all(words),
    )
    return [self._item(self._popular[i]) for i in _first(places, limit)]

  def find_users(self, query: str, limit: int) -> list[dict[str, Any]]:
    """Users whose ids begin like the query; without one, some at random.

    The user of just this id goes first.
    """
    dataset, query = self._run.dataset, query.strip()
    if query:
      rows = _first(
        itertools.chain(
          [self._user_row[query]] if query in self._user_row else [],
          (r for id_, r in self._user_row.items() if id_.startswith(query)),
        ),
        limit,
      )
    else:
      rng, count = np.random.default_rng(), dataset.num_users
      rows = rng.choice(count, min(limit, count), replace=False).tolist()
    return [
      {
        "user": str(dataset.user_ids[row]),
        "events": int(dataset.offsets[row + 1] - dataset.offsets[row]),
      }
      for row in rows
    ]

  def history(self, user: str) -> dict[str, Any]:
    """All items of a user, oldest first.

    Raises:
      RefusedError: no such user.
    """
    row = self._user_row.get(user)
    if row is None:
      known = ", ".join(map(str, self._run.dataset.user_ids[:3]))
      raise RefusedError(
        404,
        f"There is no user {user!r} in this run",
        "user",
        f"Its ids look like {known}; what the filters of the data removed is"
        " not there.",
      )
    items = self._run.dataset.history(row).tolist()
    return {"user": user, "history": [self._item(item) for item in items]}

  def recommend(
    self, history: Sequence[str], k: int, exclude_seen: bool
  ) -> dict[str, Any]:
    """The best items after a history, and the way to each.

    Args:
      history: item ids, oldest first; of an empty one the most popular items
        follow.
      k: how many.
      exclude_seen: leave out items of the history.

    Returns:
      {"from_prior": whether they are only the most popular, "recommendations":
      [{"item", "title", "score": log-probability, "chain": one link a level}]},
      links being {"level": from 0, "code", "name": of the code, "thought":
      [[name, share], ..], "items": below the prefix that ends here, "titles":
      of some}.

    Raises:
      RefusedError: no such item.
    """
    rows = [self._find_item(id_, n) for n, id_ in enumerate(history)]
    with self._searching:
      (example,) = examples.make_examples(
        self._run.dataset,
        self._catalog,
        self._names,
        self._run.recommender,
        self._run.probe if rows else None,
        requests.make_histories([rows]),
        ["page"],
        [None],
        k,
        exclude_seen,
      )
    return {
      "from_prior": not rows,
      "recommendations": [
        {
          "item": entry["item"],
          "title": entry["title"],
          "score": entry["score"],
          "chain": self._chain(
            self._item_row[entry["item"]],
            [link["thought"] for link in entry["chain"]],
          ),
        }
        for entry in example["recommendations"][:k]
      ],
    }

  def node(self, prefix: Sequence[int]) -> dict[str, Any]:
    """A node of the code tree and its children.

    Args:
      prefix: codes from the root.

    Returns:
      {"prefix", "items": how many below, "names": of the prefix's codes,
      "children": [{"code", "name", "items", "titles"}], most items first,
      "leaf": items of a leaf, else []}.

    Raises:
      RefusedError: no item has these codes.
    """
    tree = self._catalog.tree
    nodes = walk(tree, prefix)
    if len(nodes) <= len(prefix):
      raise self._no_node(prefix, nodes)
    node, depth = nodes[-1], len(prefix)
    children, leaf = [], []
    if depth < tree.num_levels:
      children = [self._link(depth, child) for child in below(tree, node)]
      children.sort(key=lambda link: -link["items"])
    else:
      leaf = [self._item(item) for item in self._items(node).tolist()]
    return {
      "prefix": list(prefix),
      "items": int(tree.num_items[node]),
      "names": [self._name(level, code) for level, code in enumerate(prefix)],
      "children": children,
      "leaf": leaf,
    }

  def _no_node(
    self, prefix: Sequence[int], nodes: Sequence[int]
  ) -> RefusedError:
    tree = self._catalog.tree
    depth = len(nodes) - 1
    if depth == tree.num_levels:
      how = f"Codes have {depth} levels."
    else:
      children = below(tree, nodes[-1])
      some = tree.code[children.start : children.stop][:5]
      how = (
        f"After {list(prefix[:depth])} there are codes such as"
        f" {', '.join(map(str, some))}."
      )
    return RefusedError(
      404, f"No item has codes that begin with {list(prefix)}", "prefix", how
    )

  def _with_all(self, parts: Sequence[str]) -> Iterator[int]:
    """Places in `_popular` of the items whose words hold all these parts."""
    for place, text in enumerate(self._texts):
      if all(part in text for part in parts):
        yield place

  def _find_item(self, id_: str, place: int) -> int:
    if id_ not in self._item_row:
      known = ", ".join(map(str, self._run.dataset.item_ids[:3]))
      raise RefusedError(
        400,
        f"There is no item {id_!r} in this run",
        f"history.{place}",
        f"Its ids look like {known}; what the filters of the data removed is"
        " not there.",
      )
    return self._item_row[id_]

  def _chain(self, item: int, thoughts: list[Any]) -> list[dict[str, Any]]:
    nodes = walk(self._catalog.tree, self._catalog.codes_IL[item].tolist())
    return [
      {"level": level, "thought": thoughts[level] if thoughts else []}
      | self._link(level, node)
      for level, node in enumerate(nodes[1:])
    ]

  def _link(self, level: int, node: int) -> dict[str, Any]:
    """The code that leads into a node, and what is below."""
    tree, code = self._catalog.tree, int(self._catalog.tree.code[node])
    items = self._items(node)
    best = items[np.argsort(self._rank_I[items])[:SHOWN_TITLES]]
    return {
      "code": code,
      "name": self._name(level, code),
      "items": int(tree.num_items[node]),
      "titles": [self._title(item) for item in best.tolist()],
    }

  def _items(self, node: int) -> np.ndarray:
    """Items below a node."""
    tree = self._catalog.tree
    first = tree.first_item[node]
    return tree.leaf_items[first : first + tree.num_items[node]]

  def _name(self, level: int, code: int) -> str:
    """What a code's items have in common; "" of a level that numbers them."""
    fine = self._names.fine
    return fine[level][code] if level < len(fine) else ""

  def _title(self, item: int) -> str:
    return examples.item_title(self._run.dataset, item)

  def _item(self, item: int) -> dict[str, str]:
    id_ = str(self._run.dataset.item_ids[item])
    return {"item": id_, "title": self._title(item)}


def walk(tree: Tree, codes: Sequence[int]) -> list[int]:
  """Nodes from the root along the codes, as far as the tree has them."""
  nodes = [0]
  for code in codes[: tree.num_levels]:
    children = below(tree, nodes[-1])
    code_N = tree.code[children.start : children.stop]
    place = int(np.searchsorted(code_N, code))
    if place == len(children) or code_N[place] != code:
      break
    nodes.append(children[place])
  return nodes


def below(tree: Tree, node: int) -> range:
  """The children of an inner node, by code."""
  first = int(tree.first_child[node])
  return range(first, first + int(tree.num_children[node]))


def _words(text: str) -> str:
  """Lower-case words, each behind a space."""
  return "".join(f" {word}" for word in _WORD.findall(text.casefold()))


def _first(places: Iterable[int], limit: int) -> list[int]:
  """The first few distinct ones."""
  found: dict[int, None] = {}
  for place in places:
    found[place] = None
    if len(found) == limit:
      break
  return list(found)
