"""Two processes of one cluster that run a script together."""

import os
import pathlib
import socket
import subprocess
import sys

from quick_xla import xla_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run_pair(script: str, devices: int, *args: str | pathlib.Path) -> None:
  """Runs it, and fails as either of them does.

  Args:
    script: Python; finds the arguments behind its process's number. It may
      import what lies in tests/.
    devices: of each process.
    *args: for both.
  """
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": xla_flags(devices),
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
  }
  children = [
    subprocess.Popen(
      [sys.executable, "-c", _JOIN + script, address, str(i), *map(str, args)],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    for child in children:
      _, error = child.communicate(timeout=200)
      assert child.returncode == 0, error
  finally:
    for child in children:
      child.kill()


_JOIN = """
import sys
import jax
address, process = sys.argv.pop(1), int(sys.argv.pop(1))
jax.distributed.initialize(address, num_processes=2, process_id=process)
"""
