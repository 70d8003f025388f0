"""Recommendations for named users, with their chains of thought."""

import pathlib
from collections.abc import Sequence

import numpy as np

from holorec_jax.decode.recommender import Histories
from holorec_jax.errors import UserError
from holorec_jax.experiment import examples, preparation, training
from holorec_jax.experiment.config import Config

DEFAULT_USERS = 3


def recommend(
  config: Config,
  workdir: pathlib.Path,
  users: Sequence[str],
  system: str,
  k: int,
  exclude_seen: bool,
) -> None:
  """Prints k items, and why, for users of the data set.

  Args:
    config: of the run.
    workdir: of the run.
    users: external user ids; none takes the first few.
    system: one of config.systems.
    k: items per user, at most config.search.k.
    exclude_seen: leave out items of the history.

  Raises:
    UserError: unknown user or system, k too large, or stages not run.
  """
  if system not in config.systems:
    raise UserError(
      f"--system={system}: this run has {', '.join(config.systems)}"
    )
  if k > config.search.k:
    raise UserError(
      f"--k={k}: the search returns config.search.k={config.search.k} items;"
      " ask for fewer, or raise search.k and search.beam"
    )
  data = preparation.load_data(config, workdir)
  built, sids_content = preparation.load_catalog(config, workdir, data)
  steps = training.best_steps(config, workdir, data, sids_content)
  rows_U = _find(data.dataset.user_ids, users)
  recommender = training.load_recommender(
    config, workdir, built, system, steps[system]
  )
  shown = examples.make_examples(
    data.dataset,
    built,
    examples.name_all(data.dataset, built),
    recommender,
    Histories(
      data.dataset.items,
      data.dataset.offsets[rows_U],
      data.dataset.offsets[rows_U + 1],
    ),
    data.dataset.user_ids[rows_U],
    [None] * len(rows_U),
    k,
    exclude_seen,
  )
  print(examples.as_text(shown))


def _find(user_ids: np.ndarray, users: Sequence[str]) -> np.ndarray:
  if not users:
    return np.arange(min(DEFAULT_USERS, len(user_ids)))
  row = {user: i for i, user in enumerate(user_ids)}
  unknown = [user for user in users if user not in row]
  if unknown:
    raise UserError(
      f"--users: {', '.join(unknown)} not in the data set (its ids look like"
      f" {', '.join(map(str, user_ids[:3]))}); users whom the filters removed"
      " are not there either"
    )
  return np.array([row[user] for user in users])
