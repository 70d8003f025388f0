"""Generators, their layers unrolled or scanned, on eight devices as on one."""

import jax
import numpy as np
import pytest
import sharded_systems

from holorec_jax.nn import grouped_attention
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


def test_eight_devices_make_scores_in_chunks(monkeypatch, capfd):
  """Each has its share of every chunk: no queries are sent for it."""
  batch = jax.tree.map(
    lambda x: np.pad(x, ((0, 0), (0, 2))), sharded_systems.make_batch("qwen3")
  )
  monkeypatch.setattr(sharded_systems, "make_batch", lambda name: batch)
  whole = sharded_systems.alone.__wrapped__("qwen3")
  monkeypatch.setattr(sharded_systems, "alone", lambda name: whole)
  # Of 16 rows and eight heads, where eight branches read as many tokens.
  quarter = 16 * 8 * 8 * 8 // 8 // 4
  monkeypatch.setattr(grouped_attention, "_MOST_SCORES", quarter)
  shape = MeshConfig(fsdp=2, sequence=2, tensor=2)
  sharded_systems.check("qwen3", shape, capfd)
  step, args, _ = sharded_systems.prepare("qwen3", 8, shape)
  assert "length=4" in str(step.trace(*args).jaxpr)


def test_only_a_fused_step_has_kernels():
  """Forward, forward again (remat), and the two of the gradient."""
  shape = MeshConfig(fsdp=2, tensor=2)
  fused = sharded_systems.lower_for_tpus("qwen3_fused", shape)
  assert fused.count("@tpu_custom_call") == 4
  plain = sharded_systems.lower_for_tpus("qwen3_plain", shape)
  assert "@tpu_custom_call" not in plain
