"""transformers' T5 trains on copied weights, from the loss that they have."""

import jax
import numpy as np
import pytest
import tiny_models as tiny
from our_search import T5_LIKE, USERS, draw_histories

from holorec_jax.types import Batch

pytest.importorskip("torch")
pytest.importorskip("transformers")
from third_party.transformers_training import (
  make_train_step,
  seconds_per_step,
)


def run_ours(model, params, batch, codes):
  return model.apply({"params": params}, batch, codes)


def test_training_begins_at_our_loss_and_lowers_it():
  # With one level its codes are all of the vocabulary except BOS.
  catalog = tiny.make_catalog(7, levels=1, codes=7)
  model, params = tiny.make_model(catalog, **T5_LIKE)
  item_BT = draw_histories(7)
  target_B = np.arange(USERS, dtype=np.int32)
  batch = Batch(
    item_BT=item_BT,
    segment_BT=(item_BT >= 0).astype(np.int32),
    last_BN=(item_BT >= 0).sum(1, keepdims=True) - 1,
    target_BN=target_B[:, None],
    weight_BN=np.ones((USERS, 1), np.float32),
  )
  codes = tiny.make_codes(catalog)
  (output,) = tiny.jit(run_ours, static_argnums=0)(model, params, batch, codes)
  logits_BY = np.pad(np.asarray(output.fine_BNV)[:, 0], ((0, 0), (0, 1)))
  log_prob_BY = jax.nn.log_softmax(logits_BY)
  step = make_train_step(params, model.config, catalog)
  losses = [step(item_BT, target_B) for _ in range(8)]
  ours = -log_prob_BY[np.arange(USERS), catalog.codes_IL[target_B, 0]].mean()
  assert losses[0] == pytest.approx(float(ours), abs=1e-4)
  assert losses[-1] < losses[0]


def test_counts_seconds_without_the_first_step():
  calls = []
  seconds = seconds_per_step(lambda *batch: calls.append(batch), 0, 0, 3)
  assert len(seconds) == 3 and len(calls) == 4
