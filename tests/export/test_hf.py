"""A Hugging Face folder: that transformers finds our items with it, as a T5 or
a Qwen3, and what it refuses.

Where transformers is not installed, a Python that has it may be named by the
environment variable TRANSFORMERS_PYTHON.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

from holorec_jax import sharding
from holorec_jax.decode.engine import TreeEngine
from holorec_jax.decode.recommender import Recommender, SearchConfig
from holorec_jax.decode.requests import make_histories
from holorec_jax.errors import UserError
from holorec_jax.export import hf
from holorec_jax.models import hf_qwen3
from holorec_jax.models.layer_stack import stack_layers

T5_LIKE = dict(
  history="codes",
  causal_history=False,
  cross_bias=False,
  start="bos",
  encoder_layers=2,
  decoder_layers=2,
)
QWEN3_LIKE = dict(QWEN3, history="codes", cross_bias=False, start="bos")
ITEMS, BEAM, K = 60, 12, 4
CATALOG = tiny.make_catalog(ITEMS, levels=3, codes=5)
IDS = [f"item {item}" for item in range(ITEMS)]
HISTORIES = [[3], [5, 9, 40], [59, 1, 2, 3, 4]]
GENERATE = """
import json, sys
import torch
import transformers
folder, histories, k = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
(name,) = json.load(open(folder + "/config.json"))["architectures"]
model = getattr(transformers, name).from_pretrained(folder).eval()
items = [json.loads(line) for line in open(folder + "/items.jsonl")]
next_ = {}
for item in items:
  for level, token in enumerate(item["tokens"]):
    next_.setdefault(tuple(item["tokens"][:level]), set()).add(token)
ids = {tuple(item["tokens"]): item["id"] for item in items}
answers = []
for history in histories:
  tokens = [token for item in history for token in items[item]["tokens"]]
  first = 1
  if not model.config.is_encoder_decoder:
    tokens.append(model.config.bos_token_id)
    first = len(tokens)
  def allowed(user, row):
    return sorted(next_[tuple(row.tolist()[first:])])
  found = model.generate(
    input_ids=torch.tensor([tokens]),
    attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
    prefix_allowed_tokens_fn=allowed,
    num_return_sequences=k,
    output_scores=True,
    return_dict_in_generate=True,
  )
  rows = [ids[tuple(row[first:])] for row in found.sequences.tolist()]
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


@pytest.mark.parametrize(
  "network",
  [
    T5_LIKE | {"tied_heads": True, "gated_mlp": False},
    T5_LIKE | {"tied_heads": False, "gated_mlp": True},
    QWEN3_LIKE | {"tied_heads": True},
    QWEN3_LIKE | {"tied_heads": False},
  ],
)
def test_transformers_finds_our_items(tmp_path, network):
  python = find_python()
  model, params = tiny.make_model(CATALOG, softmax="tree", **network)
  hf.write(tmp_path, params, model.config, CATALOG, IDS, IDS, BEAM)
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


@pytest.mark.parametrize("network", [T5_LIKE, QWEN3_LIKE])
def test_stacked_layers_are_written_as_single_ones(tmp_path, network):
  model, params = tiny.make_model(CATALOG, **network)
  stacked = dataclasses.replace(model.config, scan_layers=True)
  files = []
  for config, tree in ((model.config, params), (stacked, stack_layers(params))):
    hf.write(tmp_path, tree, config, CATALOG, IDS, IDS, BEAM)
    files.append((tmp_path / "model.safetensors").read_bytes())
  assert files[0] == files[1]


@pytest.mark.parametrize(
  ("network", "change"),
  [(T5_LIKE, {"causal_history": True}), (T5_LIKE, {"cross_bias": True})]
  + [
    (network, change)
    for network in (T5_LIKE, QWEN3_LIKE)
    for change in (
      {"history": "pooled"},
      {"start": "last"},
      {"repeat_bias": True},
      {"thought": "holorec"},
    )
  ],
)
def test_what_a_form_cannot_express_is_refused(tmp_path, network, change):
  config = tiny.make_config(**network | change)
  (name,) = change
  with pytest.raises(
    UserError, match=f"no counterpart .* config.model: {name}"
  ):
    hf.write(tmp_path, {}, config, CATALOG, IDS, IDS, BEAM)
  assert not list(tmp_path.iterdir())


def test_a_qwen3_is_read_back(tmp_path):
  """By what training may start from: the stack, with all its weights."""
  model, params = tiny.make_model(CATALOG, **QWEN3_LIKE)
  hf.write(tmp_path, params, model.config, CATALOG, IDS, IDS, BEAM)
  again = hf_qwen3.load_qwen3(tmp_path, model.config)
  chex.assert_trees_all_equal(again, jax.device_get(params["decoder"]))
