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
    ("qwen3_plain", MeshConfig(fsdp=2, tensor=2)),
    ("qwen3_fused", MeshConfig(fsdp=2, tensor=2)),
  ],
  ids=lambda x: x if isinstance(x, str) else "x".join(map(str, x.shape(8))),
)
def test_eight_devices_do_as_one(name, shape, capfd):
  sharded_systems.check(name, shape, capfd)


def test_only_a_fused_step_has_kernels():
  """Forward, forward again (remat), and the two of the gradient."""
  shape = MeshConfig(fsdp=2, tensor=2)
  fused = sharded_systems.lower_for_tpus("qwen3_fused", shape)
  assert fused.count("@tpu_custom_call") == 4
  plain = sharded_systems.lower_for_tpus("qwen3_plain", shape)
  assert "@tpu_custom_call" not in plain
