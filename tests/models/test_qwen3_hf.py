"""From a Hugging Face folder: our layers compute what transformers' do.

The folder is written by transformers where it is installed, else by hand, in
the names of its Qwen3ForCausalLM.
"""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.models.generator import Generator
from holorec_jax.models.hf_qwen3 import load_qwen3, qwen3_shape
from holorec_jax.models.qwen3 import Qwen3
from holorec_jax.train.losses import LossConfig
from holorec_jax.train.objective import GeneratorObjective
from holorec_jax.train.optimizer import OptimConfig
from holorec_jax.train.task import Task, TrainConfig

CONFIG = tiny.make_config(**QWEN3)
SIZES = {
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 6,
  "intermediate_size": 24,
}
STORED = {
  "model_type": "qwen3",
  "hidden_act": "silu",
  "attention_bias": False,
  "use_sliding_window": False,
  "rms_norm_eps": 1e-6,
  "rope_theta": 100,
  **SIZES,
}
SHAPES = {
  "self_attn.q_proj": (24, 16),
  "self_attn.k_proj": (12, 16),
  "self_attn.v_proj": (12, 16),
  "self_attn.o_proj": (16, 24),
  "self_attn.q_norm": (6,),
  "self_attn.k_norm": (6,),
  "mlp.up_proj": (24, 16),
  "mlp.gate_proj": (24, 16),
  "mlp.down_proj": (16, 24),
  "input_layernorm": (16,),
  "post_attention_layernorm": (16,),
}


def write_folder(folder, **changes) -> dict[str, np.ndarray]:
  """config.json, an index and two files, the second in bfloat16."""
  rng = np.random.default_rng(0)
  files = [{}, {"model.norm.weight": rng.normal(size=16)}]
  for name, shape in SHAPES.items():
    for layer in range(2):
      full = f"model.layers.{layer}.{name}.weight"
      files[layer][full] = rng.normal(size=shape)
  (folder / "config.json").write_text(json.dumps(STORED | changes))
  weight_map, written = {}, {}
  for number, arrays in enumerate(files):
    file = f"model-{number + 1:05d}-of-00002.safetensors"
    kind, dtype = [("F32", np.float32), ("BF16", jnp.bfloat16)][number]
    header, blob = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
      array = array.astype(dtype)
      offsets = [len(blob), len(blob) + array.nbytes]
      header[name] = {
        "dtype": kind,
        "shape": array.shape,
        "data_offsets": offsets,
      }
      blob += array.tobytes()
      weight_map[name], written[name] = file, array.astype(np.float32)
    head = json.dumps(header).encode()
    length = len(head).to_bytes(8, "little")
    (folder / file).write_bytes(length + head + blob)
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": weight_map}))
  return written


def shapes_of(config) -> dict:
  """The stack's parameters."""
  tokens = jnp.zeros((1, 1, 16)), jnp.ones((1, 1), jnp.int32), True
  return jax.eval_shape(
    lambda: Qwen3(config).init(jax.random.key(0), *tokens, method="encode")
  )["params"]


@pytest.mark.parametrize("scan", [False, True])
def test_every_weight_has_its_place(tmp_path, scan):
  written = write_folder(tmp_path)
  config = dataclasses.replace(CONFIG, scan_layers=scan)
  params = load_qwen3(tmp_path, config)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(
    jnp.shape, shapes_of(config)
  )
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))
  assert sum(x.size for x in jax.tree.leaves(params)) == sum(
    x.size for x in written.values()
  )
  block = params["layers"] if scan else params["blocks_1"]
  last = (1,) if scan else ()
  for ours, theirs in [
    (block["attention"]["key"]["kernel"], "self_attn.k_proj"),
    (block["mlp"]["wi_gate"]["kernel"], "mlp.gate_proj"),
    (block["mlp"]["wo"]["kernel"], "mlp.down_proj"),
    (block["attention"]["query_norm"]["scale"], "self_attn.q_norm"),
    (block["mlp_norm"]["scale"], "post_attention_layernorm"),
  ]:
    wanted = written[f"model.layers.1.{theirs}.weight"].T
    np.testing.assert_array_equal(ours[last], wanted)


def test_logits_are_those_of_transformers(tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  theirs = transformers.Qwen3ForCausalLM(
    transformers.Qwen3Config(
      vocab_size=40,
      initializer_range=0.3,
      tie_word_embeddings=False,
      max_position_embeddings=64,
      rope_parameters={"rope_type": "default", "rope_theta": 100.0},
      **SIZES,
    )
  ).eval()
  with torch.no_grad():
    for name, weight in theirs.named_parameters():
      if "norm" in name:
        weight.add_(0.3 * torch.randn(weight.shape))
  theirs.save_pretrained(tmp_path, max_shard_size="4KB")
  assert len(list(tmp_path.glob("*.safetensors"))) > 3
  x_BCD = np.random.default_rng(0).normal(size=(2, 9, 16)).astype(np.float32)
  with torch.no_grad():
    wanted_BCV = theirs(inputs_embeds=torch.from_numpy(x_BCD)).logits.numpy()
  head_DV = theirs.lm_head.weight.detach().numpy().T
  for scan in (False, True):
    config = dataclasses.replace(CONFIG, scan_layers=scan)
    params = load_qwen3(tmp_path, config)
    encoded = tiny.jit(
      lambda params, config=config: Qwen3(config).apply(
        {"params": params}, x_BCD, jnp.ones((2, 9), int), True, method="encode"
      )
    )(params)
    logits_BCV = encoded.states_BCD @ head_DV
    np.testing.assert_allclose(logits_BCV, wanted_BCV, atol=1e-4)
  assert np.std(wanted_BCV) > 0.5


def test_other_sizes_are_named(tmp_path):
  write_folder(tmp_path)
  config = dataclasses.replace(CONFIG, d_ff=32, num_kv_heads=0)
  with pytest.raises(UserError) as error:
    load_qwen3(tmp_path, config)
  assert "config.model.num_kv_heads = 2 (now 4)" in str(error.value)
  assert "config.model.d_ff = 24 (now 32)" in str(error.value)
  assert "d_model" not in str(error.value)
  assert qwen3_shape(tmp_path)["rope_theta"] == 100.0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"model_type": "llama"}, "model_type = 'llama'"),
    ({"attention_bias": True}, "attention_bias = True"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_type = 'yarn'"),
  ],
)
def test_other_networks_are_refused(tmp_path, changes, message):
  write_folder(tmp_path, **changes)
  with pytest.raises(UserError, match=message):
    load_qwen3(tmp_path, CONFIG)


def test_what_is_missing_or_cut_is_named(tmp_path):
  with pytest.raises(UserError, match=r"config.json is not there"):
    load_qwen3(tmp_path, CONFIG)
  write_folder(tmp_path)
  second = tmp_path / "model-00002-of-00002.safetensors"
  whole = second.read_bytes()
  second.write_bytes(whole[:-10])
  with pytest.raises(UserError, match=r"layers.1.*is cut short"):
    load_qwen3(tmp_path, CONFIG)
  second.write_bytes(whole[:100])
  with pytest.raises(UserError, match=r"00002.* no whole safetensors"):
    load_qwen3(tmp_path, CONFIG)
  second.unlink()
  with pytest.raises(UserError, match=r"00002.* is missing"):
    load_qwen3(tmp_path, CONFIG)
  (tmp_path / "model.safetensors.index.json").unlink()
  with pytest.raises(UserError, match=r"lacks the weight norm"):
    load_qwen3(tmp_path, CONFIG)


def test_training_starts_from_a_folder(tmp_path):
  """All of the stack is the folder's, on every mesh; all else is random."""
  write_folder(tmp_path)
  config = dataclasses.replace(CONFIG, scan_layers=True)
  loaded = load_qwen3(tmp_path, config)
  objective = GeneratorObjective(Generator(config, 2, 8), LossConfig())
  mesh = sharding.make_mesh(shape=sharding.MeshConfig(fsdp=4))
  optim, train = OptimConfig(average_decay=0.9), TrainConfig()
  plain = Task(objective, Source(), None, None, mesh, optim, train, tmp_path)
  begun = dataclasses.replace(plain, read_initial=lambda: {"decoder": loaded})
  drawn, state = plain.start(), begun.start()
  for tree in (state.params, state.average):
    got = {part: tree["decoder"][part] for part in loaded}
    chex.assert_trees_all_equal(got, loaded)
    expected = jax.tree.map(lambda x: x, drawn.params)
    expected["decoder"] = expected["decoder"] | loaded
    chex.assert_trees_all_equal(tree, expected)
  places = [jax.tree.map(lambda x: x.sharding, s) for s in (drawn, state)]
  assert places[0] == places[1]


@dataclasses.dataclass(frozen=True)
class Source:
  """As much of the input as a task has to know at its start."""

  batches_per_epoch: int = 3
