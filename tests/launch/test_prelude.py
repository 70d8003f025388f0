"""Memory that a program frees and asks for again comes from the process."""

import ast
import ctypes
import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
# A call of `double` needs 64 MiB for its result: 16,384 pages of 4 KiB.
FAULTS = """
import resource
{first}
import jax
import jax.numpy as jnp

double = jax.jit(lambda x: 2 * x)
x = jnp.ones(2**24)
for _ in range(5):
  double(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
  double(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(first: str) -> int:
  ran = subprocess.run(
    [sys.executable, "-c", FAULTS.format(first=first)],
    cwd=LAUNCH,
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  return int(ran.stdout)


@pytest.mark.skipif(
  not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's malloc is meant"
)
@pytest.mark.parametrize("first", ["import prelude", "import stage"])
def test_calls_get_their_buffers_without_page_faults(first):
  assert count_faults(first) < 2_000


@pytest.mark.parametrize(
  "script",
  [
    path.name
    for path in sorted(LAUNCH.glob("*.py"))
    if path.stem not in ("prelude", "stage", "status")
  ],
)
def test_every_script_begins_with_it(script):
  tree = ast.parse((LAUNCH / script).read_text())
  names = [
    node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
    for node in tree.body
    if isinstance(node, ast.Import | ast.ImportFrom)
  ]
  roots = [name.split(".")[0] for name in names]
  others = [root for root in roots if root not in sys.stdlib_module_names]
  assert others[0] in ("prelude", "stage")
