"""Scripts run as from a shell, but what they import is imported once."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Importing JAX takes seconds; a fork of who has it takes none.
_DRIVER = """
import importlib, json, os, runpy, sys
folder, *modules = sys.argv[1:]
sys.path[0] = "launch"
for module in modules:
  importlib.import_module(module)
with open(f"{folder}/calls.json") as file:
  calls = json.load(file)
for number, (script, *args) in enumerate(calls):
  child = os.fork()
  if not child:
    for descriptor, name in ((1, "out"), (2, "err")):
      path = f"{folder}/{number}.{name}"
      os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
    sys.argv = [f"launch/{script}", *args]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def call_all(
  folder: pathlib.Path,
  calls: Sequence[Sequence[str]],
  modules: Sequence[str],
  env: Mapping[str, str] | None = None,
) -> list[subprocess.CompletedProcess]:
  """Calls scripts of launch/, one after the other.

  Args:
    folder: gets what they print.
    calls: name and arguments of each.
    modules: that are imported before; none of them may start a backend.
    env: of them all; None: this process's.
  """
  (folder / "calls.json").write_text(json.dumps(calls))
  driver = subprocess.run(
    [sys.executable, "-c", _DRIVER, folder, *modules],
    cwd=ROOT,
    env=os.environ if env is None else env,
    capture_output=True,
    text=True,
  )
  assert driver.returncode == 0, driver.stderr
  statuses = map(int, driver.stdout.split())
  return [
    subprocess.CompletedProcess(
      args,
      status,
      *((folder / f"{number}.{name}").read_text() for name in ("out", "err")),
    )
    for number, (args, status) in enumerate(zip(calls, statuses, strict=True))
  ]
