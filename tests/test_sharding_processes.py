"""Two processes share one mesh: each puts its own rows on its own devices."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Rows 0 to 3 are the first process's. Weights of the rows tell their order.
CHILD = """
import pathlib, sys
import jax, numpy as np
from holorec_jax import processes, sharding

address, process, answer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
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
# Eleven rows, of which the second process has five; one, of which it has none.
for count in (11, 1):
  all_rows = np.arange(2 * count).reshape(count, 2)
  mine = all_rows[processes.own_rows(count)]
  assert len(mine) == (count + 1 - process) // 2
  np.testing.assert_array_equal(processes.join_rows(mine, count), all_rows)
# Not printed: the transport between processes writes to stdout, too.
pathlib.Path(answer).write_text(str(int(weigh(rows))))
"""


def test_rows_of_two_processes_are_one_batch(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "PYTHONPATH": str(ROOT),
  }
  answers = [tmp_path / f"answer_{process}" for process in range(2)]
  children = [
    subprocess.Popen(
      [sys.executable, "-c", CHILD, address, str(process), str(answer)],
      env=environment,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process, answer in enumerate(answers)
  ]
  try:
    for child, answer in zip(children, answers, strict=True):
      _, error = child.communicate(timeout=120)
      assert child.returncode == 0, error
      assert answer.read_text() == "76543210"
  finally:
    for child in children:
      child.kill()
