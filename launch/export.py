r"""Exports a finished run for serving: a folder that needs numpy and jax only.

  python launch/export.py --workdir=RUN --out=BUNDLE
  python launch/export.py --workdir=RUN --out=BUNDLE --system=non_thinking \
    --buckets=1,16,64 --formats=stablehlo,safetensors,hf

BUNDLE/runtime.py answers from it, launch/serve.py serves it. It is written from
the best checkpoint, read back, and must answer as the run does; then it is
there, whole, or not at all.
"""

import logging as python_logging

import prelude  # noqa: F401
import status
from absl import app, flags, logging

from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.export import bundle, from_run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the finished run.")
OUT = flags.DEFINE_string("out", None, "Folder to write; must not be there.")
SYSTEM = flags.DEFINE_string("system", "", "Which system; empty: the headline.")
BUCKETS = flags.DEFINE_list(
  "buckets",
  [str(size) for size in bundle.Options().buckets],
  "Batch sizes that can be searched, ascending. Each is compiled at start.",
)
LIST_WIDTH = flags.DEFINE_integer(
  "list_width",
  bundle.Options().list_width,
  "Most items that a request may deny or allow; seen items that are left out"
  " count, too.",
)
ROOM = flags.DEFINE_float(
  "room",
  from_run.ROOM,
  "Share by which item deltas (launch/add_items.py) may let the catalogue"
  " grow.",
)
TEXT_DTYPE = flags.DEFINE_enum(
  "text_dtype",
  "float32",
  ["float32", "float16"],
  "Of what encodes new items' texts. float16 halves it, and gives some of a"
  " thousand new items another code than the run does.",
)
FORMATS = flags.DEFINE_list(
  "formats",
  ["stablehlo"],
  "stablehlo is the bundle and always there. Beside it, each in a folder of its"
  " name: safetensors, the tree of parameters; hf, for transformers'"
  " T5ForConditionalGeneration or Qwen3ForCausalLM, as the backbone is, where"
  " these can express the model; saved_model, the search for TensorFlow, which"
  " pip install -e '.[saved_model]' brings.",
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  if not all(size.isdecimal() for size in BUCKETS.value):
    raise UserError(f"--buckets={','.join(BUCKETS.value)}: give whole numbers")
  # JAX announces every accelerator that it does not find.
  python_logging.getLogger("jax").setLevel(python_logging.WARNING)
  options = bundle.Options(
    tuple(map(int, BUCKETS.value)), LIST_WIDTH.value, TEXT_DTYPE.value
  )
  from_run.export(
    str(WORKDIR.value),
    str(OUT.value),
    SYSTEM.value,
    FORMATS.value,
    options,
    ROOM.value,
  )


if __name__ == "__main__":
  flags.mark_flags_as_required(["workdir", "out"])
  logging.set_verbosity(logging.INFO)
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)
