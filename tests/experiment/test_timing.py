"""Rows of the benchmark from known seconds."""

import math

import pytest

from holorec_jax.experiment import timing


def test_sides_take_turns_and_the_first_round_is_not_timed():
  calls = []
  seconds = timing.take_turns(
    [lambda: calls.append("a"), lambda: calls.append("b")], 2, "test"
  )
  assert "".join(calls) == "ababab"
  assert [len(taken) for taken in seconds] == [2, 2]
  assert min(min(taken) for taken in seconds) >= 0


def test_a_row_from_seconds():
  row = timing.make_row("case", "side", "targets", 100, [4.0, 2.0, 5.0])
  assert row == {
    "case": "case",
    "side": "side",
    "unit": "targets/s",
    "median": 25.0,
    "spread": 0.75,
    "repeats": 3,
  }


def test_costs_and_the_share_of_the_ceiling():
  row = timing.make_row("case", "side", "targets", 100, [4.0])
  costs = timing.add_costs(row, "target", 2e9, 3e6, 100.0)
  assert costs["flops_per_target"] == 2e9
  assert costs["bytes_per_target"] == 3e6
  assert costs["gflops_per_second"] == pytest.approx(50.0)
  assert costs["matmul_share"] == pytest.approx(0.5)
  [title, line, ratio] = timing.describe(
    timing.Result([costs], {"a_vs_b": 1.5})
  ).splitlines()[1:]
  assert (title, ratio) == ("case", "  a_vs_b: 1.50")
  assert "25.0 targets/s (spread 0%), 2000.00 MFLOP/target" in line
  assert "3.00 MB/target, 50 GFLOP/s, 50% of the matmul ceiling" in line


def test_what_cannot_be_counted_is_left_out():
  """JSON knows no NaN."""
  row = timing.make_row("case", "side", "targets", 100, [4.0])
  costs = timing.add_costs(row, "target", math.nan, math.nan, 100.0)
  assert costs == row | {"matmul_gflops_per_second": 100.0}


@pytest.mark.parametrize("slowest, warned", [(1.1, False), (2.0, True)])
def test_a_busy_machine_is_pointed_out(slowest, warned):
  row = timing.make_row("case", "side", "targets", 1, [1.0, 1.0, slowest])
  text = timing.describe(timing.Result([row]))
  assert ("measure again" in text) == warned
