"""Pieces that the tests of results, plots and report share."""

import numpy as np
import pytest

from holorec_jax.evaluate import results, targets

HEALTH = {
  "granularities": [
    {
      "dims": dims,
      "collision_rate": 0.1,
      "largest_group": 3,
      "levels": [
        {"used": 3, "dead": 1, "perplexity": 2.5},
        {"used": 4, "dead": 0, "perplexity": 3.9},
      ],
    }
    for dims in (2, 4)
  ],
  "reconstruction": 0.25,
  "neighbour_agreement": 0.5,
}
ITEMS = 6


def tiny():
  """Three users whose targets are items 1, 2, 3 and one list each."""
  events_E = np.array([0, 1, 4, 2, 5, 0, 3], np.int32)
  rows = targets.Targets(
    events_E=events_E,
    users_U=np.arange(3),
    starts_U=np.array([0, 2, 4]),
    ends_U=np.array([1, 3, 6]),
  )
  full = np.tile(np.arange(ITEMS, dtype=np.int32), (3, 1))
  best = np.stack([np.roll(full[0], -item) for item in (1, 2, 3)])
  right = targets.Lists(best, best)
  plain = targets.Lists(full, full)
  return rows, right, plain


@pytest.fixture
def health():
  """health.json of two granularities, two levels, four codes."""
  return HEALTH


@pytest.fixture
def lists():
  """(rows, lists that are right, lists of all items in order)."""
  return tiny()


@pytest.fixture
def build():
  """Builds results from the tiny lists; arguments may be overridden."""
  return build_tiny


def build_tiny(**overrides):
  rows, right, plain = tiny()
  arguments = {
    "systems": {
      "thinking": {"test": right, "valid": plain},
      "non_thinking": {"test": plain, "valid": plain},
    },
    "baselines": {"popularity": plain},
    "rows": {"test": rows, "valid": rows},
    "counts_I": np.array([9, 0, 3, 12, 1, 1]),
    "codes_IL": np.array([[0, 0], [0, 0], [1, 0], [1, 1], [2, 0], [2, 1]]),
    "seconds": {"train": 2.5},
  }
  return results.build(**(arguments | overrides))
