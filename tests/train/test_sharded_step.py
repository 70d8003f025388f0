"""SASRec, S2GR, sets of codes and thoughts on eight devices as on one."""

import pytest
import sharded_systems

from holorec_jax.sharding import MeshConfig


@pytest.mark.parametrize(
  "name, shape",
  [
    ("sasrec", MeshConfig()),
    ("sasrec", MeshConfig(fsdp=4)),
    ("sasrec", MeshConfig(fsdp=2, tensor=2)),
    ("sasrec", MeshConfig(sequence=2)),
    ("sasrec", MeshConfig(tensor=8)),
    ("pause", MeshConfig(tensor=8)),
    ("s2gr", MeshConfig()),
    ("s2gr", MeshConfig(fsdp=2, sequence=2, tensor=2)),
    ("set", MeshConfig(fsdp=2, sequence=2, tensor=2)),
  ],
  ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x.shape(8))),
)
def test_eight_devices_do_as_one(name, shape, capfd):
  sharded_systems.check(name, shape, capfd)
