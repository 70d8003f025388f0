"""A T5 folder: what it refuses, and that transformers finds our items with it.

Where transformers is not installed, a Python that has it may be named by the
environment variable TRANSFORMERS_PYTHON.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.decode.requests import make_histories
from holorec_jax.errors import UserError
from holorec_jax.export import hf_t5
from holorec_jax.models.layer_stack import stack_layers

T5_LIKE = dict(
  history="codes",
  causal_history=False,
  cross_bias=False,
  start="bos",
  encoder_layers=2,
  decoder_layers=2,
)
ITEMS, BEAM, K = 60, 12, 4
CATALOG = tiny.make_catalog(ITEMS, levels=3, codes=5)
IDS = [f"item {item}" for item in range(ITEMS)]
HISTORIES = [[3], [5, 9, 40], [59, 1, 2, 3, 4]]
GENERATE = """
import json, sys
import torch
from transformers import T5ForConditionalGeneration
folder, histories, k = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = T5ForConditionalGeneration.from_pretrained(folder).eval()
items = [json.loads(line) for line in open(folder + "/items.jsonl")]
next_ = {}
for item in items:
  for level, token in enumerate(item["tokens"]):
    next_.setdefault(tuple(item["tokens"][:level]), set()).add(token)
ids = {tuple(item["tokens"]): item["id"] for item in items}
def allowed(user, row):
  return sorted(next_[tuple(row.tolist()[1:])])
answers = []
for history in histories:
  tokens = [token for item in history for token in items[item]["tokens"]]
  found = model.generate(
    input_ids=torch.tensor([tokens]),
    attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
    prefix_allowed_tokens_fn=allowed,
    num_return_sequences=k,
    output_scores=True,
    return_dict_in_generate=True,
  )
  rows = [ids[tuple(row[1:])] for row in found.sequences.tolist()]
  answers.append([rows, found.sequences_scores.tolist()])
print("answers", json.dumps(answers))
"""


def find_python() -> str:
  """A Python with transformers; skips without one."""
  if importlib.util.find_spec("transformers") is not None:
    return sys.executable
  if not os.environ.get("TRANSFORMERS_PYTHON"):
    pytest.skip("transformers is not installed")
  return os.environ["TRANSFORMERS_PYTHON"]


@pytest.mark.parametrize(("tied", "gated"), [(True, False), (False, True)])
def test_transformers_finds_our_items(tmp_path, tied, gated):
  python = find_python()
  model, params = tiny.make_model(
    CATALOG, softmax="tree", tied_heads=tied, gated_mlp=gated, **T5_LIKE
  )
  hf_t5.write(tmp_path, params, model.config, CATALOG, IDS, IDS, BEAM)
  done = subprocess.run(
    [python, "-c", GENERATE, str(tmp_path), json.dumps(HISTORIES), str(K)],
    capture_output=True,
    text=True,
    env=os.environ | {"HF_HUB_OFFLINE": "1"},
  )
  assert done.returncode == 0, done.stderr
  answers = json.loads(done.stdout.partition("answers ")[2])
  ours = Recommender(
    TreeEngine(model),
    params,
    CATALOG,
    sharding.make_mesh(),
    max_history=6,
    config=SearchConfig(beam=BEAM, k=K, batch=8),
  ).recommend(make_histories(HISTORIES))
  for user, (ids, scores) in enumerate(answers):
    assert ids == [IDS[item] for item in ours.items_UK[user]]
    np.testing.assert_allclose(scores, ours.scores_UK[user], atol=1e-4)


def test_stacked_layers_are_written_as_single_ones(tmp_path):
  model, params = tiny.make_model(CATALOG, **T5_LIKE)
  stacked = dataclasses.replace(model.config, scan_layers=True)
  files = []
  for config, tree in ((model.config, params), (stacked, stack_layers(params))):
    hf_t5.write(tmp_path, tree, config, CATALOG, IDS, IDS, BEAM)
    files.append((tmp_path / "model.safetensors").read_bytes())
  assert files[0] == files[1]


@pytest.mark.parametrize(
  "change",
  [
    {"history": "pooled"},
    {"causal_history": True},
    {"cross_bias": True},
    {"start": "last"},
    {"repeat_bias": True},
    {"thought": "holorec"},
  ],
)
def test_what_t5_cannot_express_is_refused(tmp_path, change):
  config = tiny.make_config(**T5_LIKE | change)
  (name,) = change
  with pytest.raises(
    UserError, match=f"no counterpart .* config.model: {name}"
  ):
    hf_t5.write(tmp_path, {}, config, CATALOG, IDS, IDS, BEAM)
  assert not list(tmp_path.iterdir())
