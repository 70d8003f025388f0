"""Generators, their layers unrolled or scanned, on eight devices as on one."""

import pytest
import sharded_systems

from holorec_jax.sharding import MeshConfig


@pytest.mark.parametrize(
  "name, shape",
  [
    ("holorec", MeshConfig(fsdp=4)),
    ("scanned", MeshConfig(fsdp=2, sequence=2, tensor=2)),
    ("few", MeshConfig(fsdp=2, tensor=2)),
    ("qwen3", MeshConfig(fsdp=2, sequence=2, tensor=2)),
    ("qwen3_fused", MeshConfig(fsdp=2, tensor=2)),
  ],
  ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x.shape(8))),
)
def test_eight_devices_do_as_one(name, shape, capfd):
  sharded_systems.check(name, shape, capfd)
