"""The mesh, the rules for parameters, and what is read from HLO."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.sharding import MeshConfig
from holorec_jax.sharding.collectives import read_collectives

P = PartitionSpec
MESH = sharding.make_mesh(shape=MeshConfig(fsdp=2, tensor=2))


def specs(tree):
  return jax.tree.map(lambda place: place.spec, tree)


def shapes(**leaves):
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in leaves.items()}


def test_all_devices_share_the_rows_unless_told_otherwise():
  mesh = sharding.make_mesh()
  assert dict(mesh.shape) == dict(data=8, fsdp=1, sequence=1, tensor=1)
  assert sharding.by_row(mesh).spec == P("data")
  assert sharding.row_shards(mesh) == 8
  assert dict(MESH.shape) == dict(data=2, fsdp=2, sequence=1, tensor=2)
  assert sharding.by_row(MESH).spec == P(("data", "fsdp"))
  assert sharding.row_shards(MESH) == 4


@dataclasses.dataclass(frozen=True)
class Absent:
  """A device of a pod that is not here."""

  process_index: int
  id: int
  slice_index: int | None = None
  platform: str = "tpu"


@pytest.mark.parametrize(
  "shape", [dict(), dict(fsdp=8), dict(fsdp=2, tensor=4), dict(fsdp=16)]
)
def test_a_pod_of_several_slices(shape):
  """Eight nodes, a slice each; ids that run across processes; any order."""
  devices = [
    Absent(node, 8 * k + node, node) for k in range(8) for node in range(8)
  ]
  mesh = sharding.make_mesh(devices[::-1], MeshConfig(**shape))
  lie = [(device.process_index, device.id) for device in mesh.devices.flat]
  assert lie == sorted(lie)
  # Processes of one slice, such as a TPU's, as if there were none.
  one = [dataclasses.replace(device, slice_index=None) for device in devices]
  assert lie == [
    (device.process_index, device.id)
    for device in sharding.make_mesh(one, MeshConfig(**shape)).devices.flat
  ]


def test_rows_lie_in_order():
  rows = sharding.put_rows({"x": np.arange(8.0)}, MESH)["x"]
  np.testing.assert_array_equal(rows, np.arange(8.0))
  held = {tuple(shard.data.tolist()) for shard in rows.addressable_shards}
  assert held == {(0, 1), (2, 3), (4, 5), (6, 7)}


@pytest.mark.parametrize(
  "shape, message",
  [
    (dict(fsdp=3), "fsdp 3 x sequence 1 x tensor 1, but there are 8 devices"),
    (dict(fsdp=4, tensor=4), "fsdp 4 x sequence 1 x tensor 4, but there are 8"),
    (dict(data=3, fsdp=2), "data 3 x fsdp 2 x sequence 1 x tensor 1, but"),
    # Devices that nobody uses are a mistake, too.
    (dict(data=2, fsdp=2), "data 2 x fsdp 2 x sequence 1 x tensor 1, but"),
    (dict(sequence=3), "fsdp 1 x sequence 3 x tensor 1, but there are 8"),
    (dict(data=0), "config.mesh.data is 0"),
    (dict(tensor=0), "config.mesh.tensor is 0"),
  ],
)
def test_meshes_that_do_not_fit(shape, message):
  with pytest.raises(UserError, match=message):
    sharding.make_mesh(shape=MeshConfig(**shape))


def test_parameters_by_the_end_of_their_path():
  kernels = shapes(kernel=(4, 8))
  params = {
    "attention": {"query": kernels, "output": kernels},
    # Axes are those of the last dimensions: layers, levels and so on are whole.
    "layers": {"mlp": {"wi": shapes(kernel=(3, 4, 8))}},
    "norm": shapes(scale=(4,)),
    **shapes(code_embedding=(2, 6, 4), align_head=(1, 2, 4, 6), bos=(4,)),
  }
  assert specs(sharding.param_shardings(params, MESH)) == {
    "attention": {
      "query": {"kernel": P("fsdp", "tensor")},
      "output": {"kernel": P("tensor", "fsdp")},
    },
    "layers": {"mlp": {"wi": {"kernel": P(None, "fsdp", "tensor")}}},
    "norm": {"scale": P()},
    "code_embedding": P(None, "tensor", "fsdp"),
    "align_head": P(None, None, "fsdp", "tensor"),
    "bos": P(),
  }


def test_what_does_not_divide_is_whole_and_said_once(caplog):
  params = shapes(code_embedding=(2, 7, 4))
  with caplog.at_level(logging.WARNING):
    for _ in range(3):
      placed = specs(sharding.param_shardings(params, MESH))
  assert placed == {"code_embedding": P(None, None, "fsdp")}
  (record,) = caplog.records
  assert "code_embedding: a dimension of 7 is whole" in record.getMessage()
  table = jax.device_put(
    np.zeros((2, 7, 4)), NamedSharding(MESH, placed["code_embedding"])
  )
  assert table.addressable_shards[0].data.shape == (2, 7, 2)


def test_an_axis_of_one_device_splits_nothing():
  params = {"wi": shapes(kernel=(5, 7))}
  placed = sharding.param_shardings(params, sharding.make_mesh())
  assert specs(placed) == {"wi": {"kernel": P()}}


def test_a_state_lies_as_its_parameters():
  params = {"wi": shapes(kernel=(4, 8)), "wo": shapes(kernel=(8, 4))}
  state = (
    {"mu": params, "count": jax.ShapeDtypeStruct((), jnp.int32)},
    # Adafactor's rows, columns and placeholders.
    {"row": {"wi": shapes(kernel=(4,)), "wo": shapes(kernel=(8,))}},
    {"column": {"wi": shapes(kernel=(8,)), "wo": shapes(kernel=(1,))}},
  )
  assert specs(sharding.shardings_like(state, params, MESH)) == (
    {
      "mu": {
        "wi": {"kernel": P("fsdp", "tensor")},
        "wo": {"kernel": P("tensor", "fsdp")},
      },
      "count": P(),
    },
    {"row": {"wi": {"kernel": P("fsdp")}, "wo": {"kernel": P("tensor")}}},
    {"column": {"wi": {"kernel": P("tensor")}, "wo": {"kernel": P()}}},
  )


def test_constrained_parameters_are_gathered_and_their_gradients_are_not():
  kernel = np.arange(32.0).reshape(4, 8)
  params = {
    "wi": {"kernel": kernel},
    "layers": {"wi": {"kernel": kernel[None]}},
  }
  placed = sharding.param_shardings(params, MESH)

  def run(params):
    with jax.sharding.use_abstract_mesh(MESH.abstract_mesh):
      used, back = jax.vjp(sharding.constrain, params)
      (gradient,) = back(jax.tree.map(jnp.ones_like, used))
      return used, gradient

  used, gradient = jax.jit(run, in_shardings=(placed,))(params)
  assert used["wi"]["kernel"].sharding.spec == P(None, "tensor")
  assert gradient["wi"]["kernel"].sharding.spec == P("fsdp", "tensor")
  # Layers are gathered one by one, by the loop that goes through them.
  stacked = used["layers"]["wi"]["kernel"]
  assert stacked.sharding.spec == P(None, "fsdp", "tensor")
  np.testing.assert_array_equal(used["wi"]["kernel"], kernel)


def test_without_a_mesh_nothing_is_constrained():
  params = {"wi": {"kernel": np.ones((3, 5))}}
  assert sharding.constrain(params) is params


def test_collectives_by_name_and_size():
  row = NamedSharding(MESH, P("data"))
  whole = sharding.replicated(MESH)

  def run(x, y):
    return jax.lax.with_sharding_constraint(x * 2, whole), y.sum()

  args = np.ones((8, 3), np.float32), np.ones((8, 5), np.float32)
  compiled = jax.jit(run, in_shardings=(row, row)).lower(*args).compile()
  assert sharding.collectives(compiled) == {"all-gather": 1, "all-reduce": 1}
  found = {each.kind: each for each in sharding.list_collectives(compiled)}
  assert found["all-gather"].shapes == ((8, 3),)
  assert found["all-gather"].bytes == 8 * 3 * 4
  assert found["all-reduce"].bytes == 4
  alone = jax.jit(lambda x: x + 1).lower(args[0]).compile()
  assert sharding.collectives(alone) == {}


def test_collectives_of_loops_count_their_turns():
  """Three turns with five in each, and one behind them."""
  row = NamedSharding(MESH, P("data"))
  whole = sharding.replicated(MESH)

  def gather(x, _):
    seen = jax.lax.with_sharding_constraint(x, whole)
    return jax.lax.with_sharding_constraint(x * seen.sum(0), row), None

  def outer(x, _):
    return jax.lax.scan(gather, x, length=5)

  def run(x):
    return jax.lax.with_sharding_constraint(
      jax.lax.scan(outer, x, length=3)[0], whole
    )

  compiled = jax.jit(run, in_shardings=row).lower(np.ones((8, 3))).compile()
  found = sharding.list_collectives(compiled)
  assert sorted(each.times for each in found) == [1, 15]


def test_tokens_are_shared_out_and_gathered():
  mesh = sharding.make_mesh(shape=MeshConfig(fsdp=2, sequence=2, tensor=2))
  rows = sharding.put_rows(np.arange(32.0).reshape(2, 8, 2), mesh)

  def run(x_BTD):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      assert sharding.tokens_are_split()
      split = sharding.split_tokens({"x": x_BTD})["x"]
      # Nothing can have a share of seven.
      odd = sharding.split_tokens(x_BTD[:, :7])
      return split, sharding.whole_tokens(split, 1), odd

  split, whole, odd = jax.jit(run)(rows)
  held = {shard.data.shape for shard in split.addressable_shards}
  assert held == {(1, 4, 2)}
  assert {shard.data.shape for shard in whole.addressable_shards} == {(1, 8, 2)}
  for found in (split, whole):
    np.testing.assert_array_equal(found, rows)
  np.testing.assert_array_equal(odd, rows[:, :7])
  assert not sharding.tokens_are_split()
  assert sharding.split_tokens(rows) is rows


def test_what_a_collective_was_given_is_not_counted():
  hlo = """
  %a = (f32[1,8]{1,0}, f32[4,8]{1,0}) all-gather-start(%x), dimensions={0}
  %b = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%y)
  %c = ((f32[2], bf16[2]), (f32[4], bf16[4])) all-gather-start(%u, %v)
  %d = (f32[8]{0}, f32[]) all-reduce-start(%z, %w)
  %e = ((f32[8]{0}, f32[4]), (f32[2], f32[1])) reduce-scatter-start(%s, %t)
  %f = ((bf16[6]{0}), bf16[6]{0}) all-reduce-start(%r)
  """
  found = [
    (each.kind, each.shapes, each.bytes) for each in read_collectives(hlo)
  ]
  assert found == [
    ("all-gather", ((4, 8),), 128),
    ("collective-permute", ((8,),), 32),
    ("all-gather", ((4,), (4,)), 24),
    ("all-reduce", ((8,), ()), 36),
    ("reduce-scatter", ((2,), (1,)), 12),
    ("all-reduce", ((6,),), 12),
  ]
