"""The pod configs: what they say of themselves is so."""

import functools

import jax
import pytest

from configs.pod import holorec_1b, tiny
from holorec_jax.config_fields import to_dataclass
from holorec_jax.experiment.config import Config
from holorec_jax.models.generator import Generator
from holorec_jax.train.objective import init_params


def count(module) -> tuple[int, int]:
  """Parameters of all and of the layers, without creating any."""
  config = to_dataclass(Config, module.get_config())
  nested = config.sid.nested
  model = Generator(config.model, nested.levels, nested.codes)
  shapes = jax.eval_shape(functools.partial(init_params, model, 0))
  decoder = shapes["decoder"]
  layers = [decoder["layers"], decoder["final_norm"]]
  return tuple(
    sum(x.size for x in jax.tree.leaves(tree)) for tree in (shapes, layers)
  )


def test_parameters_are_as_many_as_the_docstring_says():
  whole, layers = count(holorec_1b)
  assert f"exactly\n{whole:,} parameters: {layers:,} in" in holorec_1b.__doc__
  # Attention reads and writes D with heads and heads of keys; three matrices
  # in the MLP; norms of D and of a head's width.
  attention = 2 * 2048 * (16 + 8) * 128
  each = attention + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128
  assert layers == 28 * each + 2048


@pytest.mark.parametrize("variant", ["thinking", "non_thinking", "s2gr"])
def test_the_tiny_one_has_the_same_form(variant):
  small = to_dataclass(Config, tiny.get_config(variant))
  large = to_dataclass(Config, holorec_1b.get_config(variant))
  assert small.systems == large.systems
  for leaf in ("backbone", "scan_layers", "remat", "history", "think"):
    assert getattr(small.model, leaf) == getattr(large.model, leaf)
  assert count(tiny)[0] < 500_000
