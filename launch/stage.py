"""Flags and error handling that all stages share."""

import logging as python_logging
import os
import pathlib
import sys
from collections.abc import Callable

import prelude  # noqa: F401
import status
from absl import app, flags, logging
from ml_collections import config_flags

from holorec_jax import config_fields, processes
from holorec_jax.errors import UserError
from holorec_jax.experiment import mirror
from holorec_jax.experiment.config import (
  Config,
  load_config,
  remove_unused,
)

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "Config file, such as configs/beauty.py. Any leaf can be overridden, as in"
  " --config.train.epochs=10; the docstring of holorec_jax/experiment/config.py"
  " leads to what each leaf means, WORKDIR/config.json lists them all.",
  lock_config=True,
)
WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run: all results go there. The same command goes on where it"
  " stopped; a config that makes something else needs another folder.",
)
COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "Of a run in several processes: HOST:PORT of process 0, the same for all; or"
  " auto, for what JAX detects, as on a Cloud TPU pod. Without it the"
  " environment decides (holorec_jax/processes.py); one process needs none.",
)
PROCESSES = flags.DEFINE_integer(
  "processes", None, "Of a run in several processes: how many they are."
)
PROCESS_ID = flags.DEFINE_integer(
  "process_id",
  None,
  "Of a run in several processes: which this one is, from 0.",
)


def run(
  *stages: Callable[[Config, pathlib.Path], None],
  together: bool = False,
  plans: Callable[[], bool] = lambda: False,
) -> None:
  """Parses flags and runs the stages on (config, workdir).

  Ends with the status of launch/status.py: 2 after an error that the user can
  mend, 75 after a stop from which the same command goes on.

  Args:
    *stages: what to run, one after the other.
    together: several processes may run them together.
    plans: whether the flags ask for a plan, which leaves the workdir alone.
  """

  def main(argv: list[str]) -> None:
    if len(argv) > 1:
      raise UserError(f"unknown argument {argv[1]!r}; see --help")
    _join(together)
    workdir = mirror.local_folder(str(WORKDIR.value))
    # JAX announces every accelerator that it does not find.
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)
    if plans():
      config = config_fields.to_dataclass(Config, CONFIG.value)
      for stage in stages:
        stage(config, workdir)
      return
    with remove_unused(workdir):
      config = processes.after_first(lambda: load_config(CONFIG.value, workdir))
      for stage in stages:
        stage(config, workdir)

  several = ("coordinator", "processes", "process_id") if together else ()
  for flag in ("config", "workdir", *several):
    # So that --help of every script explains them.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])
  flags.mark_flags_as_required(["config", "workdir"])
  logging.set_verbosity(logging.INFO)
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)


def _join(together: bool) -> None:
  """Joins the other processes, if there are any."""
  cluster = processes.find_cluster(
    os.environ, COORDINATOR.value, PROCESSES.value, PROCESS_ID.value
  )
  if cluster is not None and not together:
    raise UserError(
      f"{sys.argv[0]} runs in one process, but this is one of several; only"
      " launch/train.py and launch/align.py run in several"
    )
  processes.join(cluster)
