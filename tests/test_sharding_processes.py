"""Two processes share one mesh: each puts its own rows on its own devices."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Rows 0 to 3 are the first process's. Weights of the rows tell their order.
CHILD = """
import sys
import jax, numpy as np
from holorec_jax import sharding

address, process = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, num_processes=2, process_id=process)
mesh = sharding.make_mesh(shape=sharding.MeshConfig(fsdp=2, tensor=2))
own = np.arange(4, dtype=np.int32) + 4 * process
rows = sharding.put_rows({"x": own}, mesh)["x"]
assert rows.shape == (8,)
for shard in rows.addressable_shards:
  np.testing.assert_array_equal(shard.data, np.arange(8)[shard.index])
weigh = jax.jit(
  lambda x: (x * 10 ** np.arange(8, dtype=np.int32)).sum(),
  out_shardings=sharding.replicated(mesh),
)
print("sum", int(weigh(rows)))
"""


def test_rows_of_two_processes_are_one_batch():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "PYTHONPATH": str(ROOT),
  }
  children = [
    subprocess.Popen(
      [sys.executable, "-c", CHILD, address, str(process)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  try:
    for child in children:
      output, error = child.communicate(timeout=120)
      assert child.returncode == 0, error
      assert output.split()[-2:] == ["sum", "76543210"]
  finally:
    for child in children:
      child.kill()
