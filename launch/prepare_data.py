"""Reads and filters the raw data into WORKDIR/dataset.

With --tfds=DIR it also writes the data set as TFDS ArrayRecord files, which are
read back without TensorFlow.
"""

import stage
from absl import flags

from holorec_jax.experiment import preparation

TFDS = flags.DEFINE_string(
  "tfds", "", "New folder for the TFDS form of the data; empty: none."
)


def export_tfds(config, workdir):
  if TFDS.value:
    from holorec_jax.data import builder

    data = preparation.load_data(config, workdir)
    builder.write_tfds(data.dataset, data.split, TFDS.value)


if __name__ == "__main__":
  stage.run(preparation.prepare_data, export_tfds)
