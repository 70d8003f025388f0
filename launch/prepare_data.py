"""Reads and filters the raw data into WORKDIR/dataset.

With --tfds=DIR it also writes the data set as TFDS ArrayRecord files, which are
read back without TensorFlow. With --executor=beam Apache Beam does the work,
with the same result; what follows `--` goes to its runner
(holorec_jax/data/beam.py has the commands for clusters).
"""

import functools
import sys

import stage
from absl import flags

from holorec_jax.errors import UserError
from holorec_jax.experiment import preparation

TFDS = flags.DEFINE_string(
  "tfds", "", "New folder for the TFDS form of the data; empty: none."
)
EXECUTOR = flags.DEFINE_enum(
  "executor",
  "local",
  ["local", "beam"],
  "What does the work: this process, or Apache Beam (flags of its runner after"
  " --). The result is the same.",
)
PARTITIONS = flags.DEFINE_integer(
  "partitions",
  16,
  "With --executor=beam: parts of the users, each to fit a worker's memory.",
  lower_bound=1,
)


def prepare_data(runner_flags, config, workdir):
  if EXECUTOR.value == "local":
    if runner_flags:
      raise UserError(
        f"unknown argument {runner_flags[0]!r}: flags after -- are those of"
        " Beam's runner; add --executor=beam"
      )
    preparation.prepare_data(config, workdir)
    return
  try:
    from holorec_jax.data import beam
  except ModuleNotFoundError as error:
    raise UserError(
      f"--executor=beam needs Apache Beam ({error}): install the extra, pip"
      " install 'holorec_jax[beam]', in an environment of its own"
    ) from error
  execute = functools.partial(
    beam.prepare,
    options=runner_flags,
    scratch=workdir / ".beam.partial",
    num_partitions=PARTITIONS.value,
  )
  preparation.prepare_data(config, workdir, execute)


def export_tfds(config, workdir):
  if TFDS.value:
    from holorec_jax.data import builder

    data = preparation.load_data(config, workdir)
    builder.write_tfds(data.dataset, data.split, TFDS.value)


if __name__ == "__main__":
  runner_flags = []
  if "--" in sys.argv:
    cut = sys.argv.index("--")
    runner_flags = sys.argv[cut + 1 :]
    del sys.argv[cut:]
  stage.run(functools.partial(prepare_data, runner_flags), export_tfds)
