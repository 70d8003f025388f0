"""Every system through all stages, and every variant's network."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import TINY, run_all

from configs import beauty, systems
from configs.pod import tiny as tiny_pod
from holorec_jax import catalog, sharding
from holorec_jax.config_fields import to_dataclass
from holorec_jax.errors import UserError
from holorec_jax.experiment import alignment, recommendation
from holorec_jax.experiment.config import SYSTEMS, Config
from holorec_jax.experiment.made_up import random_catalog
from holorec_jax.experiment.systems import MAKERS, make_system
from holorec_jax.quantize.parallel import ParallelConfig
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.train.preference import PreferenceConfig
from holorec_jax.train.s2gr_loss import S2grLossConfig
from holorec_jax.train.writers import read_metrics

QUICK = dataclasses.replace(
  TINY,
  train=dataclasses.replace(TINY.train, epochs=1),
  s2gr=S2grLossConfig(clusters=2),
)
SETS = dataclasses.replace(
  QUICK,
  systems=("reg4rec",),
  sid=SidConfig(
    quantizer="parallel",
    parallel=ParallelConfig(
      codebooks=3, codes=8, hidden=(16,), steps=60, warmup_steps=20
    ),
  ),
  search=dataclasses.replace(TINY.search, corp=True),
  baselines=False,
)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """Other tests have eight."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_, **__: mesh)


@pytest.mark.parametrize(
  "config", [dataclasses.replace(QUICK, systems=("s2gr", "sasrec")), SETS]
)
def test_all_stages(config, tmp_path):
  config = run_all(config, tmp_path)
  results = json.loads((tmp_path / "results.json").read_text())
  assert bool(results["baselines"]) == config.baselines
  parts = {results["headline"]: results} | results["modes"]
  assert set(parts) == set(config.systems)
  for name, part in parts.items():
    assert part["valid_fraction_unseen"] == 1
    assert results["parameters"][name] > 1000
    # 120 users: better than chance at 20 of 80 items is all to be asked.
    assert part["test"]["item"]["recall@20"] > 0.1
    assert (tmp_path / "report.html").read_text().count(name)
    run = recommendation.open_run(tmp_path, name)
    found = run.recommender.recommend(run.histories(np.arange(3)))
    assert found.valid_UK.all()
    assert (run.probe is None) == (name in ("sasrec", "reg4rec"))
  accuracy = results["valid_accuracy"]
  assert set(accuracy) == {"s2gr"} & set(config.systems)
  for kinds in accuracy.values():
    assert set(kinds) == {"codes", "prefixes", "clusters"}
    assert all(len(shares) == 2 for shares in kinds.values())
    # Of eight codes and two clusters.
    assert 0 < kinds["codes"][0] == kinds["prefixes"][0] < 1
    assert 0.2 < min(kinds["clusters"]) <= max(kinds["clusters"]) <= 1
  check_alignment(config, tmp_path)


def check_alignment(config, workdir):
  """Three updates from the trained system; the first has no rate yet."""
  preference = PreferenceConfig(
    steps=3, users=8, group=4, validate_every=3, log_every=1
  )
  alignment.align(dataclasses.replace(config, preference=preference), workdir)
  tree = json.loads((workdir / "aligned" / "results.json").read_text())
  assert tree["system"] == config.systems[0]
  test = tree["test"]["kept"]
  assert test["supervised"]["recall@20"] > 0.1
  assert test["aligned"]["recall@20"] > 0.1
  lines = read_metrics(workdir / "aligned")
  first, second, third = [line for line in lines if "train/reward" in line]
  assert first["train/reward"] > 0
  # Until it moves it is the supervised model.
  assert abs(second["train/kl"]) < 1e-6 < third["train/kl"]


@pytest.mark.parametrize("leaf", ["corp", "any_order"])
def test_what_is_of_the_search_of_code_sets_alone(leaf):
  search = dataclasses.replace(TINY.search, **{leaf: True})
  with pytest.raises(
    UserError, match=rf"{leaf} .*config\.systems does not name"
  ):
    dataclasses.replace(TINY, search=search)


def test_a_fixed_order_is_not_searched_in_any_other():
  config = to_dataclass(Config, beauty.get_config("reg4rec_any_order"))
  fixed = dataclasses.replace(config.reg4rec, fixed_order=True)
  with pytest.raises(UserError, match="any_order tries orders that a network"):
    dataclasses.replace(config, reg4rec=fixed)


@pytest.mark.parametrize(
  ("any_order", "fixed", "order"),
  [(0, 0, "confident"), (0, 1, "fixed"), (1, 0, "any")],
)
def test_the_order_of_the_search_of_code_sets(any_order, fixed, order):
  config = to_dataclass(Config, beauty.get_config("reg4rec"))
  config = dataclasses.replace(
    config,
    search=dataclasses.replace(config.search, any_order=bool(any_order)),
    reg4rec=dataclasses.replace(config.reg4rec, fixed_order=bool(fixed)),
  )
  codes_IL = np.arange(40).reshape(10, 4)
  sids_IRL = codes_IL[:, None]
  built = catalog.build_catalog(sids_IRL, codes_IL, np.ones(10), 256)
  assert make_system(config, built, "reg4rec").engine.order == order


@pytest.mark.parametrize("name", ["thinking", "s2gr"])
def test_kernels_are_of_training_alone(name):
  config = to_dataclass(Config, tiny_pod.get_config(name))
  model = dataclasses.replace(config.model, fused_attention=True)
  config = dataclasses.replace(config, model=model)
  system = make_system(config, random_catalog(50, config), name)
  assert system.objective.model.config.fused_attention
  for searched in (system.engine.model, system.generator):
    assert not searched.config.fused_attention


@pytest.mark.parametrize("variant", systems.VARIANTS)
def test_every_variant_makes_its_system(variant):
  config = to_dataclass(Config, beauty.get_config(variant))
  levels = 4
  codes_IL = np.random.default_rng(0).integers(0, 256, (50, levels))
  built = catalog.build_catalog(
    np.stack([codes_IL] * 3, 1), codes_IL, np.ones(50), 256
  )
  system = make_system(config, built, config.systems[0])
  shapes = jax.eval_shape(lambda: system.objective.init_params(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) > 1000
  system.engine.check(built)


def test_every_system_has_a_maker():
  assert set(MAKERS) == set(SYSTEMS)
