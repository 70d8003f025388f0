"""Flags and error handling that all stages share."""

import logging as python_logging
import os
import pathlib
import sys
from collections.abc import Callable

# Before jax is imported: quiet start-up, and no fight over CPU threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import memory
from absl import app, flags, logging
from ml_collections import config_flags

from holorec_jax import config_fields
from holorec_jax.errors import UserError
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
  " stopped; another config needs another folder.",
)


def run(*stages: Callable[[Config, pathlib.Path], None]) -> None:
  """Parses flags and runs the stages on (config, workdir)."""

  def main(argv: list[str]) -> None:
    if len(argv) > 1:
      raise UserError(f"unknown argument {argv[1]!r}; see --help")
    memory.keep_freed()
    workdir = pathlib.Path(str(WORKDIR.value))
    # JAX announces every accelerator that it does not find.
    python_logging.getLogger("jax").setLevel(python_logging.WARNING)
    with remove_unused(workdir):
      config = load_config(CONFIG.value, workdir)
      for stage in stages:
        stage(config, workdir)

  for flag in ("config", "workdir"):
    # So that --help of every script explains them.
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])
  flags.mark_flags_as_required(["config", "workdir"])
  logging.set_verbosity(logging.INFO)
  try:
    app.run(main, flags_parser=config_fields.parse_flags)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
