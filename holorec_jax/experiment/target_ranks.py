"""Ranks of targets under the parameters that a training loop holds."""

import jax
import numpy as np
from jax.sharding import Mesh

from holorec_jax import processes, sharding
from holorec_jax.catalog import Catalog
from holorec_jax.decode.recommender import Recommender
from holorec_jax.decode.requests import Filters
from holorec_jax.evaluate import metrics
from holorec_jax.evaluate.targets import Targets
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.systems import System


class TargetRanker:
  """Searches for evaluation rows, with other parameters at every call.

  Several processes call it alike. Each searches alone, on its own devices and
  with all of the parameters, for its block of the users.

  Args:
    config: of the run.
    built: its catalogue.
    system: whose parameters they are.
    mesh: which they are stored on.
  """

  def __init__(
    self, config: Config, built: Catalog, system: System, mesh: Mesh
  ):
    self._recommender = Recommender(
      system.engine,
      {},  # every call brings its own
      built,
      sharding.make_mesh(jax.local_devices()),
      config.input.max_history,
      config.search,
    )
    self._gather = jax.jit(
      lambda tree: tree, out_shardings=sharding.replicated(mesh)
    )

  def ranks(
    self, params: dict, rows: Targets, unseen: bool = False, progress: str = ""
  ) -> np.ndarray:
    """Ranks of the targets of all users, as `metrics.target_ranks`.

    Args:
      params: float32, as training stores them.
      rows: users with their targets.
      unseen: leave items of the history out.
      progress: name of a progress bar; empty: none.
    """
    whole = jax.tree.map(lambda x: x.addressable_data(0), self._gather(params))
    self._recommender.set_params(whole)
    own = rows.take(processes.own_rows(len(rows)))
    found = self._recommender.recommend(
      own.histories,
      Filters(exclude_seen=unseen),
      progress=progress if processes.is_first() else "",
    )
    self._recommender.drop_params()
    ranks_U = metrics.target_ranks(found.items_UK, own.items_U)
    return processes.join_rows(ranks_U, len(rows))

  def validate(self, params: dict, rows: Targets) -> dict[str, float]:
    """Metrics of validation rows, seen items kept: `loop.METRIC` and others."""
    means = metrics.summarise(self.ranks(params, rows))
    return {f"valid/{name}": value for name, value in means.items()}
