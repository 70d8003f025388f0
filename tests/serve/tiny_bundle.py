"""Tiny bundles: SASRec's, whose search compiles in no time, and HoloRec's."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.decode.engine import Engine, TreeEngine
from holorec_jax.decode.ranking import RankingEngine
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.export import bundle as exported
from holorec_jax.models.sasrec import SasRec, SasRecConfig

ITEMS, WIDTH, K, LIST_WIDTH = 24, 4, 8, 16
BUCKETS = (1, 4)
CATALOG = tiny.make_catalog(ITEMS, levels=2, codes=6)


def write_bundle(path: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """A bundle of item0, item1, ..; other seeds answer otherwise."""
  config = SasRecConfig(d_model=8, num_heads=2, layers=1, d_ff=8, dropout=0.0)
  model = SasRec(config, ITEMS)
  one = jnp.ones((1, 1), jnp.int32)
  key = jax.random.key(seed)
  params = tiny.jit(model.init, static_argnames="method")(
    key, one, one, method=SasRec.states
  )["params"]
  return _write(path, RankingEngine(model), params, seed)


def write_thinking_bundle(path: pathlib.Path) -> pathlib.Path:
  """One whose recommendations can be explained."""
  model, params = tiny.make_model(CATALOG, thought="holorec")
  return _write(path, TreeEngine(model), params, seed=0)


def _write(path: pathlib.Path, engine: Engine, params: dict, seed: int):
  recommender = Recommender(
    engine,
    params,
    CATALOG,
    sharding.make_mesh(devices=jax.devices()[:1]),
    max_history=WIDTH,
    config=SearchConfig(beam=K, k=K, batch=8),
  )
  rng = np.random.default_rng(seed)
  contents = exported.Contents(
    item_ids=[f"item{i}" for i in range(ITEMS)],
    titles=[f"Title {i}" for i in range(ITEMS)],
    histories=[rng.integers(0, ITEMS, n) for n in (1, 2, 3, 4, 7)],
  )
  options = exported.Options(BUCKETS, LIST_WIDTH)
  exported.write(path, recommender, contents, options)
  return path
