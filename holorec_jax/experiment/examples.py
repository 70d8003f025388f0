"""Recommendations that people can read: titles and chains of thought.

A chain has one link a level: the thought (its most likely coarse codes, by
name, with their shares) and the fine code that followed it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from holorec_jax.catalog import Catalog
from holorec_jax.data.schema import Dataset
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Filters, Histories
from holorec_jax.evaluate import naming

SHOWN_HISTORY = 8
SHOWN_THOUGHTS = 2


@dataclasses.dataclass(frozen=True)
class CodeNames:
  """Names of codes by [level][code]; "" for codes without items.

  Attributes:
    coarse: of the coarsest row, in which thoughts are.
    fine: of the identifying row; levels beyond the quantizer's have none.
  """

  coarse: list[list[str]]
  fine: list[list[str]]


def name_all(dataset: Dataset, catalog: Catalog) -> CodeNames:
  """Names the codes by what sets their items apart."""
  levels = catalog.sids_IRL.shape[-1]
  rows = [catalog.sids_IRL[:, 0], catalog.codes_IL[:, :levels]]
  coarse, fine = (
    naming.name_codes(row_IL, dataset.item_text, catalog.num_codes)
    for row_IL in rows
  )
  return CodeNames(coarse, fine)


def item_title(dataset: Dataset, item: int) -> str:
  """An item's title, or its id where it has none."""
  titles = dataset.item_text.get("title")
  title = titles[item] if titles is not None else ""
  return str(title or dataset.item_ids[item])


def make_examples(
  dataset: Dataset,
  catalog: Catalog,
  names: CodeNames,
  recommender: Recommender,
  probe: Probe | None,
  histories: Histories,
  user_ids: Sequence[str],
  targets: Sequence[int | None],
  shown: int,
  exclude_seen: bool = False,
) -> list[dict[str, Any]]:
  """Recommends to the given users and says why.

  Args:
    dataset: titles.
    catalog: codes.
    names: of the codes.
    recommender: the system that answers.
    probe: of its levels; None: it has none, and chains are empty.
    histories: one per user.
    user_ids: external ids.
    targets: the item that came next, or None where nobody knows.
    shown: recommendations per user.
    exclude_seen: leave out items of the history.

  Returns:
    One dict per user, in the schema of `evaluate.report.Contents.examples`.
  """
  found = recommender.recommend(histories, Filters(exclude_seen), shown)
  items_UK, scores_UK = found.items_UK, found.scores_UK
  share_UKLV = None if probe is None else probe.thoughts(histories, items_UK)
  examples = []
  for user, (user_id, target) in enumerate(zip(user_ids, targets)):
    start, end = histories.starts_U[user], histories.ends_U[user]
    recent = histories.items_E[max(start, end - SHOWN_HISTORY) : end]
    recommendations = []
    for place, item in enumerate(items_UK[user]):
      if item < 0:
        continue
      share_LV = None if share_UKLV is None else share_UKLV[user, place]
      recommendations.append(
        {
          "title": item_title(dataset, item),
          "item": str(dataset.item_ids[item]),
          "score": float(scores_UK[user, place]),
          "hit": target is not None and int(item) == int(target),
          "chain": []
          if probe is None
          else _chain(catalog.codes_IL[item], share_LV, names),
        }
      )
    examples.append(
      {
        "user": str(user_id),
        "history": [item_title(dataset, item) for item in recent],
        "target": None if target is None else item_title(dataset, target),
        "recommendations": recommendations,
      }
    )
  return examples


def _chain(
  code_L: np.ndarray, share_LV: np.ndarray | None, names: CodeNames
) -> list[dict[str, Any]]:
  chain = []
  for level, code in enumerate(code_L.tolist()):
    thought: list[tuple[str, float]] = []
    named = level < len(names.fine)
    if share_LV is not None and named:
      for coarse in np.argsort(-share_LV[level])[:SHOWN_THOUGHTS].tolist():
        label = names.coarse[level][coarse] or f"#{coarse}"
        thought.append((label, float(share_LV[level, coarse])))
    name = names.fine[level][code] if named else ""
    chain.append(
      {"level": level, "thought": thought, "code": code, "name": name}
    )
  return chain


def as_text(examples: Sequence[dict[str, Any]]) -> str:
  """The examples for a terminal."""
  lines = []
  for example in examples:
    lines.append(f"User {example['user']}, latest last")
    lines += [f"    {title[:70]}" for title in example["history"]]
    if example["target"] is not None:
      lines.append(f"  then chose: {example['target'][:70]}")
    for rank, entry in enumerate(example["recommendations"], start=1):
      hit = "  <- chosen" if entry["hit"] else ""
      lines.append(
        f"  {rank}. {entry['title'][:62]} ({entry['score']:.2f}){hit}"
      )
      for link in entry["chain"]:
        thought = ", ".join(
          f"{name} {share:.0%}" for name, share in link["thought"]
        )
        arrow = f"thinks {thought} -> " if thought else ""
        lines.append(
          f"       {arrow}code {link['code']}"
          + (f" ({link['name']})" if link["name"] else "")
        )
    lines.append("")
  return "\n".join(lines)
