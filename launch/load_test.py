"""Measures a server of a bundle under load, on this machine.

  python launch/load_test.py --bundle=BUNDLE --out=load.json

Starts launch/serve.py and measures, a row each: what it answers at most, beside
the same search in this process; latency at --share of that; and statuses and
memory at twice that. Compares every answer with the bundle's own, and exits
with status 1 if one was wrong or an unforeseen status came. Client and server
share the machine. What a row holds is told in holorec_jax/serve/load.py.

  python launch/load_test.py --bundle=BUNDLE --faults=5

instead kills the server so many times under load, some --seconds apart, while
bundles are swapped and visitors misuse it (holorec_jax/serve/faults.py).
"""

import asyncio
import json
import pathlib
import secrets
import sys
import tempfile
from typing import Any

import prelude  # noqa: F401
import status
from absl import app, flags

from holorec_jax import artifacts, config_fields
from holorec_jax.errors import UserError
from holorec_jax.export import runtime

with status.needs("serve"):
  from uvicorn.loops.auto import auto_loop_factory

  from holorec_jax.serve import faults, load, server
  from holorec_jax.serve.child import ServerProcess
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
FAULTS = flags.DEFINE_integer(
  "faults", 0, "Only kill the server so many times under load.", lower_bound=0
)
SHARE = flags.DEFINE_float("share", 0.7, "Steady load, of the capacity.")
EXPECTED = {"200", "429", "503"}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  if COMPILE_CACHE.value:
    server.keep_compiled(COMPILE_CACHE.value)
  try:
    bundle = runtime.load(BUNDLE.value)
  except runtime.BundleError as error:
    raise UserError(str(error)) from error
  if FAULTS.value:
    result = misuse(bundle)
    clean = faults.is_clean(result["faults"])
  else:
    # The server's event loop: the client takes cores from the server, too.
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
      result = runner.run(measure(bundle))
    phases = [result[name] for name in ("capacity", "steady", "overload")]
    statuses = {status for row in phases for status in row["statuses"]}
    clean = not any(row["wrong"] for row in phases) and statuses <= EXPECTED
  if OUT.value:
    artifacts.write_json(OUT.value, result)
  if not clean:
    sys.exit(1)


async def measure(bundle: runtime.Bundle) -> dict[str, Any]:
  """All phases, printed as they come."""
  process = ServerProcess(command())
  try:
    await process.start()
    client = Client("127.0.0.1", process.port)
    result = await measure_phases(load.LoadTest(client, bundle))
    client.close()
    return result
  finally:
    process.stop()


async def measure_phases(test: load.LoadTest) -> dict[str, Any]:
  result: dict[str, Any] = {"bundle": test.bundle.manifest["content"]}

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
  return result


def misuse(bundle: runtime.Bundle) -> dict[str, Any]:
  """The row of kills, printed."""
  with tempfile.TemporaryDirectory() as name:
    folder, token = pathlib.Path(name), secrets.token_hex()
    (folder / "token").write_text(token)
    scene = faults.set_scene(bundle, folder)
    visitors = faults.make_visitors(bundle, scene, token)
    process = ServerProcess(command(f"--token_file={folder / 'token'}"))
    try:
      test = faults.FaultTest(process, visitors, users=max(bundle.buckets))
      row = asyncio.run(test.run(FAULTS.value, SECONDS.value))
    finally:
      process.stop()
  print("faults", json.dumps(row, indent=2))
  return {"bundle": bundle.manifest["content"], "faults": row}


def command(*flags_: str) -> list[str]:
  """That serves the bundle."""
  found = [sys.executable, str(SERVE), f"--bundle={BUNDLE.value}", *flags_]
  if COMPILE_CACHE.value:
    found.append(f"--compile_cache={COMPILE_CACHE.value}")
  return found


if __name__ == "__main__":
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)
