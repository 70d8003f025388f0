"""A finished run that answers: in Python, and for named users as text.

A server needs five lines; `recommender` has the rest (who may get which items,
another catalogue), in item numbers, which `dataset.item_ids` names:

  run = recommendation.open_run("WORKDIR")
  histories = requests.make_histories([[3, 17]])
  filters = requests.Filters(exclude_seen=True)
  found = run.recommender.recommend(histories, filters, k=10)
  print(run.dataset.item_ids[found.items_UK[found.valid_UK]])
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from holorec_jax.data.schema import Dataset
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Histories
from holorec_jax.errors import UserError
from holorec_jax.experiment import (
  alignment,
  examples,
  preparation,
  training,
)
from holorec_jax.experiment.config import Config, read_config
from holorec_jax.train import seal

DEFAULT_USERS = 3


@dataclasses.dataclass(frozen=True)
class Run:
  """One system of a finished run, at its best checkpoint.

  Attributes:
    recommender: answers in item numbers.
    probe: of its levels, for chains of thought; None where it has none.
    dataset: external ids of items and users by number, histories, titles.
    config: of the run.
    made_from: what the answers follow from, as JSON: the system's name, hashes
      of data, codes and checkpoint, and the config of the search.
  """

  recommender: Recommender
  probe: Probe | None
  dataset: Dataset
  config: Config
  made_from: dict[str, Any]

  def histories(self, rows_U: np.ndarray) -> Histories:
    """All that the data set knows of the given users."""
    offsets = self.dataset.offsets
    return Histories(self.dataset.items, offsets[rows_U], offsets[rows_U + 1])

  def offer_only(self, allow: Sequence[str], deny: Sequence[str]) -> None:
    """Recommends to nobody what is denied, or not among the allowed items.

    Args:
      allow: external item ids; none: all items.
      deny: external item ids.

    Raises:
      UserError: the data set has no such item.
    """
    item_ids = self.dataset.item_ids
    available_I = np.full(len(item_ids), not allow)
    available_I[_find(item_ids, allow, "--allow")] = True
    available_I[_find(item_ids, deny, "--deny")] = False
    self.recommender.set_available(available_I)


def open_run(workdir: str | os.PathLike[str], system: str = "") -> Run:
  """Loads a finished run by its config.json.

  Args:
    workdir: of the run; the raw data need not be there any more.
    system: one of its systems; "": the headline; "aligned": the headline as
      launch/align.py left it.

  Raises:
    UserError: no run there, unknown system, or stages not run.
  """
  workdir = pathlib.Path(workdir)
  return load_run(read_config(workdir), workdir, system)


def load_run(config: Config, workdir: pathlib.Path, system: str = "") -> Run:
  """Loads a run whose config is at hand; otherwise as `open_run`."""
  system = system or config.systems[0]
  if system not in (*config.systems, alignment.FOLDER):
    raise UserError(
      f"there is no system {system!r}: this run has {', '.join(config.systems)}"
    )
  data = preparation.load_data(config, workdir)
  built, sids_content = preparation.load_catalog(config, workdir, data)
  best = training.best_checkpoints(config, workdir, data, sids_content)
  name = system
  if system == alignment.FOLDER:
    name = config.systems[0]
    folder, step = alignment.chosen(config, workdir, data, sids_content, best)
  else:
    folder = training.system_folder(config, workdir, system) / "checkpoints"
    step = best[system]["step"]
  recommender, probe = training.load_recommender(
    config, workdir, data, built, name, step, folder
  )
  made_from = {
    "system": system,
    "dataset": data.content,
    "sids": sids_content,
    "checkpoint": seal.identify(folder, step),
    "config": config.section("catalog", "input", "model", "search"),
  }
  return Run(recommender, probe, data.dataset, config, made_from)


def recommend(
  config: Config,
  workdir: pathlib.Path,
  users: Sequence[str],
  system: str,
  k: int,
  exclude_seen: bool,
  allow: Sequence[str] = (),
  deny: Sequence[str] = (),
) -> None:
  """Prints k items, and why, for users of the data set.

  Args:
    config: of the run.
    workdir: of the run.
    users: external user ids; none takes the first few.
    system: as in `open_run`.
    k: items per user.
    exclude_seen: leave out items of the history.
    allow: external ids of the items to choose from; none: all.
    deny: external ids of items to leave out.

  Raises:
    UserError: unknown user, item or system, k too large, or stages not run.
  """
  run = load_run(config, workdir, system)
  run.offer_only(allow, deny)
  user_ids = run.dataset.user_ids
  rows_U = np.arange(min(DEFAULT_USERS, len(user_ids)))
  if users:
    rows_U = _find(user_ids, users, "--users")
  shown = examples.make_examples(
    run.dataset,
    run.recommender.catalog,
    examples.name_all(run.dataset, run.recommender.catalog),
    run.recommender,
    run.probe,
    run.histories(rows_U),
    user_ids[rows_U].tolist(),
    [None] * len(rows_U),
    k,
    exclude_seen,
  )
  print(examples.as_text(shown))


def _find(ids: np.ndarray, wanted: Sequence[str], flag: str) -> np.ndarray:
  """Rows of `ids`; UserError naming the flag for what is not there."""
  row = {id_: i for i, id_ in enumerate(ids)} if wanted else {}
  unknown = [id_ for id_ in wanted if id_ not in row]
  if unknown:
    raise UserError(
      f"{flag}: {', '.join(unknown)} not in the data set (its ids look like"
      f" {', '.join(map(str, ids[:3]))}); what the filters removed is not there"
      " either"
    )
  return np.array([row[id_] for id_ in wanted], np.int64)
