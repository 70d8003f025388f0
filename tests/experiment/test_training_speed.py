"""The published case at toy size, against a rival: no speed is asserted."""

import dataclasses

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


BUCKETS = (10, 20)


def compare(make_rival):
  """With fewer shapes to compile than the case has."""
  case = speed_cases.make_paper_case(CONFIG, "", USERS)
  (single,) = case.sides["one_target"]
  single = dataclasses.replace(single, length_buckets=BUCKETS)
  case.sides["one_target"] = (single,)
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
  # A step of every shape, in turns, after a turn that is not timed.
  rows = [len(target_B) for _, target_B in trained]
  assert rows == [128, 128, 32, 128] * 3
  widths = [item_BT.shape[1] for item_BT, _ in trained[:4]]
  longest = speed_cases.PAPER_HISTORY
  assert (*sorted(widths[:2]), *widths[2:]) == (*BUCKETS, longest, longest)
  for item_BT, target_B in trained:
    assert np.all(item_BT[:, 0] >= 0) and np.all(target_B >= 0)
    assert len(item_BT) == len(target_B)
  sides = [row["side"] for row in result.rows]
  assert sides == [
    "all_position",
    "one_target",
    *["one_target_padded"] * 2,
    "transformers",
    *["transformers_padded"] * 2,
  ]
  for row in result.rows:
    assert row["repeats"] == 2 and row["spread"] >= 0 and row["median"] > 0
    assert row["targets_per_epoch"] == TARGETS
    assert row["users_per_second"] * TARGETS == pytest.approx(
      row["median"] * USERS
    )
  for row in result.rows[:4]:
    assert row["matmul_share"] * row[
      "matmul_gflops_per_second"
    ] == pytest.approx(row["median"] * row["flops_per_target"] / 1e9)
  padding = {row["side"]: row["padding"] for row in result.rows}
  # Rows of 1 to 20 items, each length once a user.
  for side in ("one_target_padded", "transformers_padded"):
    assert padding[side] == pytest.approx(9.5 / 20)
  assert padding["transformers"] == padding["one_target"] == pytest.approx(0.3)
  speeds = {
    side: max(row["median"] for row in result.rows if row["side"] == side)
    for side in sides
  }
  for side in ("all_position", "one_target", "one_target_padded"):
    for rival in ("transformers", "transformers_padded"):
      assert result.ratios[f"{side}_vs_{rival}"] == pytest.approx(
        speeds[side] / speeds[rival]
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
    "all_position_vs_transformers",
    "all_position_vs_transformers_padded",
    "one_target_vs_transformers",
    "one_target_vs_transformers_padded",
    "one_target_padded_vs_transformers",
    "one_target_padded_vs_transformers_padded",
  }
  assert len(losses) == 3 * 4 and np.all(np.isfinite(losses))
