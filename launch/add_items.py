r"""Writes an item delta: items that join, with codes of their texts, or leave.

  python launch/add_items.py --workdir=RUN --items=new.csv --out=DELTA
  python launch/add_items.py --bundle=BUNDLE --items=new.csv \
    --remove=item7,item42 --out=DELTA

The table has the columns of the run's item table (any text may be missing) and
new ids. Nothing is trained: the run's frozen text encoder and quantizer give
the codes, in its workdir and in a bundle alike. launch/serve.py takes the delta
at its start (--deltas) or by POST /admin/delta, BUNDLE/runtime.py by
`apply_delta`. docs/serving.md has the rest.
"""

import logging as python_logging

import prelude  # noqa: F401
import numpy as np
import status
from absl import app, flags, logging

from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.export import delta

WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; or --bundle.")
BUNDLE = flags.DEFINE_string("bundle", "", "Folder of a bundle of the run.")
ITEMS = flags.DEFINE_string(
  "items", "", "Table of the new items: .csv, .tsv, .parquet or .jsonl."
)
REMOVE = flags.DEFINE_list("remove", [], "Ids of items that leave.")
GIVEN = flags.DEFINE_multi_string(
  "given",
  [],
  "SOURCE=FILE.npy: rows, in the order of --items, of a source of the run's"
  " vectors that is no text, such as precomputed=new.npy.",
)
OUT = flags.DEFINE_string(
  "out", None, "Folder to write; must not be there.", required=True
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  if bool(WORKDIR.value) == bool(BUNDLE.value):
    raise UserError("give one of --workdir and --bundle")
  python_logging.getLogger("jax").setLevel(python_logging.WARNING)
  make = delta.from_run if WORKDIR.value else delta.from_bundle
  found = make(
    WORKDIR.value or BUNDLE.value,
    OUT.value,
    ITEMS.value,
    REMOVE.value,
    dict(map(_read_given, GIVEN.value)),
  )
  logging.info(
    "%s: %d items join, %d leave", OUT.value, found["new"], found["removed"]
  )


def _read_given(text: str) -> tuple[str, np.ndarray]:
  name, _, path = text.partition("=")
  if not path:
    raise UserError(f"--given={text}: expected SOURCE=FILE.npy")
  try:
    return name, np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise UserError(f"--given={text}: {path} cannot be read: {error}") from None


if __name__ == "__main__":
  logging.set_verbosity(logging.INFO)
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)
