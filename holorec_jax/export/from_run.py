"""A finished run -> its bundle, and the formats that lie beside it."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from holorec_jax import artifacts, sharding
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.recommender import Recommender
from holorec_jax.errors import UserError
from holorec_jax.experiment import recommendation
from holorec_jax.experiment.recommendation import Run
from holorec_jax.export import bundle, hf, programs, saved_model, tensors
from holorec_jax.quantize import quantizers
from holorec_jax.vectors import encode
from holorec_jax.vectors.cold_items import ColdItems

# New items that a bundle takes without another export, as a share of its items.
ROOM = 0.1


def _write_safetensors(run: Run, folder: pathlib.Path) -> None:
  """The tree of parameters in the search's dtype, names joined by "/"."""
  params, _ = programs.name_leaves(run.recommender.params)
  tensors.save(folder / "params.safetensors", params)


def _write_hf(run: Run, folder: pathlib.Path) -> None:
  """A Hugging Face folder; UserError where none can express the system."""
  engine = run.recommender.engine
  if not isinstance(engine, TreeEngine):
    system = run.made_from["system"]
    raise UserError(
      f"--formats=hf: {system} is no encoder and decoder of codes"
    )
  dataset = run.dataset
  hf.write(
    folder,
    run.recommender.params,
    engine.model.config,
    run.recommender.catalog,
    dataset.item_ids.tolist(),
    _titles(run),
    run.config.search.beam,
  )


def _write_saved_model(run: Run, folder: pathlib.Path) -> None:
  """A TensorFlow SavedModel; UserError where TensorFlow does not take it."""
  parts = programs.take_apart(run.recommender)
  tolerance = bundle.TOLERANCE[parts.dtype]
  saved_model.write(folder, folder.parent, parts, tolerance)


# Each writes into a folder of its own; "stablehlo" is the bundle itself.
FORMATS: dict[str, Callable[[Run, pathlib.Path], None]] = {
  "safetensors": _write_safetensors,
  "hf": _write_hf,
  "saved_model": _write_saved_model,
}


def export(
  workdir: str | os.PathLike[str],
  out: str | os.PathLike[str],
  system: str = "",
  formats: Sequence[str] = ("stablehlo",),
  options: bundle.Options | None = None,
  room: float = ROOM,
) -> dict[str, Any]:
  """Exports a system of a run at its best checkpoint.

  Args:
    workdir: of the run; the raw data need not be there any more.
    out: the folder to write; it must not be there yet.
    system: one of the run's; "": the headline.
    formats: "stablehlo", which is always written, and keys of FORMATS.
    options: of the bundle.
    room: share by which item deltas may make the catalogue grow; of
      config.search.room the larger counts.

  Returns:
    The bundle's manifest.

  Raises:
    UserError: no finished run there, an unknown system or format, a format that
      cannot express the model or lacks its package, or `out` is there.
  """
  unknown = set(formats) - {"stablehlo", *FORMATS}
  if unknown:
    raise UserError(
      f"--formats: there is no {', '.join(sorted(unknown))}; choose among"
      f" stablehlo, {', '.join(FORMATS)}"
    )
  if "saved_model" in formats:
    # Before the minutes that an export takes.
    saved_model.import_tensorflow()
  if not 0 <= room <= 10:
    raise UserError(f"--room={room}: give a share of the items, 0 to 10")
  workdir = pathlib.Path(workdir)
  with bundle.step("run opened"):
    run = recommendation.open_run(workdir, system)
  dataset = run.dataset
  contents = bundle.Contents(
    item_ids=dataset.item_ids.tolist(),
    titles=_titles(run),
    histories=np.split(dataset.items, dataset.offsets[1:-1]),
    quantizer=_quantizer(run, workdir),
    cold=_encoder(run, workdir),
    about={
      "system": run.made_from["system"],
      "dataset": dataset.name,
      "metrics": _metrics(run, workdir),
      "vectors": run.config.section("vectors")["vectors"],
      "made_from": run.made_from,
      "item_table": {
        "item_column": run.config.data.item_column,
        "title_column": run.config.data.title_column,
        "categories_column": run.config.data.categories_column,
      },
    },
    beside=[_writer(name, run) for name in FORMATS if name in formats],
  )
  recommender = _with_room(run.recommender, room)
  return bundle.write(out, recommender, contents, options)


def _writer(name: str, run: Run) -> Callable[[pathlib.Path], None]:
  def write(folder: pathlib.Path) -> None:
    with bundle.step(f"format {name}"):
      (folder / name).mkdir()
      FORMATS[name](run, folder / name)

  return write


def _titles(run: Run) -> list[str]:
  none = np.full(run.dataset.num_items, "")
  return run.dataset.item_text.get("title", none).tolist()


def _quantizer(run: Run, workdir: pathlib.Path) -> tuple[str, Any, int] | None:
  """Kind, quantizer and width of its vectors; None: the codes were given."""
  if not (workdir / "sids" / "quantizer.npz").is_file():
    return None
  vectors_IW = np.load(workdir / "vectors" / "vectors.npy", mmap_mode="r")
  fitted = quantizers.load(workdir / "sids")
  return run.config.sid.quantizer, fitted, vectors_IW.shape[1]


def _encoder(run: Run, workdir: pathlib.Path) -> ColdItems | None:
  """What makes vectors of new items; None: the bundle can take none."""
  catalog, engine = run.recommender.catalog, run.recommender.engine
  levels_alike = catalog.codes_IL.shape[1] == catalog.sids_IRL.shape[2]
  quantizer = workdir / "sids" / "quantizer.npz"
  grows = isinstance(engine, TreeEngine) and levels_alike
  if not grows or not quantizer.is_file():
    return None
  if not (workdir / "vectors" / encode.ABOUT).is_file():
    logging.warning(
      "%s was made by an older release and has no text encoder, and so has the"
      " bundle; launch/add_items.py --workdir says how to get one",
      workdir,
    )
    return None
  return encode.load(workdir)


def _with_room(recommender: Recommender, room: float) -> Recommender:
  """The same with longer arrays, where its index can grow in a bundle."""
  engine, config = recommender.engine, recommender.config
  if not isinstance(engine, TreeEngine) or room <= config.room:
    return recommender
  return Recommender(
    TreeEngine(engine.model, room),
    recommender.params,
    recommender.catalog,
    sharding.make_mesh(),
    recommender.max_history,
    dataclasses.replace(config, room=room),
  )


def _metrics(run: Run, workdir: pathlib.Path) -> dict[str, Any] | None:
  """The system's, if the run was evaluated at this very checkpoint."""
  path = workdir / "results.json"
  if not path.is_file():
    return None
  results, system = artifacts.read_json(path), run.made_from["system"]
  made_from = results["made_from"]
  same = all(
    made_from[key] == run.made_from[key] for key in ("dataset", "sids")
  )
  known = made_from["checkpoints"].get(system)
  if not same or known != run.made_from["checkpoint"]:
    return None
  if results["headline"] != system:
    results = results["modes"][system]
  return {split: results[split] for split in ("test", "valid")}
