"""Ranges of config values, written as in mathematics: "[0, 1)"."""

import math
from typing import Any

from holorec_jax.errors import UserError


def check_ranges(config: Any, section: str, **ranges: str) -> None:
  """Holds numeric fields to their ranges.

  Args:
    config: a dataclass.
    section: where its fields are, such as "config.train".
    **ranges: field -> interval; a bracket includes the bound, "inf" is none.

  Raises:
    UserError: a value lies outside (NaN always does); names the dotted field.
  """
  for name, interval in ranges.items():
    value = getattr(config, name)
    low, high = map(float, interval[1:-1].split(","))
    inside = low < value < high
    inside |= interval[0] == "[" and value == low
    inside |= interval[-1] == "]" and value == high
    if not inside:
      wanted = f"a number in {interval}"
      if math.isinf(high):
        least = "at least" if interval[0] == "[" else "a number greater than"
        wanted = f"{least} {low:g}"
      raise UserError(f"{section}.{name} is {value}; expected {wanted}.")
