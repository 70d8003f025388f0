"""Catalogues beyond what a fit looks at, and devices that share the work."""

import dataclasses
import itertools
import json

import chex
import jax
import numpy as np
import pytest

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.experiment import quantizer_scale
from holorec_jax.quantize import (
  fit,
  nested,
  parallel,
  quantizers,
  rqkmeans,
  stream,
)
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.quantize.rqkmeans import RqKmeansConfig

NESTED = nested.NestedConfig(
  dims=(2, 4),
  levels=2,
  codes=8,
  hidden=(8,),
  warmup_steps=2,
  steps=4,
  fit_items=256,
  batch_size=128,
)
PARALLEL = parallel.ParallelConfig(
  codebooks=2,
  codes=8,
  code_dim=4,
  hidden=(8,),
  warmup_steps=2,
  steps=4,
  fit_items=256,
  batch_size=128,
)
SID = SidConfig(
  nested=NESTED,
  parallel=PARALLEL,
  rq_kmeans=RqKmeansConfig(levels=2, codes=8, iterations=3, fit_items=256),
)


def _mesh(devices):
  return sharding.make_mesh(jax.devices()[:devices])


def _vectors(items=1100, width=6):
  rng = np.random.default_rng(0)
  return rng.normal(size=(items, width)).astype(np.float32)


def test_a_sample_is_spread_over_all_rows_and_repeatable():
  number_IW = np.arange(1000)[:, None]
  row_S = stream.sample(number_IW, 50, seed=3)[:, 0]
  assert row_S.dtype == np.float32 and len(row_S) == 50
  # One of each of 50 equal stretches.
  np.testing.assert_array_equal(row_S // 20, np.arange(50))
  np.testing.assert_array_equal(stream.sample(number_IW, 50, 3)[:, 0], row_S)
  assert (stream.sample(number_IW, 50, 4)[:, 0] != row_S).any()
  np.testing.assert_array_equal(stream.sample(number_IW, 1000, 3), number_IW)


@pytest.mark.parametrize(
  ("batch", "devices", "sharers"),
  [
    (1024, 8, 8),
    (1008, 8, 8),
    (1023, 8, 3),
    (150, 8, 2),
    (128, 4, 2),
    (100, 8, 1),
    (1024, 1, 1),
  ],
)
def test_a_batch_is_shared_evenly_and_not_too_thinly(batch, devices, sharers):
  mesh = stream.training_mesh(batch, _mesh(devices))
  assert (mesh.size, mesh.shape["data"]) == (sharers, sharers)


@pytest.mark.parametrize("devices", [1, 8])
def test_every_item_is_encoded_once_by_all_devices(tmp_path, devices):
  items = 2 * devices * stream.CHUNK + 77
  np.save(tmp_path / "x.npy", np.arange(2.0 * items).reshape(-1, 2))
  shapes = set()

  def program(params, x_BW):
    shapes.update(shard.data.shape for shard in x_BW.addressable_shards)
    return {"sum": x_BW.sum(1) + params, "double": 2 * x_BW, "dropped": None}

  total_I, double_IW = stream.encode(
    program,
    np.float32(0.5),
    np.load(tmp_path / "x.npy", mmap_mode="r"),
    lambda block: (block["sum"], block["double"]),
    _mesh(devices),
  )
  assert shapes == {(stream.CHUNK, 2)}
  np.testing.assert_array_equal(total_I, 4.0 * np.arange(items) + 1.5)
  np.testing.assert_array_equal(
    double_IW, 2 * np.arange(2.0 * items).reshape(-1, 2)
  )


@pytest.mark.parametrize("kind", quantizers.QUANTIZERS)
def test_a_large_catalogue_is_fitted_on_a_sample_and_coded_whole(
  kind, tmp_path
):
  np.save(tmp_path / "vectors.npy", _vectors())
  vectors_IW = np.load(tmp_path / "vectors.npy", mmap_mode="r")
  config = dataclasses.replace(SID, quantizer=kind)
  large = quantizers.fit(vectors_IW, config, progress=False)
  small = quantizers.fit(
    stream.sample(vectors_IW, 256, seed=0), config, progress=False
  )
  chex.assert_trees_all_equal(large.params, small.params)
  assert small.sids_IRL.shape == (256, *large.sids_IRL.shape[1:])
  assert large.sids_IRL.dtype == np.int32
  np.testing.assert_array_equal(large.sids_IRL, large.encode(_vectors()))
  # Unseen items are a little harder to rebuild, if not much.
  ratio = large.reconstruction / small.reconstruction
  assert ratio != 1 and 0.8 < ratio < 1.25


def test_training_on_eight_devices_equals_one():
  x_IW = _vectors(items=1024)
  key = jax.random.key(0)
  config = dataclasses.replace(NESTED, batch_size=512)
  model = nested.NestedQuantizer(config)
  params = jax.jit(model.init)(key, x_IW[:2])["params"]

  def train(devices):
    placed_IW, mesh = fit.place(x_IW, config, _mesh(devices))
    assert mesh.size == devices
    state, parts = fit.train_epochs(
      fit.start_state(jax.tree.map(np.array, params), config),
      placed_IW,
      fit.balance_weights(np.ones((2, 2, 8)), config.balance),
      key,
      losses=fit.quantizer_losses,
      config=config,
      epochs=2,
      mesh=mesh,
    )
    return jax.device_get((state.params, parts))

  (one, one_parts), (eight, eight_parts) = train(1), train(8)
  chex.assert_trees_all_close(one_parts, eight_parts, rtol=1e-5, atol=1e-7)
  chex.assert_trees_all_close(one, eight, rtol=1e-4, atol=1e-5)


def test_a_pod_codes_1e8_items_without_a_word_between_devices():
  config = nested.NestedConfig(codes=1024, hidden=(2048, 1024, 512, 256))
  training, coding = quantizer_scale.compile_programs(
    config, width=768, items=100_000_000, mesh=_mesh(8)
  )
  assert sharding.collectives(coding) == {}
  assert set(sharding.collectives(training)) == {"all-reduce"}
  layers = [768, 2048, 1024, 512, 256, 32]
  pairs = list(itertools.pairwise(layers))
  weights = sum(2 * a * b + a + b for a, b in pairs) + 4 * 1024 * 32
  # A device has the weights, and the rows that it codes.
  memory = coding.memory_analysis()
  block = stream.CHUNK * 768
  assert memory.argument_size_in_bytes == 4 * (weights + block)
  assert quantizer_scale.count_bytes(coding) < 256 * 2**20
  # The sample, three times the weights, and the work on an eighth of a batch.
  sample = 4 * 768 * config.fit_items
  in_use = quantizer_scale.count_bytes(training)
  assert sample + 12 * weights < in_use < sample + 12 * weights + 256 * 2**20


def test_too_small_a_sample_is_explained():
  for config, name in (
    (nested.NestedConfig, "nested"),
    (parallel.ParallelConfig, "parallel"),
    (RqKmeansConfig, "rq_kmeans"),
  ):
    with pytest.raises(UserError, match=rf"{name}\.fit_items is 7.*at least 8"):
      config(codes=8, fit_items=7)


def test_quantizers_of_before_samples_are_still_read(tmp_path):
  quantizer = rqkmeans.fit(_vectors(items=200), SID.rq_kmeans, progress=False)
  quantizer.save(tmp_path)
  about = json.loads((tmp_path / "quantizer.json").read_text())
  del about["config"]["fit_items"]
  (tmp_path / "quantizer.json").write_text(json.dumps(about))
  loaded = rqkmeans.load(tmp_path)
  assert loaded.config.fit_items == RqKmeansConfig().fit_items
  np.testing.assert_array_equal(loaded.sids_IRL, quantizer.sids_IRL)
