"""Two processes share one mesh: each puts its own rows on its own devices."""

from pair import run_pair

# Rows 0 to 3 are the first process's. Weights of the rows tell their order.
SCRIPT = """
import pathlib
import numpy as np
from holorec_jax import processes, sharding

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
# What both have is put where it belongs, none of it sent.
places = {name: jax.NamedSharding(mesh, jax.P(name)) for name in ("fsdp", None)}
known = {"x": np.arange(8.0, dtype=np.float32), "y": np.arange(4)}
for place in places.values():
  for name, leaf in sharding.put(known, place).items():
    assert leaf.sharding == place
    for shard in leaf.addressable_shards:
      np.testing.assert_array_equal(shard.data, known[name][shard.index])
# Eleven rows, of which the second process has five; one, of which it has none.
for count in (11, 1):
  all_rows = np.arange(2 * count).reshape(count, 2)
  mine = all_rows[processes.own_rows(count)]
  assert len(mine) == (count + 1 - process) // 2
  np.testing.assert_array_equal(processes.join_rows(mine, count), all_rows)
# Not printed: the transport between processes writes to stdout, too.
answer = pathlib.Path(sys.argv[1]) / f"answer_{process}"
answer.write_text(str(int(weigh(rows))))
"""


def test_rows_of_two_processes_are_one_batch(tmp_path):
  run_pair(SCRIPT, 4, tmp_path)
  for process in range(2):
    assert (tmp_path / f"answer_{process}").read_text() == "76543210"
