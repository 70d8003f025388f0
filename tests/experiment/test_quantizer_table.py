"""The table of quantizers on a generated data set, and going on with it."""

import dataclasses

import pytest
from tiny_run import TINY

from holorec_jax import artifacts
from holorec_jax.experiment import preparation, quantizer_table
from holorec_jax.quantize import quantizers
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


def test_cases_differ_from_the_config_in_what_their_names_say():
  sid = TINY.sid
  cases = quantizer_table.make_cases(sid, TINY.vectors)
  assert cases["nested"] == quantizer_table.Case(sid, TINY.vectors)
  rqvae = cases["rqvae"].sid.nested
  assert rqvae == dataclasses.replace(TINY.sid.nested, dims=(4,), balance=0.0)
  s2gr = cases["collaborative"]
  assert s2gr.sid.nested.uniformity == 0.1 and s2gr.sid.nested.levels == 3
  assert s2gr.vectors.smooth_alpha == 0.5
  assert {case.sid.quantizer for case in cases.values()} == set(
    quantizers.QUANTIZERS
  )


@pytest.fixture
def lighter(monkeypatch):
  """The kind that fits in a second alone."""
  sid = SidConfig("rq_kmeans", rq_kmeans=RqKmeansConfig(2, 8, iterations=3))
  case = quantizer_table.Case(sid, TINY.vectors)
  monkeypatch.setattr(
    quantizer_table, "make_cases", lambda *_: {"one": case, "two": case}
  )


def test_goes_on_where_it_stopped(lighter, tmp_path, monkeypatch, capsys):
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
    quantizer_table.compare(TINY, tmp_path)
  quantizer_table.compare(TINY, tmp_path)
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
  quantizer_table.compare(other, tmp_path)
  assert len(fits) == 5
