"""Measures a server of a bundle under load, on this machine.

  python launch/load_test.py --bundle=BUNDLE --out=load.json

Starts launch/serve.py and measures, a row each: what it answers at most, beside
the same search in this process; latency at --share of that; and statuses and
memory at twice that. Compares every answer with the bundle's own, and exits
with status 1 if one was wrong or an unforeseen status came. Client and server
share the machine. What a row holds is told in holorec_jax/serve/load.py.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import memory
from absl import app, flags

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.export import runtime
from holorec_jax.serve import load, server
from holorec_jax.serve.load_client import Client

SERVE = pathlib.Path(__file__).resolve().parent / "serve.py"
BUNDLE = flags.DEFINE_string("bundle", None, "The bundle.", required=True)
OUT = flags.DEFINE_string("out", None, "JSON file for all rows; none if empty.")
SECONDS = flags.DEFINE_float(
  "seconds", 20.0, "Of the phases capacity and steady.", lower_bound=0.1
)
OVERLOAD = flags.DEFINE_float(
  "overload_seconds", 20.0, "Of the phase overload.", lower_bound=0.1
)
COMPILE_CACHE = flags.DEFINE_string(
  "compile_cache",
  None,
  "Folder where jax keeps compiled programs, here and in the server.",
)
SHARE = flags.DEFINE_float("share", 0.7, "Steady load, of the capacity.")
EXPECTED = {"200", "429", "503"}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  memory.keep_freed()
  if COMPILE_CACHE.value:
    server.keep_compiled(COMPILE_CACHE.value)
  try:
    bundle = runtime.load(BUNDLE.value)
  except runtime.BundleError as error:
    raise UserError(str(error)) from error
  with start_server() as port:
    result = asyncio.run(measure(bundle, port))
  if OUT.value:
    artifacts.write_json(OUT.value, result)
  phases = [result[name] for name in ("capacity", "steady", "overload")]
  statuses = {status for row in phases for status in row["statuses"]}
  if any(row["wrong"] for row in phases) or statuses - EXPECTED:
    sys.exit(1)


async def measure(bundle: runtime.Bundle, port: int) -> dict[str, Any]:
  """All phases, printed as they come."""
  client = Client("127.0.0.1", port)
  test = load.LoadTest(client, bundle)
  result: dict[str, Any] = {"bundle": bundle.manifest["content"]}

  def add(name, found):
    result[name] = found
    print(name, json.dumps(found, indent=2), flush=True)

  add("in_process", test.in_process(SECONDS.value / 10))
  best = max(result["in_process"], key=lambda row: row["users_per_second"])
  add("capacity", await test.capacity(best["batch"], SECONDS.value))
  rate = result["capacity"]["answered_per_second"]
  steady = await test.steady(SHARE.value * rate, SECONDS.value)
  largest = result["in_process"][-1]["seconds"]
  steady["p99_in_largest_batches"] = steady["p99_seconds"] / largest
  add("steady", steady)
  add("overload", await test.overload(2 * rate, OVERLOAD.value))
  client.close()
  return result


@contextlib.contextmanager
def start_server() -> Iterator[int]:
  """The port of a server that is ready; stops it in the end."""
  command = [sys.executable, str(SERVE), "--port=0"]
  command.append(f"--bundle={BUNDLE.value}")
  if COMPILE_CACHE.value:
    command.append(f"--compile_cache={COMPILE_CACHE.value}")
  with tempfile.NamedTemporaryFile() as log:
    process = subprocess.Popen(command, stderr=log)
    try:
      while not (ready := _events(log.name)).get("ready"):
        if process.poll() is not None:
          raise UserError(pathlib.Path(log.name).read_text()[-2000:])
        time.sleep(0.2)
      yield ready["listening"]["port"]
    finally:
      process.terminate()
      process.wait()


def _events(path: str) -> dict[str, dict]:
  lines = pathlib.Path(path).read_text().splitlines()
  events = [json.loads(line) for line in lines if line.startswith("{")]
  return {event["event"]: event for event in events}


if __name__ == "__main__":
  try:
    app.run(main)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
