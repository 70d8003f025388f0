"""Every config file loads, and bad values are refused by name at once."""

import functools
import importlib
import operator
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import beauty, paper, scientific_small, systems, toys
from holorec_jax.codes import Codes
from holorec_jax.config_fields import to_dataclass
from holorec_jax.errors import UserError
from holorec_jax.experiment.config import Config, as_config_dict
from holorec_jax.models import thoughts
from holorec_jax.models.generator import Generator
from holorec_jax.quantize import collisions
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.types import Batch

FOLDER = pathlib.Path(beauty.__file__).parent
MODULES = [
  ".".join(path.relative_to(FOLDER).with_suffix("").parts)
  for path in sorted(FOLDER.rglob("*.py"))
  if path.stem != "systems"
]


@pytest.mark.parametrize("name", MODULES)
def test_every_file_loads(name):
  module = importlib.import_module(f"configs.{name}")
  to_dataclass(Config, module.get_config())


def test_every_variant_loads_and_differs():
  known = set()
  for variant in systems.VARIANTS:
    config = to_dataclass(Config, beauty.get_config(variant))
    known.add(repr(config))
  assert len(known) == len(systems.VARIANTS)


@pytest.mark.parametrize("module", [beauty, toys, scientific_small])
def test_unknown_variant(module):
  with pytest.raises(UserError, match=r"'foo'; .* one of thinking, .*tiger"):
    module.get_config("foo")


def test_the_network_of_the_paper():
  config = to_dataclass(Config, paper.get_config())
  levels, codes = config.sid.nested.levels, config.sid.nested.codes
  model = Generator(config.model, levels, codes)
  objective = GeneratorObjective(model, config.loss)
  params = jax.eval_shape(lambda: objective.init_params(0))
  # Per layer: attention 4 D H K, feed-forward 2 D F, norms D each.
  attention, mlp, norm = 4 * 128 * 6 * 64, 2 * 128 * 1024, 128
  layers = 4 * (attention + mlp + 2 * norm) + 4 * (
    2 * attention + mlp + 3 * norm
  )
  total = sum(x.size for x in jax.tree.leaves(params))
  # Beside them: embeddings, heads, biases, the thought.
  assert layers < total < 1.1 * layers

  rows, slots = 4, config.input.max_history
  tables = Codes(
    sids_IRL=jnp.zeros((7, len(config.sid.nested.dims), levels), jnp.int32),
    fine_IL=jnp.zeros((7, levels), jnp.int32),
    share_IL=jnp.ones((7, levels)),
  )
  batch = Batch(
    item_BT=jnp.zeros((rows, slots), jnp.int32),
    segment_BT=jnp.ones((rows, slots), jnp.int32),
    last_BN=jnp.zeros((rows, 1), jnp.int32),
    target_BN=jnp.zeros((rows, 1), jnp.int32),
    weight_BN=jnp.ones((rows, 1)),
  )
  key = jax.random.key(0)
  loss, metrics = jax.eval_shape(
    lambda params: objective.loss(params, batch, tables, key), params
  )
  assert loss.shape == ()
  assert f"accuracy/level_{levels - 1}" in metrics


@pytest.mark.parametrize(
  ("variant", "leaves"),
  [
    ("s2gr", {"s2gr.align": 1.0, "s2gr.nce": 1.0}),
    ("s2gr_no_align", {"s2gr.align": 0.0, "s2gr.nce": 1.0}),
    ("reg4rec", {"reg4rec.heads": "cosine", "reg4rec.waiting": 1.0}),
    ("sasrec", {"sasrec.d_model": 128, "input.rows": "packed"}),
    ("tiger", {"model.causal_history": False, "input.rows": "one_target"}),
  ],
)
def test_the_size_of_the_papers_has_their_weights(variant, leaves):
  config = to_dataclass(Config, paper.get_config(variant))
  found = {leaf: operator.attrgetter(leaf)(config) for leaf in leaves}
  assert found == leaves


def refusal(**changes) -> str:
  """The message that refuses config.SECTION.FIELD = value."""
  config = as_config_dict(Config())
  for name, value in changes.items():
    section, field = name.split("__")
    leaf = functools.reduce(operator.getitem, section.split("."), config)
    leaf[field] = value
  with pytest.raises(UserError) as error:
    to_dataclass(Config, config)
  return str(error.value)


@pytest.mark.parametrize(
  ("section", "field", "values"),
  [
    ("search", "k", (0, -1)),
    ("search", "batch", (0,)),
    ("sid.nested", "dims", ((), (0, 8), (16, 8), (8, 8))),
    ("sid.nested", "levels", (0,)),
    ("sid.nested", "codes", (0,)),
    ("sid.nested", "hidden", ((16, 0),)),
    ("sid.nested", "holistic", ("naive",)),
    ("sid.nested", "commitment", (-0.1, np.inf)),
    (
      "sid.nested",
      "balance",
      (-0.1, 0.5, 3.0),
    ),  # 1 - 2 balance weighs distances
    ("sid.nested", "batch_size", (0,)),
    ("sid.nested", "learning_rate", (0.0, -1.0, np.nan)),
    ("sid.nested", "weight_decay", (-0.1,)),
    ("sid.nested", "warmup_steps", (0,)),
    ("sid.nested", "steps", (0,)),
    ("sid.nested", "patience", (0,)),
    ("sid.nested", "seed", (-1,)),
    ("catalog", "collisions", ("leav", "")),
    ("catalog", "smoothing", (0.0, -1.0)),
    ("model", "history", ("tokens",)),
    ("model", "start", ("first",)),
    ("model", "thought", ("deep",)),
    ("model", "d_model", (0,)),
    ("model", "num_heads", (0,)),
    ("model", "head_dim", (-4,)),
    ("model", "d_ff", (0,)),
    ("model", "encoder_layers", (-1,)),
    ("model", "decoder_layers", (0,)),
    ("model", "dropout", (-0.1, 1.0, np.nan)),
    ("model", "thought_temperature", (0.0,)),
    ("input", "rows", ("both",)),
    ("input", "max_history", (0,)),
    ("input", "targets_per_batch", (0,)),
    ("input", "slots_per_row", (-1, 19)),
    ("input", "seed", (-1,)),
    ("loss", "align", (-0.5,)),
    ("loss", "thought", (-0.5, np.inf)),
    ("loss", "thought_match", (-1.0,)),
    ("loss", "label_smoothing", (-0.1, 1.0)),
    ("optim", "learning_rate", (0.0, -1e-3, np.inf)),
    ("optim", "warmup_share", (-0.1, 0.6)),
    ("optim", "final_share", (-0.1, 1.1)),
    ("optim", "weight_decay", (-0.1,)),
    ("optim", "clip_norm", (0.0,)),
    ("optim", "b2", (1.0,)),
    ("optim", "average_decay", (1.0, -0.1)),
    ("train", "epochs", (0,)),
    ("train", "evaluate_every", (0,)),
    ("train", "patience", (0,)),
    ("train", "valid_users", (0,)),
    ("train", "log_every", (0,)),
    ("train", "checkpoints", (0,)),
    ("train", "dtype", ("float16", "f32")),
    ("train", "seed", (-1,)),
  ],
)
def test_bad_values_are_refused_by_name(section, field, values):
  for value in values:
    message = refusal(**{f"{section}__{field}": value})
    assert message.startswith(f"config.{section}.{field}")
    assert "expected" in message or "less than" in message
    assert repr(value) in message or str(value) in message


def test_a_beam_holds_what_is_asked_for():
  wanted = "config.search.beam is 10, less than config.search.k = 20"
  assert refusal(search__beam=10).startswith(wanted)
  assert "beam is 20, less than" in refusal(search__k=50)


@pytest.mark.parametrize(
  ("buckets", "message"),
  [
    ((), "expected lengths that grow"),
    ((0, 20), "expected lengths that grow"),
    ((10, 5, 20), "expected lengths that grow"),
    ((10, 10, 20), "expected lengths that grow"),
    ((5, 10), "ends at 10; the last bucket must be config.input.max_history"),
  ],
)
def test_buckets_grow_to_the_longest_history(buckets, message):
  changes = {"input__rows": "one_target", "input__length_buckets": buckets}
  assert message in refusal(**changes)
  packed = as_config_dict(Config())
  packed.input.length_buckets = buckets  # which only one_target reads
  to_dataclass(Config, packed)


def test_choices_are_those_of_their_tables():
  for thought in thoughts.THOUGHTS:
    assert repr(thought) in refusal(model__thought="?")
  for policy in collisions.POLICIES:
    assert repr(policy) in refusal(catalog__collisions="?")
