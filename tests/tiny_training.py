"""The least of training runs, called or as a process of its own.

What is trained does not matter here, and is over in no time. As a process:

  python tests/tiny_training.py --workdir=DIR [--pause=SECONDS] [--epochs=5 ..]

with the fields of TrainConfig and the axes of the mesh as options. The
environment says of which cluster it is a part (holorec_jax/processes.py).
"""

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import time
from typing import Any

if __name__ == "__main__":
  ROOT = pathlib.Path(__file__).resolve().parent.parent
  sys.path[:0] = [str(ROOT), str(ROOT / "launch")]

import jax
import numpy as np
import tiny_models as tiny
from absl import flags
from jax.sharding import Mesh

from holorec_jax import processes, sharding
from holorec_jax.data.pipeline import PipelineConfig, make_source
from holorec_jax.data.schema import Dataset
from holorec_jax.data.splits import Split
from holorec_jax.models.generator import Generator
from holorec_jax.train import loop
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.optimizer import OptimConfig

CATALOG = tiny.make_catalog(20, levels=1, codes=20)
MODEL = Generator(tiny.make_config(dropout=0.1, encoder_layers=0), 1, 20)
OBJECTIVE = GeneratorObjective(MODEL, LossConfig())
OPTIM = OptimConfig(learning_rate=0.01, average_decay=0.9)
TRAIN = loop.TrainConfig(
  epochs=5, evaluate_every=1, patience=9, log_every=2, seed=3
)


def make_data() -> tuple[Dataset, Split]:
  """Histories of 72 users."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(4, 9, 72)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  items = rng.integers(0, 20, offsets[-1]).astype(np.int32)
  dataset = Dataset("made", np.arange(20), {}, lengths, offsets, items)
  return dataset, Split(lengths - 2, lengths - 2, lengths - 1)


def make_batches(devices: int = 2, share: tuple[int, int] = (0, 1)):
  """Four batches an epoch."""
  dataset, split = make_data()
  config = PipelineConfig(max_history=8, slots_per_row=8, targets_per_batch=64)
  return make_source(dataset, split, config, devices, share)


def measure(params: dict) -> dict[str, float]:
  """A validation that depends on every parameter."""
  total = sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(params))
  return {loop.METRIC: total}


def train(
  folder: pathlib.Path,
  validate=measure,
  optim: OptimConfig = OPTIM,
  mesh: Mesh | None = None,
  pause: float = 0.0,
  **changes: Any,
) -> loop.Progress:
  """Trains on a mesh, by default of two devices; changes are of TRAIN.

  With a pause, every batch takes so many seconds to read.
  """
  mesh = mesh or sharding.make_mesh(jax.devices()[:2])
  share = processes.row_share(sharding.by_row(mesh))
  source: Any = make_batches(sharding.row_shards(mesh), share)
  return loop.train(
    loop.Task(
      OBJECTIVE,
      Slow(source, pause) if pause else source,
      sharding.put(tiny.make_codes(CATALOG), sharding.replicated(mesh)),
      validate,
      mesh,
      optim,
      dataclasses.replace(TRAIN, **changes),
      pathlib.Path(folder),
    )
  )


class Slow:
  """A source whose batches take a while."""

  def __init__(self, source: Any, pause: float):
    self._source, self._pause = source, pause
    self.batches_per_epoch = source.batches_per_epoch
    self.rows_per_batch = source.rows_per_batch

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    time.sleep(self._pause)
    return self._source[index]


def main() -> None:
  """Trains as the options say, on all devices of all processes."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--pause", type=float, default=0.0)
  parser.add_argument("--stopped_early", action="store_true")
  axes = dataclasses.fields(sharding.MeshConfig)
  for field in (*dataclasses.fields(loop.TrainConfig), *axes):
    kind = type(field.default)
    parser.add_argument(f"--{field.name}", type=kind, default=argparse.SUPPRESS)
  options = vars(parser.parse_args())
  shape = {a.name: options.pop(a.name) for a in axes if a.name in options}
  flags.FLAGS.mark_as_parsed()  # Grain reads some.
  processes.join(processes.find_cluster(os.environ))
  if options.pop("stopped_early") and not processes.is_first():
    os.kill(os.getpid(), signal.SIGTERM)
  mesh = sharding.make_mesh(shape=sharding.MeshConfig(**shape))
  train(options.pop("workdir"), mesh=mesh, **options)


if __name__ == "__main__":
  import status

  with status.exits():
    main()
