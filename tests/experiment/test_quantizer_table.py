"""The table of quantizers on a generated data set, and going on with it."""

import dataclasses

import pytest
from tiny_run import TINY

from holorec_jax import artifacts
from holorec_jax.experiment import preparation, quantizer_table
from holorec_jax.quantize.quantizers import SidConfig
from holorec_jax.quantize.rqkmeans import RqKmeansConfig

HEALTH = {
  "reconstruction": 0.25,
  "neighbour_agreement": 0.5,
  "granularities": [
    {"levels": []},
    {
      "dims": 4,
      "collision_rate": 0.1,
      "largest_group": 3,
      "levels": [
        {"used": 8, "dead": 0, "perplexity": 8.0},
        {"used": 6, "dead": 2, "perplexity": 4.0},
      ],
    },
  ],
}


def test_table_tells_the_fine_row_in_means_over_levels():
  table = quantizer_table.markdown(
    {"mine": {"seconds": 61.2, "health": HEALTH}}
  )
  assert table.splitlines()[2:] == [
    "| mine | 2 | 0.250 | 87.50% | 6 | 8 | 10.00% | 3 | 0.500 | 61 |"
  ]


def with_codes(config):
  """Two rows of the kind that fits in a second alone."""
  sid = SidConfig("rq_kmeans", rq_kmeans=RqKmeansConfig(2, 8, iterations=3))
  return dict.fromkeys(["one", "two"], dataclasses.replace(config, sid=sid))


def test_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
  preparation.prepare_data(TINY, tmp_path)
  fits = []
  measure = quantizer_table.measure

  def fail_at_second(*args):
    fits.append(args)
    if len(fits) == 2:
      raise KeyboardInterrupt
    return measure(*args)

  monkeypatch.setattr(quantizer_table, "measure", fail_at_second)
  with pytest.raises(KeyboardInterrupt):
    quantizer_table.compare(with_codes(TINY), TINY, tmp_path)
  quantizer_table.compare(with_codes(TINY), TINY, tmp_path)
  assert len(fits) == 3
  rows = artifacts.read_json(tmp_path / quantizer_table.RESULTS)
  assert list(rows) == ["one", "two"]
  assert rows["one"]["health"] == rows["two"]["health"]
  table = capsys.readouterr().out.splitlines()
  assert [line[:5] for line in table if line[:5] in ("| one", "| two")] == [
    "| one",
    "| two",
  ]
  # Other settings, other rows.
  other = dataclasses.replace(
    TINY, vectors=dataclasses.replace(TINY.vectors, smooth_hops=0)
  )
  quantizer_table.compare(with_codes(other), other, tmp_path)
  assert len(fits) == 5
