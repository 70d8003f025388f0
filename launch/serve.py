r"""Serves an exported bundle over HTTP.

  python launch/serve.py --bundle=BUNDLE --port=8000
  curl -X POST localhost:8000/recommend -H "content-type: application/json" \
    -d '{"history": ["item7", "item42"], "k": 5, "exclude_seen": true}'

GET /docs describes all requests; /health, /health/ready and /metrics are for
those who watch. SIGTERM answers what has arrived and ends; SIGHUP, as POST
/admin/swap, replaces the bundle by what its folder holds by then, such as a
link that points elsewhere. Needs pip install -e '.[serve]'.

  python launch/serve.py --bundle=BUNDLE --self_check

loads it, asks it, prints a line for each check and exits with status 0 or 2.
"""

import pathlib

import prelude  # noqa: F401
import status
from absl import app, flags

from holorec_jax import config_fields
from holorec_jax.errors import UserError

with status.needs("serve"):
  from holorec_jax.serve import logs, self_check, server
  from holorec_jax.serve.service import QueueConfig

BUNDLE = flags.DEFINE_string(
  "bundle", None, "Folder written by launch/export.py.", required=True
)
DELTAS = flags.DEFINE_list(
  "deltas",
  [],
  "Folders of item deltas (launch/add_items.py) to apply to the bundle, in"
  " order.",
)
HOST = flags.DEFINE_string(
  "host", "127.0.0.1", "Address to listen on; 0.0.0.0 is the whole network."
)
PORT = flags.DEFINE_integer("port", 8000, "Port to listen on; 0: any free one.")
TOKEN_FILE = flags.DEFINE_string(
  "token_file",
  None,
  "File with the bearer token that callers need. Without one anyone who reaches"
  " the port may ask, and nobody may use /admin.",
)
COMPILE_CACHE = flags.DEFINE_string(
  "compile_cache",
  None,
  "Folder where jax keeps compiled programs for the next start.",
)
DEADLINE = flags.DEFINE_float(
  "deadline", 5.0, "Seconds until a request is answered 503.", lower_bound=0.001
)
QUEUE = flags.DEFINE_integer(
  "queue",
  4,
  "Requests that may wait, in batches of the largest size; more get 429.",
  lower_bound=1,
)
LOG_REQUESTS = flags.DEFINE_bool(
  "log_requests", False, "Log answers and shed load too, not only what is odd."
)
SELF_CHECK = flags.DEFINE_bool("self_check", False, "Only check the bundle.")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  logs.configure(LOG_REQUESTS.value)
  if COMPILE_CACHE.value:
    server.keep_compiled(COMPILE_CACHE.value)
  if SELF_CHECK.value:
    self_check.check(BUNDLE.value, deltas=DELTAS.value)
    return
  queue = QueueConfig(QUEUE.value, DEADLINE.value)
  server.serve(
    BUNDLE.value, HOST.value, PORT.value, _token(), queue, DELTAS.value
  )


def _token() -> str | None:
  if TOKEN_FILE.value is None:
    return None
  try:
    token = pathlib.Path(TOKEN_FILE.value).read_text("utf-8").strip()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"--token_file cannot be read: {error}") from None
  if not token:
    raise UserError(f"--token_file: {TOKEN_FILE.value} is empty")
  return token


if __name__ == "__main__":
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)
