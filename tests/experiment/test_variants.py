"""Choices that change the codes or the targets, through all stages."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import TINY, run_all

from holorec_jax import sharding
from holorec_jax.catalog import CatalogConfig
from holorec_jax.data.splits import SplitConfig
from holorec_jax.evaluate import report
from holorec_jax.experiment import evaluation, preparation
from holorec_jax.quantize.fitted import FittedQuantizer
from holorec_jax.quantize.quantizers import SidConfig

CODES = 9
PLAIN = dataclasses.replace(
  TINY,
  systems=("plain",),
  sid=SidConfig(nested=dataclasses.replace(TINY.sid.nested, codes=16)),
  model=dataclasses.replace(TINY.model, encoder_layers=0),
  train=dataclasses.replace(TINY.train, epochs=1),
)


@pytest.fixture(autouse=True)
def lighter(monkeypatch):
  """One device, no report: other tests have eight devices, and read it."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  monkeypatch.setattr(sharding, "make_mesh", lambda *_, **__: mesh)
  monkeypatch.setattr(report, "render", lambda contents: "")
  monkeypatch.setattr(evaluation, "_examples", lambda *args: [])


@pytest.fixture
def published(tmp_path):
  """A file of random codes, which spares fitting, and what it holds."""
  rng = np.random.default_rng(0)
  items = range(1, TINY.data.synthetic.items + 1)
  codes = {f"item{i}": rng.integers(0, CODES, (2, 2)).tolist() for i in items}
  path = tmp_path / "codes.json"
  path.write_text(json.dumps(codes))
  return dataclasses.replace(PLAIN, sids_path=str(path)), codes


def run(config, workdir):
  """The data, the catalogue and the results of a whole run."""
  config = run_all(config, workdir)
  data = preparation.load_data(config, workdir)
  built, _ = preparation.load_catalog(config, workdir, data)
  results = json.loads((workdir / "results.json").read_text())
  assert 0 < results["test"]["item"]["recall@20"] <= 1
  return data, built, results


def assert_distinct(built, results):
  assert len(np.unique(built.codes_IL, axis=0)) == len(built.codes_IL)
  # No two items share a code string: the same hits either way.
  assert results["test"]["sid"] == results["test"]["item"]


def test_reassign(tmp_path, monkeypatch):
  config = dataclasses.replace(PLAIN, catalog=CatalogConfig("reassign"))
  data, built, results = run(config, tmp_path / "run")
  moved_I = (built.codes_IL != built.sids_IRL[:, -1]).any(axis=-1)
  assert 0 < moved_I.sum() < len(moved_I)
  assert_distinct(built, results)
  # They are made once: another device's rounding may choose otherwise.
  monkeypatch.delattr(FittedQuantizer, "reassign")
  again, content = preparation.load_catalog(config, tmp_path / "run", data)
  np.testing.assert_array_equal(again.codes_IL, built.codes_IL)
  (file,) = (tmp_path / "run" / "reassigned").iterdir()
  np.save(file, built.codes_IL[::-1])
  assert content != preparation.load_catalog(config, tmp_path / "run", data)[1]


def test_extra_level(published, tmp_path):
  config, _ = published
  config = dataclasses.replace(config, catalog=CatalogConfig("extra_level"))
  _, built, results = run(config, tmp_path / "run")
  np.testing.assert_array_equal(built.codes_IL[:, :2], built.sids_IRL[:, -1])
  assert built.codes_IL.shape[1] == 3
  assert built.codes_IL[:, 2].max() > 0
  assert_distinct(built, results)


def test_global_time_on_published_codes(published, tmp_path):
  config, codes = published
  split = SplitConfig("global_time")
  config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, split=split)
  )
  data, built, results = run(config, tmp_path / "run")
  expected = [codes[item] for item in data.dataset.item_ids]
  assert built.sids_IRL.tolist() == expected
  np.testing.assert_array_equal(built.codes_IL, built.sids_IRL[:, -1])

  first, test_U = data.dataset.offsets[:-1], data.split.test
  times_E = data.dataset.timestamps
  trains_U = data.split.train_end > 0
  last_U = (first + data.split.train_end - 1)[trains_U]
  asked_U = test_U >= 0
  assert results["counts"]["test"] == asked_U.sum() < len(first)
  assert times_E[(first + test_U)[asked_U]].min() > times_E[last_U].max()
