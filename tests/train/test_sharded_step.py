"""SASRec, S2GR, sets of codes and thoughts on eight devices as on one."""

import jax
import numpy as np
import pytest
import sharded_systems

from holorec_jax import sharding
from holorec_jax.sharding import MeshConfig
from holorec_jax.train.optimizer import OptimConfig, make_optimizer


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


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("adamw", "few"),
    ("adafactor", "few"),
    ("muon", "few"),
    ("muon", "qwen3_plain"),  # of stacked layers
  ],
)
def test_every_optimizer_steps_as_on_one_device(kind, name):
  optimizer = make_optimizer(OptimConfig(name=kind), 10)
  shapes = {1: MeshConfig(), 8: MeshConfig(fsdp=2, tensor=2)}
  states = []
  for devices, shape in shapes.items():
    step, args, _ = sharded_systems.prepare(name, devices, shape, optimizer)
    state, *batch = args
    before = jax.device_get(state.params)
    for _ in range(3):  # The first has no learning rate yet.
      state, _ = step(state, *batch)
    states.append(jax.device_get(state))
    moved = jax.tree.map(
      lambda x, y: abs(x - y).max(), before, states[-1].params
    )
    assert max(jax.tree.leaves(moved)) > 1e-4
  lone, ours = states
  for x, y in zip(jax.tree.leaves(ours.params), jax.tree.leaves(lone.params)):
    np.testing.assert_allclose(x, y, atol=1e-6)


def test_muon_gathers_no_more_than_others():
  """Its matrices are sent once to the device of their layer, and back."""
  sent = {}
  for kind in ("adamw", "muon"):
    optimizer = make_optimizer(OptimConfig(name=kind), 10)
    shape = MeshConfig(fsdp=8)
    step, args, _ = sharded_systems.prepare("qwen3_plain", 8, shape, optimizer)
    found = sharding.list_collectives(step.lower(*args).compile())
    sent[kind] = {
      kind: sorted(each.shapes for each in found if each.kind == kind)
      for kind in ("all-gather", "all-reduce", "all-to-all")
    }
  assert sent["adamw"]["all-gather"] == sent["muon"]["all-gather"]
  assert not sent["adamw"]["all-to-all"]
  # Gradients, momenta, updates of seven kernels, there or back.
  assert len(sent["muon"]["all-to-all"]) <= 7 * 5
