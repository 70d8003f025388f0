"""Tiny recommenders of every engine, and their bundles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.ranking import RankingEngine
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.decode.set_search import SetEngine
from holorec_jax.decode.set_space import index_of
from holorec_jax.export import bundle
from holorec_jax.models.sasrec import SasRec, SasRecConfig
from holorec_jax.models.set_generator import SetGenerator
from holorec_jax.train.sasrec_loss import SasRecLossConfig, SasRecObjective
from holorec_jax.train.set_loss import SetLossConfig, SetObjective
from holorec_jax.vectors.cold_items import ColdItems

ITEMS, WIDTH, BEAM, K = 40, 4, 8, 6
CATALOG = tiny.make_catalog(ITEMS, levels=2, codes=6, distinct=False)
DEEP = tiny.make_catalog(ITEMS, levels=3, codes=4, distinct=False)
SETS = tiny.make_catalog(ITEMS, levels=2, codes=8)


def draw(objective) -> dict:
  """Parameters none of which is idle."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32),
    jax.eval_shape(lambda: objective.init_params(0)),
  )


def make_engine(name: str, room: float = 0.0):
  """Engine, parameters and catalogue of a system."""
  if name == "sasrec":
    config = SasRecConfig(d_model=8, num_heads=2, layers=1, d_ff=12, dropout=0)
    model = SasRec(config, ITEMS)
    params = draw(SasRecObjective(model, SasRecLossConfig()))
    return RankingEngine(model), params, CATALOG
  if name == "reg4rec":
    config = tiny.make_config(start="last", softmax="tree", repeat_bias=True)
    model = SetGenerator(config, SETS.codes_IL.shape[1], SETS.num_codes)
    params = draw(SetObjective(model, SetLossConfig(), index_of(SETS)))
    return SetEngine(model, room), params, SETS
  catalog = DEEP if name == "none" else CATALOG
  softmax = "tree" if name == "none" else "level"
  model, params = tiny.make_model(catalog, thought=name, softmax=softmax)
  return TreeEngine(model, room), params, catalog


def make_recommender(
  name: str,
  room: float = 0.0,
  dtype: str = "float32",
  strength: float = 0.0,
) -> Recommender:
  """On one device; a bundle knows no more. With neighbours of a strength."""
  engine, params, catalog = make_engine(name, room)
  if strength:
    table = tiny.make_neighbours(ITEMS, strength, floor=0.05)
    catalog = dataclasses.replace(catalog, neighbours=table)
  mesh = sharding.make_mesh(jax.local_devices()[:1])
  config = SearchConfig(beam=BEAM, k=K, batch=4, room=room, dtype=dtype)
  return Recommender(engine, params, catalog, mesh, WIDTH, config)


def draw_histories(users: int, seed: int = 0) -> list[list[int]]:
  """Of 1 .. 9 items; every fifth is empty."""
  rng = np.random.default_rng(seed)
  return [
    rng.integers(0, ITEMS, 0 if user % 5 == 4 else 1 + user % 9).tolist()
    for user in range(users)
  ]


def make_contents(**changes) -> bundle.Contents:
  """Titles and ids that need more than ASCII, a line break among them."""
  titles = [f"Bürste\n№ {item} 🪥" if item % 3 else "" for item in range(ITEMS)]
  return bundle.Contents(
    item_ids=[f"item {item}" for item in range(ITEMS)],
    titles=titles,
    histories=[np.array(h, np.int32) for h in draw_histories(40, seed=3)],
    **changes,
  )


def make_cold_items() -> ColdItems:
  """Two words, a dimension each, and rows of width 1 that come with items."""
  sources = [
    {"name": "text", "width": 2, "kept": 2, "factor": 2.0},
    {"name": "precomputed", "width": 1, "kept": 1, "factor": 1.0},
  ]
  about = {"version": 1, "scale": 1.0, "sources": sources}
  arrays = {"mean_W": np.array([0, 0, 1], np.float32)}
  for name, width in (("text", 2), ("precomputed", 1)):
    arrays[f"{name}/kept_D"] = np.arange(width, dtype=np.int32)
    arrays[f"{name}/mean_D"] = np.zeros(width)
    arrays[f"{name}/std_D"] = np.ones(width)
  arrays["text/idf_F"] = np.ones(2, np.float32)
  arrays["text/components_FD"] = np.eye(2, dtype=np.float32)
  return ColdItems(
    about | {"columns": ["title"], "tokens": ["rot", "weiß"]}, arrays
  )
