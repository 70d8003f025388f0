"""A run in memory: untrained, since only what is shown of it matters here."""

import socket
import threading

import jax
import numpy as np
import pytest
import tiny_models as tiny
import uvicorn

from holorec_jax import sharding
from holorec_jax.data.schema import Dataset
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.probe import Probe
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.recommendation import Run
from holorec_jax.explore.app import make_app
from holorec_jax.explore.explorer import Explorer

ITEMS, USERS, WIDTH = 24, 5, 8
# Wherever a title were taken for HTML, this would show, or run.
EVIL = "<img src=x onerror=\"document.title='pwned'\"> Oil & Co"
KINDS = ("Shampoo", "Soap", "Nail Polish", "Foil")


def make_dataset() -> Dataset:
  """item0 has an evil title, item1 none; user n has n + 1 items."""
  rng = np.random.default_rng(0)
  titles = np.array([f"{KINDS[i % 4]} No{i:02d}" for i in range(ITEMS)], object)
  titles[:2] = EVIL, ""
  lengths_U = np.arange(USERS) + 1
  items_E = rng.permutation(ITEMS)[: lengths_U.sum()].astype(np.int32)
  return Dataset(
    name="tiny",
    item_ids=np.array([f"item{i}" for i in range(ITEMS)], object),
    item_text={"title": titles},
    user_ids=np.array([f"user{u}" for u in range(USERS)], object),
    offsets=np.concatenate([[0], np.cumsum(lengths_U)]),
    items=items_E,
  )


@pytest.fixture(scope="session")
def run() -> Run:
  catalog = tiny.make_catalog(ITEMS, levels=2, codes=6, distinct=False)
  model, params = tiny.make_model(catalog, thought="holorec")
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  recommender = Recommender(
    TreeEngine(model),
    params,
    catalog,
    mesh,
    max_history=WIDTH,
    config=SearchConfig(beam=ITEMS, k=ITEMS, batch=8),
  )
  made_from = {"system": "thinking", "checkpoint": {"step": 1200}}
  probe = Probe(model, params, catalog, mesh, WIDTH)
  return Run(recommender, probe, make_dataset(), Config(), made_from)


@pytest.fixture(scope="session")
def site(run):
  """Address of a server that shows it."""
  with socket.create_server(("127.0.0.1", 0)) as listener:
    config = uvicorn.Config(
      make_app(Explorer(run)), log_level="warning", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
