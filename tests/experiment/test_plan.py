"""A planned step against the step itself."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from tiny_run import TINY

from holorec_jax import sharding
from holorec_jax.data.pipeline import batch_shape
from holorec_jax.errors import UserError
from holorec_jax.experiment import absent_gpus, plan
from holorec_jax.experiment.made_up import random_catalog
from holorec_jax.experiment.systems import make_system
from holorec_jax.nn import fused_attention as fused
from holorec_jax.nn.attention import KeyValues
from holorec_jax.nn.grouped_attention import attend_history
from holorec_jax.sharding import MeshConfig
from holorec_jax.train import meter
from holorec_jax.train.optimizer import make_optimizer
from holorec_jax.train.step import init_state

MACHINE = plan.Machine(devices=8, tflops=2.0, mfu=0.5)
ITEMS = 50


def bytes_on(device, tree) -> int:
  """Of what really lies there."""
  return sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(tree)
    for shard in leaf.addressable_shards
    if shard.device == device
  )


def test_bytes_are_those_of_a_real_state():
  config = dataclasses.replace(TINY, mesh=MeshConfig(fsdp=4))
  planned = plan.make_plan(config, MACHINE, ITEMS)
  built = random_catalog(ITEMS, config)
  system = make_system(config, built, config.systems[0])
  mesh = sharding.make_mesh(shape=config.mesh)
  optimizer = make_optimizer(config.optim, 10)
  state = init_state(system.objective, optimizer, 0, mesh)
  device = jax.devices()[3]
  assert planned.parameter_bytes == bytes_on(device, state.params)
  assert planned.optimizer_bytes == bytes_on(device, state.opt_state)
  assert planned.average_bytes == bytes_on(device, state.average)
  leaves = jax.tree.leaves(state.params)
  assert planned.parameters == sum(leaf.size for leaf in leaves)
  # Stored in four shares, but for what four does not divide.
  share = planned.parameter_bytes / (4 * planned.parameters)
  assert 0.25 <= share < 0.6
  assert planned.mesh == dict(data=2, fsdp=4, sequence=1, tensor=1)
  assert planned.rows == batch_shape(config.input, 8)
  assert planned.collectives["all-gather"][0] > 0
  assert planned.flops > 6 * np.prod(planned.rows) * 1000
  assert planned.seconds == pytest.approx(planned.flops / (8 * 1e12))
  text = plan.describe(planned, MACHINE)
  assert f"parameters    {planned.parameters:,}" in text
  assert "data 2 x fsdp 4 x sequence 1 x tensor 1" in text


def test_parts_of_a_batch_are_planned_as_they_are_trained():
  """Also where the rows of eight devices are not divided by three."""
  whole = plan.make_plan(TINY, MACHINE, ITEMS)
  optim = dataclasses.replace(TINY.optim, accumulate=3)
  parts = plan.make_plan(dataclasses.replace(TINY, optim=optim), MACHINE, ITEMS)
  assert parts.rows == batch_shape(TINY.input, 3 * 8)
  assert parts.rows[0] % 24 == 0
  assert whole.rows == batch_shape(TINY.input, 8)


def test_what_does_not_fit_is_said():
  wide = dataclasses.replace(TINY, mesh=MeshConfig(fsdp=3))
  with pytest.raises(UserError, match=r"config\.mesh asks for .*fsdp 3"):
    plan.make_plan(wide, MACHINE, ITEMS)
  with pytest.raises(UserError, match=r"tell only \d+ items apart"):
    plan.make_plan(TINY, MACHINE, 10**9)


def test_gpus_that_are_not_here_are_described_to_xla():
  fields = dict(
    line.strip().split(": ", 1)
    for line in absent_gpus.target_config(absent_gpus.GPUS["a100"]).splitlines()
    if ": " in line and "{" not in line
  )
  assert fields["core_count"] == "108"
  assert fields["fpus_per_core"] == "64"
  assert fields["shared_memory_per_core"] == "167936"
  assert fields["l2_cache_size"] == "41943040"
  assert fields["device_memory_size"] == "85899345920"
  assert fields["platform_name"] == '"CUDA"'
  hopper = absent_gpus.target_config(absent_gpus.GPUS["h200"])
  assert "cuda_compute_capability { major: 9 minor: 0 }" in hopper
  for gpu in absent_gpus.GPUS.values():
    assert meter.peak_of(gpu.name) is not None


def test_eight_gpus_share_a_host(monkeypatch):
  asked = []

  def answer(**options):
    asked.append(options["topology"])
    return types.SimpleNamespace(devices=())

  monkeypatch.setattr(absent_gpus.topologies, "get_topology_desc", answer)
  for count in (1, 7, 8, 64):
    absent_gpus.find_devices("h100", count)
  assert asked == ["1x1x1", "1x1x7", "1x1x8", "1x8x8"]


def test_gpus_that_are_not_here_need_the_plugin(monkeypatch):
  monkeypatch.setattr(absent_gpus, "_PLUGINS", ("jax_plugins.of_nobody",))

  def unknown(**options):
    assert options["topology"] == "1x1x2"
    assert 'description_str: "NVIDIA H200"' in options["target_config"]
    raise NotImplementedError

  monkeypatch.setattr(absent_gpus.topologies, "get_topology_desc", unknown)
  with pytest.raises(UserError, match=r"pip install 'jax\[cuda13\]=="):
    plan.make_plan(TINY, plan.Machine(2, 989.0, 0.4, "h200"), ITEMS)
  with pytest.raises(UserError, match="12 GPUs would leave a host of 8 partly"):
    absent_gpus.find_devices("h200", 12)


@pytest.mark.parametrize("devices", [1, 16])
def test_a_step_is_planned_for_gpus_that_are_not_here(devices):
  """Where JAX's CUDA plugin is: pip install 'jax[cuda13]'."""
  pytest.importorskip("jax_plugins.xla_cuda13")
  config = dataclasses.replace(TINY, mesh=MeshConfig(fsdp=devices))
  machine = plan.Machine(devices, 989.0, 0.4, "h100")
  planned = plan.make_plan(config, machine, ITEMS)
  assert planned.temporary_bytes > 0
  assert ("all-gather" in planned.collectives) == (devices > 1)
  sizes = {"data": 1, "fsdp": devices, "sequence": 1, "tensor": 1}
  assert planned.mesh == sizes
  assert "of 79.647 GiB" in plan.describe(planned, machine)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_kernel_of_gpus_that_are_not_here_keeps_no_scores(dtype):
  """Where JAX's CUDA plugin is: pip install 'jax[cuda13]'."""
  pytest.importorskip("jax_plugins.xla_cuda13")
  mesh = sharding.make_mesh(
    absent_gpus.find_devices("a100", 4), MeshConfig(fsdp=2, tensor=2)
  )
  B, C, H, K = 8, 1024, 8, 128

  def spec(kind, *shape):
    return jax.ShapeDtypeStruct(shape, kind, sharding=sharding.by_row(mesh))

  def peak(attend) -> int:
    def loss(query, own, segment):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return attend(query, own, segment).astype(np.float32).sum()

    args = (
      spec(dtype, B, C, H, K),
      KeyValues(*[spec(dtype, B, C, H // 2, K)] * 2),
      spec(np.int32, B, C),
    )
    step = jax.jit(jax.grad(loss, (0, 1))).trace(*args)
    compiled = step.lower(lowering_platforms=("cuda",)).compile(
      compiler_options=absent_gpus.COMPILER_OPTIONS
    )
    kernels = compiled.as_text().count("__gpu$xla.gpu.triton")
    assert kernels == (3 if attend is fused.attend else 0)
    return compiled.memory_analysis().temp_size_in_bytes

  # Of a device: rows of half the devices, heads of the others.
  scores = (B // 2) * (H // 2) * C * C * 4
  assert peak(fused.attend) < scores < peak(attend_history)
