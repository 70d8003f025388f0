"""Tiny generators, catalogues and batches that several tests share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from holorec_jax.catalog import Catalog, build_catalog
from holorec_jax.codes import Codes, device_codes
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.models.generator import Generator
from holorec_jax.models.thoughts import THOUGHTS
from holorec_jax.neighbours import Neighbours
from holorec_jax.set_index import build_set_index
from holorec_jax.train.objective import init_params
from holorec_jax.types import Batch

# Two histories a row, one of them as short as can be, and empty slots.
SEGMENTS = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 2, 0]])
# Of those that share a module (pause, s2gr) one.
every_thought = sorted({THOUGHTS[name]: name for name in THOUGHTS}.values())
# Tiny programs run in no time: only compiling them takes long.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def make_config(**changes) -> GeneratorConfig:
  """One layer each, no dropout, and whatever the test wants otherwise."""
  small = dict(
    d_model=16,
    num_heads=2,
    head_dim=4,
    d_ff=24,
    encoder_layers=1,
    decoder_layers=1,
    dropout=0.0,
    thought="none",
  )
  return GeneratorConfig(**small | changes)


def make_catalog(
  items: int, levels: int, codes: int, distinct: bool = True, seed: int = 0
) -> Catalog:
  """Random codes of two granularities; uneven popularity in shared leaves."""
  rng = np.random.default_rng(seed)
  if distinct:
    strings_I = rng.choice(codes**levels, items, replace=False)
    fine_IL = np.stack(np.unravel_index(strings_I, (codes,) * levels), axis=1)
  else:
    fine_IL = rng.integers(0, codes, (items, levels))
  coarse_IL = rng.integers(0, codes, (items, levels))
  return build_catalog(
    np.stack([coarse_IL, fine_IL], axis=1),
    fine_IL,
    rng.integers(0, 9, items),
    codes,
  )


def make_neighbours(items: int, strength: float, floor: float) -> Neighbours:
  """Random ones; the last item has none, some have fewer than others."""
  rng = np.random.default_rng(3)
  item_IK = rng.permuted(np.tile(np.arange(items), (items, 1)), axis=1)[:, :4]
  weight_IK = rng.random((items, 4)).astype(np.float32)
  lacks_IK = np.arange(4) >= rng.integers(1, 5, (items, 1))
  lacks_IK[-1] = True
  return Neighbours(
    item_IK=np.where(lacks_IK, -1, item_IK).astype(np.int32),
    weight_IK=np.where(lacks_IK, 0, weight_IK),
    recency_A=np.array([1, 0.5, 0.25], np.float32),
    strength=np.asarray(strength, np.float32),
    floor=np.asarray(floor, np.float32),
  )


def make_codes(catalog: Catalog, unordered: bool = False) -> Codes:
  """Its codes on device; of unordered ones with the shares of their sets."""
  sets = None
  if unordered:
    sets = build_set_index(catalog.codes_IL, catalog.num_codes)
  return device_codes(catalog, "level", sets=sets)


def make_model(
  catalog: Catalog, num_aligned: int = 0, **changes
) -> tuple[Generator, dict]:
  """A generator for the catalogue, and parameters none of which is idle.

  They are drawn by numpy: compiling the initialisation takes longer than all
  else in a tiny test, and its ones and zeros would hide what they multiply.
  """
  model = Generator(
    make_config(**changes),
    num_levels=catalog.codes_IL.shape[1],
    num_codes=catalog.num_codes,
    num_aligned=num_aligned,
  )
  rng = np.random.default_rng(1)

  def draw(leaf):
    noise = rng.normal(size=leaf.shape).astype(np.float32)
    if leaf.ndim == 1:
      return jnp.asarray(1 + 0.2 * noise)
    return jnp.asarray(noise * leaf.shape[-2] ** -0.5)

  shapes = jax.eval_shape(functools.partial(init_params, model, 0))
  return model, jax.tree.map(draw, shapes)


def make_packed(catalog: Catalog, seed: int = 0) -> Batch:
  """Packed histories with a branch at every slot that is in use."""
  rng = np.random.default_rng(seed)
  filled_BT = SEGMENTS > 0

  def items():
    drawn = rng.integers(0, catalog.num_items, SEGMENTS.shape)
    return np.where(filled_BT, drawn, -1).astype(np.int32)

  last_T = np.arange(SEGMENTS.shape[1], dtype=np.int32)
  return Batch(
    item_BT=items(),
    segment_BT=SEGMENTS.astype(np.int32),
    last_BN=np.broadcast_to(last_T, SEGMENTS.shape),
    target_BN=items(),
    weight_BN=filled_BT.astype(np.float32),
  )


def unpack(packed: Batch) -> Batch:
  """One row for each branch of a packed batch, in the same order."""
  rows = np.argwhere(packed.weight_BN > 0)
  item_BT = np.full((len(rows), packed.item_BT.shape[1]), -1, np.int32)
  length_B = np.zeros(len(rows), np.int32)
  for number, (row, last) in enumerate(rows):
    own_T = packed.segment_BT[row] == packed.segment_BT[row, last]
    history = packed.item_BT[row, : last + 1][own_T[: last + 1]]
    item_BT[number, : len(history)] = history
    length_B[number] = len(history)
  return Batch(
    item_BT=item_BT,
    segment_BT=(item_BT >= 0).astype(np.int32),
    last_BN=length_B[:, None] - 1,
    target_BN=packed.target_BN[packed.weight_BN > 0][:, None],
    weight_BN=np.ones((len(rows), 1), np.float32),
  )
