"""Intervals as written in mathematics."""

import dataclasses

import pytest

from holorec_jax.errors import UserError
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class Section:
  rate: float


INF = float("inf")


@pytest.mark.parametrize(
  ("interval", "inside", "outside"),
  [
    ("[0, 1)", (0, 0.5, 0.999), (-1e-9, 1, 1.0, INF)),
    ("(0, 0.5]", (1e-9, 0.5), (0, 0.0, 0.6)),
    ("[1, inf)", (1, 10**30), (0, -INF, INF)),
    ("(0, inf]", (1, INF), (0,)),
  ],
)
def test_intervals(interval, inside, outside):
  for value in inside:
    check_ranges(Section(value), "config.x", rate=interval)
  for value in (*outside, float("nan")):
    with pytest.raises(UserError, match=r"^config\.x\.rate is .*; expected "):
      check_ranges(Section(value), "config.x", rate=interval)


@pytest.mark.parametrize(
  ("interval", "words"),
  [
    ("[0, 0.99]", "a number in [0, 0.99]"),
    ("[1, inf)", "at least 1"),
    ("(0, inf)", "a number greater than 0"),
  ],
)
def test_words(interval, words):
  with pytest.raises(UserError) as error:
    check_ranges(Section(-3), "config.x", rate=interval)
  assert str(error.value) == f"config.x.rate is -3; expected {words}."
