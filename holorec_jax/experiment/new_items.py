"""New items in a finished run: codes by its frozen quantizer, no training.

  run = recommendation.open_run("WORKDIR")
  changed = new_items.append(run.recommender.catalog, "WORKDIR", vectors_NW)
  run.recommender.set_catalog(changed)

The new items have the next numbers and are recommended from the next request
on; `catalog.remove_items` takes others out. Nothing compiles while they fit
into config.search.room.
"""

import os
import pathlib

import numpy as np

from holorec_jax.catalog import Catalog, add_items
from holorec_jax.errors import UserError
from holorec_jax.quantize import quantizers


def append(
  catalog: Catalog, workdir: str | os.PathLike[str], vectors_NW: np.ndarray
) -> Catalog:
  """The catalogue with items that the quantizer of a run gives codes.

  Args:
    catalog: of that run, possibly changed since.
    workdir: of the run.
    vectors_NW: content vectors of the new items, made as WORKDIR/vectors was.

  Returns:
    A catalogue where they share leaves with items of the same codes, as items
    without any interaction.

  Raises:
    UserError: the run's codes were published ones (then nothing can quantize),
      collisions are not told apart by leaf, or vectors do not fit.
  """
  folder = pathlib.Path(workdir) / "sids"
  if not (folder / "quantizer.npz").is_file():
    raise UserError(
      f"{folder} has no quantizer, since the run's codes were given to it"
      " (config.sids_path): new items need codes from where those came from;"
      " catalog.add_items takes them"
    )
  quantizer = quantizers.load(folder)
  if catalog.codes_IL.shape[1] != quantizer.sids_IRL.shape[2]:
    raise UserError(
      "this run numbers items of equal codes by one more level"
      " (config.catalog.collisions='extra_level'), and the generator knows no"
      " new numbers: use 'leaf' for catalogues that change"
    )
  sids_NRL = quantizer.encode(vectors_NW)
  return add_items(catalog, sids_NRL, sids_NRL[:, -1])
