"""The published case at toy size, against a rival: no speed is asserted."""

import numpy as np
import pytest

from holorec_jax.experiment import speed_cases, training_speed
from holorec_jax.experiment.config import Config
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.quantize.nested import NestedConfig
from holorec_jax.quantize.quantizers import SidConfig

USERS = 8
TARGETS = USERS * speed_cases.PAPER_HISTORY
CONFIG = Config(
  systems=("plain",),
  sid=SidConfig(nested=NestedConfig(dims=(4,), levels=2, codes=8, hidden=(8,))),
  model=GeneratorConfig(
    d_model=8,
    num_heads=1,
    head_dim=8,
    d_ff=8,
    encoder_layers=1,
    decoder_layers=1,
  ),
)


def compare(make_rival):
  case = speed_cases.make_paper_case(CONFIG, USERS)
  return training_speed.compare(case, 2, make_rival)


def test_a_rival_trains_on_our_rows():
  trained, given = [], {}

  def make_rival(params, config, built):
    given.update(params=params, config=config, items=built.num_items)
    return lambda item_BT, target_B: trained.append((item_BT, target_B))

  result = compare(make_rival)
  assert given["items"] == speed_cases.ITEMS
  assert not given["config"].causal_history
  assert given["config"].thought == "none"
  assert "encoder" in given["params"]
  # Both batch sizes, in turns, after a turn that is not timed.
  assert [len(target_B) for _, target_B in trained] == [32, 128] * 3
  for item_BT, target_B in trained:
    assert item_BT.shape == (len(target_B), speed_cases.PAPER_HISTORY)
    assert np.all(item_BT[:, 0] >= 0) and np.all(target_B >= 0)
  sides = [row["side"] for row in result.rows]
  assert sides == ["all_position", *["one_target"] * 2, *["transformers"] * 2]
  for row in result.rows:
    assert row["repeats"] == 2 and row["spread"] >= 0 and row["median"] > 0
  for row in result.rows[:3]:
    assert row["targets_per_epoch"] == TARGETS
    assert row["users_per_second"] * TARGETS == pytest.approx(
      row["median"] * USERS
    )
    assert row["matmul_share"] * row[
      "matmul_gflops_per_second"
    ] == pytest.approx(row["median"] * row["flops_per_target"] / 1e9)
  speeds = {
    side: max(row["median"] for row in result.rows if row["side"] == side)
    for side in sides
  }
  for side in ("all_position", "one_target"):
    assert result.ratios[f"{side}_vs_transformers"] == pytest.approx(
      speeds[side] / speeds["transformers"]
    )


def test_transformers_t5_is_such_a_rival():
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  from third_party.transformers_training import make_train_step

  losses = []

  def make_rival(*args):
    step = make_train_step(*args)
    return lambda *batch: losses.append(step(*batch))

  result = compare(make_rival)
  assert set(result.ratios) == {
    "transformers/all_position_vs_one_target",
    "transformers/flops_saved",
    "one_target_vs_transformers",
    "all_position_vs_transformers",
  }
  assert len(losses) == 6 and np.all(np.isfinite(losses))
