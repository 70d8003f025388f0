"""Shows a finished run in a browser: recommendations, thoughts, the code tree.

  python launch/explore.py --workdir=RUN
  python launch/explore.py --workdir=RUN --system=non_thinking --port=8001

Type items or pick a user, and see what follows and why; walk through the tree
of codes. The page listens on this machine alone and loads nothing from
elsewhere. Of another machine: ssh -L 8001:localhost:8001 MACHINE. Ends with
Ctrl-C. Needs pip install -e '.[serve]'.
"""

import contextlib
import logging as python_logging
import socket

import prelude  # noqa: F401
import status
from absl import app, flags, logging

from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.experiment import recommendation
from holorec_jax.explore.explorer import Explorer

with status.needs("serve"):
  import uvicorn

  from holorec_jax.explore.app import make_app

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the finished run.")
SYSTEM = flags.DEFINE_string(
  "system",
  "",
  "Which system; empty: the headline; aligned: that, after launch/align.py.",
)
PORT = flags.DEFINE_integer("port", 8001, "Port to listen on; 0: any free one.")
HOST = "127.0.0.1"


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  # JAX announces every accelerator that it does not find.
  python_logging.getLogger("jax").setLevel(python_logging.WARNING)
  listener = _listen(PORT.value)
  run = recommendation.open_run(str(WORKDIR.value), SYSTEM.value)
  config = uvicorn.Config(
    make_app(Explorer(run)), log_level="warning", lifespan="off", ws="none"
  )
  print(f"http://{HOST}:{listener.getsockname()[1]}", flush=True)
  with contextlib.suppress(KeyboardInterrupt):
    uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int) -> socket.socket:
  try:
    return socket.create_server((HOST, port))
  except (OSError, OverflowError) as error:
    raise UserError(
      f"cannot listen on port {port} ({error}): choose another --port"
    ) from None


if __name__ == "__main__":
  flags.mark_flags_as_required(["workdir"])
  logging.set_verbosity(logging.INFO)
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)
