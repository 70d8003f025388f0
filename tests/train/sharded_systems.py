"""Tiny systems, and what training one on a mesh must be like.

One compiled step shows all of it: its loss, its gradients (the optimiser's
trace), its new parameters, where they lie, and its HLO.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.models.sasrec import SasRec, SasRecConfig
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.set_index import build_set_index
from holorec_jax.sharding import MeshConfig
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.s2gr_loss import S2grLossConfig, S2grObjective
from holorec_jax.train.sasrec_loss import SasRecLossConfig, SasRecObjective
from holorec_jax.train.set_loss import SetLossConfig, SetObjective
from holorec_jax.train.step import make_train_step, state_shardings
from holorec_jax.types import Batch, TrainState

CATALOGS = {
  levels: tiny.make_catalog(16 * levels, levels, codes=16) for levels in (1, 2)
}
# Eight devices have a head each; no activation is as large as a parameter.
SHAPE = dict(num_heads=8, d_model=32, d_ff=40)


def make_batch(name: str) -> Batch:
  """Sixteen rows with different numbers of targets; of `few` one at most."""
  parts = [tiny.make_packed(CATALOGS[1], seed=seed) for seed in range(8)]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  weight_BN = batch.weight_BN.copy()
  weight_BN[:5, 2:] = 0
  batch = batch.replace(weight_BN=weight_BN)
  if name == "few":
    kept = ("last_BN", "target_BN", "weight_BN")
    batch = batch.replace(
      **{leaf: getattr(batch, leaf)[:, :1] for leaf in kept}
    )
  return batch


def generator(thought: str, levels: int, **changes) -> GeneratorObjective:
  model, _ = tiny.make_model(
    CATALOGS[levels],
    num_aligned=int(thought == "none"),
    thought=thought,
    **SHAPE | changes,
  )
  return GeneratorObjective(model, LossConfig())


def s2gr() -> S2grObjective:
  model = generator("s2gr", 1, encoder_layers=0).model
  cluster_LV = np.arange(16)[None] % 3
  return S2grObjective(model, S2grLossConfig(guide_layers=1), cluster_LV)


def set_generator() -> SetObjective:
  config = tiny.make_config(
    encoder_layers=0,
    softmax="tree",
    start="last",
    cross_bias=True,
    repeat_bias=True,
    **SHAPE,
  )
  catalog = CATALOGS[2]
  index = build_set_index(catalog.codes_IL, catalog.num_codes)
  model = SetGenerator(config, 2, catalog.num_codes)
  return SetObjective(model, SetLossConfig(random_order=0.0), index)


def sasrec() -> SasRecObjective:
  config = SasRecConfig(d_model=32, num_heads=8, layers=1, d_ff=40, dropout=0.0)
  # The table has 128 rows: two chunks.
  loss = SasRecLossConfig(chunk=64)
  return SasRecObjective(SasRec(config, num_items=16), loss)


SCANNED = dict(
  encoder_layers=2,
  decoder_layers=2,
  scan_layers=True,
  remat="layers",
  dropout=0.2,
)
QWEN3 = SCANNED | dict(
  backbone="qwen3", encoder_layers=0, num_kv_heads=4, gated_mlp=True
)
# Codes of an item, and the system: no more of it than shows what is its own.
SYSTEMS = {
  "holorec": (2, functools.partial(generator, "holorec", 2, encoder_layers=0)),
  "pause": (1, functools.partial(generator, "pause", 1, encoder_layers=0)),
  "s2gr": (1, s2gr),
  # Several levels in one pass, and branches that read states themselves.
  "scanned": (2, functools.partial(generator, "none", 2, **SCANNED)),
  "few": (2, functools.partial(generator, "none", 2, encoder_layers=0)),
  "qwen3_plain": (2, functools.partial(generator, "none", 2, **QWEN3)),
  "qwen3_fused": (
    2,
    functools.partial(generator, "none", 2, fused_attention=True, **QWEN3),
  ),
  "qwen3": (1, functools.partial(generator, "holorec", 1, **QWEN3)),
  "set": (2, set_generator),
  "sasrec": (1, sasrec),
}


_SGD = optax.sgd(0.05, momentum=0.9)


def draw(shapes):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: 0.2 * rng.normal(size=x.shape).astype(np.float32), shapes
  )


def prepare(
  name: str,
  devices: int,
  shape: MeshConfig,
  optimizer: optax.GradientTransformation = _SGD,
):
  """A step of a mesh, and what to run it on."""
  mesh = sharding.make_mesh(jax.devices()[:devices], shape)
  levels, make = SYSTEMS[name]
  objective = make()
  params = draw(jax.eval_shape(lambda: objective.init_params(0)))
  state = TrainState(jnp.int32(0), params, params, optimizer.init(params))
  places = state_shardings(objective, optimizer, mesh)
  args = (
    # Copies: the step takes their memory.
    jax.device_put(jax.tree.map(jnp.array, state), places),
    sharding.put_rows(make_batch(name), mesh),
    jax.device_put(
      tiny.make_codes(CATALOGS[levels], unordered=name == "set"),
      sharding.replicated(mesh),
    ),
  )
  step = make_train_step(objective, optimizer, mesh, 0, 0.5)
  return step, args, mesh


@functools.cache
def alone(name: str):
  step, args, _ = prepare(name, 1, MeshConfig())
  return jax.device_get(step(*args))


def lower_for_tpus(name: str, shape: MeshConfig) -> str:
  """The step as StableHLO, kernels and all, of TPUs that are not here."""
  step, args, _ = prepare(name, 8, shape)
  return step.trace(*args).lower(lowering_platforms=("tpu",)).as_text()


def check_traffic(name, step, params, mesh):
  """Nothing is gathered but parameters and the maxima of shares of codes.

  Of stacked layers one is gathered at a time. S2GR compares a branch with the
  targets of the whole batch: their embeddings and codes, too. Where rows are
  split by token, every token's keys and values (or its state), and numbers of
  tokens, are on all devices of the row.
  """
  sizes = set()
  if name == "s2gr":
    targets = make_batch(name).weight_BN.size
    sizes |= {targets * SHAPE["d_model"], targets}  # of one code each
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    stacked = sharding.is_stacked(sharding.path_name(path))
    size = leaf.size // len(leaf) if stacked else leaf.size
    sizes |= {size, size // mesh.shape["tensor"]}
  batch = make_batch(name)
  branches = batch.weight_BN.size // sharding.row_shards(mesh)
  maxima = 2 * branches * mesh.shape["tensor"]
  kinds = {"all-gather"}
  if mesh.shape["sequence"] > 1:
    kinds |= {"all-to-all", "collective-permute"}
    for tokens in (branches, branches * SYSTEMS[name][0]):
      # Four or eight heads of a width of four, and states as wide as eight.
      for width in (16, 32):
        sizes |= {tokens * width, tokens * width // mesh.shape["tensor"]}
  for each in sharding.list_collectives(step):
    if each.kind != "all-reduce":
      assert each.kind in kinds
      for shape in each.shapes:
        size = math.prod(shape)
        assert size in sizes or size <= maxima, each


def check(name: str, shape: MeshConfig, capfd) -> None:
  """On eight devices the system trains as on one."""
  step, args, mesh = prepare(name, 8, shape)
  step = step.lower(*args).compile()
  assert "rematerialization" not in capfd.readouterr().err
  sent = sharding.collectives(step)
  assert sent["all-reduce"] > 0
  gathers = mesh.shape["data"] < 8 or name == "s2gr"
  assert ("all-gather" in sent) == gathers
  check_traffic(name, step, args[0].params, mesh)
  (state, metrics), (lone, lone_metrics) = step(*args), alone(name)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(args[0]))
  for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(lone)):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
  for key, value in lone_metrics.items():
    np.testing.assert_allclose(metrics[key], value, rtol=1e-5)
  table = "item_embedding" if name == "sasrec" else "code_embedding"
  moment = state.opt_state[0].trace
  for tree in (state.params, state.average, moment):
    local = tree[table].addressable_shards[0].data.size
    shares = mesh.shape["fsdp"] * mesh.shape["tensor"]
    assert local * shares == tree[table].size
