"""Qwen3's layers from a Hugging Face folder, without torch.

A folder holds config.json and *.safetensors: eight bytes with the length of a
JSON header, the header (name -> dtype, shape, place), then the arrays. Large
models are cut into several files, which model.safetensors.index.json lists.
Files are mapped, so that only what is asked for is read.
"""

import dataclasses
import functools
import json
import math
import mmap
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from holorec_jax.artifacts import read_json
from holorec_jax.errors import UserError
from holorec_jax.models.config import GeneratorConfig

INDEX = "model.safetensors.index.json"
_DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
}
# Ours -> theirs, within a layer; their kernels lie the other way round.
KERNELS = {
  ("attention", "query"): "self_attn.q_proj",
  ("attention", "key"): "self_attn.k_proj",
  ("attention", "value"): "self_attn.v_proj",
  ("attention", "output"): "self_attn.o_proj",
  ("mlp", "wi"): "mlp.up_proj",
  ("mlp", "wi_gate"): "mlp.gate_proj",
  ("mlp", "wo"): "mlp.down_proj",
}
HEAD_NORMS = {
  "query_norm": "self_attn.q_norm",
  "key_norm": "self_attn.k_norm",
}
NORMS = {
  "attention_norm": "input_layernorm",
  "mlp_norm": "post_attention_layernorm",
}


def qwen3_shape(folder: str | os.PathLike[str]) -> dict[str, Any]:
  """The leaves of config.model that a folder's config.json fixes.

  Raises:
    UserError: not the folder of a Qwen3, or one with parts that this backbone
      has not (scaled rotary embeddings, a sliding window, biases).
  """
  path = pathlib.Path(folder) / "config.json"
  if not path.is_file():
    raise UserError(
      f"{path} is not there; expected a folder with config.json and"
      " *.safetensors, as Hugging Face's save_pretrained writes it."
    )
  stored = read_json(path)
  rope = stored.get("rope_parameters") or stored.get("rope_scaling") or {}
  wanted = {
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rms_norm_eps": 1e-6,
  }
  strange = [
    f"{name} = {stored[name]!r} (expected {value!r})"
    for name, value in wanted.items()
    if stored.get(name, value) != value
  ]
  rope_type = rope.get("rope_type", rope.get("type", "default"))
  if rope_type != "default":
    strange.append(f"rope_type = {rope_type!r} (expected 'default')")
  if strange:
    raise UserError(
      f"{path} describes another network than Qwen3's dense one:"
      f" {', '.join(strange)}."
    )
  return {
    "d_model": stored["hidden_size"],
    "decoder_layers": stored["num_hidden_layers"],
    "num_heads": stored["num_attention_heads"],
    "num_kv_heads": stored["num_key_value_heads"],
    "head_dim": stored["head_dim"],
    "d_ff": stored["intermediate_size"],
    "rope_theta": float(rope.get("rope_theta", stored.get("rope_theta", 1e6))),
  }


def check_shape(
  folder: str | os.PathLike[str], config: GeneratorConfig
) -> None:
  """Raises UserError unless the folder holds a Qwen3 of the config's shape."""
  ours = dataclasses.asdict(config) | {
    "num_kv_heads": config.num_kv_heads or config.num_heads
  }
  other = [
    f"config.model.{leaf} = {value} (now {ours[leaf]})"
    for leaf, value in ({"backbone": "qwen3"} | qwen3_shape(folder)).items()
    if ours[leaf] != value
  ]
  if other:
    raise UserError(
      f"{folder} holds a network of another shape; to start from it set"
      f" {', '.join(other)}."
    )


def load_qwen3(
  folder: str | os.PathLike[str], config: GeneratorConfig
) -> dict[str, Any]:
  """The stack's parameters, to replace those of the same names.

  Args:
    folder: with config.json and *.safetensors.
    config: of the generator; its shape must be the folder's.

  Returns:
    Float32 arrays for params["decoder"]: the layers in the form that
    config.scan_layers asks for, and "final_norm". What a generator has beside
    them (codes, heads, "pool") starts afresh.

  Raises:
    UserError: the folder is no Qwen3, of other sizes (all of them are named),
      or lacks a weight.
  """
  check_shape(folder, config)
  weights = _Weights(pathlib.Path(folder))
  norm = {"final_norm": {"scale": weights.read("norm", (config.d_model,))}}
  numbers = range(config.decoder_layers)

  def read(number: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return weights.read(f"layers.{number}.{name}", shape)

  def read_stacked(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([read(number, name, shape) for number in numbers])

  if config.scan_layers:
    return norm | {"layers": _layer(config, read_stacked)}
  return norm | {
    f"blocks_{n}": _layer(config, functools.partial(read, n)) for n in numbers
  }


def _layer(
  config: GeneratorConfig,
  read: Callable[[str, tuple[int, ...]], np.ndarray],
) -> dict[str, Any]:
  """Parameters of a `qwen3.Block`, or of all; read(their name, shape)."""
  D, F, K = config.d_model, config.d_ff, config.head_dim
  inner = config.num_heads * K
  kv_inner = (config.num_kv_heads or config.num_heads) * K
  shapes = {
    "query": (inner, D),
    "key": (kv_inner, D),
    "value": (kv_inner, D),
    "output": (D, inner),
    "wi": (F, D),
    "wi_gate": (F, D),
    "wo": (D, F),
  }
  layer: dict[str, Any] = {"attention": {}, "mlp": {}}
  for (part, name), theirs in KERNELS.items():
    kernel = read(theirs, shapes[name]).swapaxes(-1, -2)
    layer[part][name] = {"kernel": kernel}
  for name, theirs in HEAD_NORMS.items():
    layer["attention"][name] = {"scale": read(theirs, (K,))}
  for name, theirs in NORMS.items():
    layer[name] = {"scale": read(theirs, (D,))}
  return layer


class _Weights:
  """All arrays of a folder, read by name."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._found: dict[str, tuple[mmap.mmap, int, dict]] = {}
    for path in self._files():
      if not path.is_file():
        raise UserError(f"{path} is missing: {INDEX} lists it. Fetch it again.")
      self._open(path)

  def _files(self) -> list[pathlib.Path]:
    index = self._folder / INDEX
    if index.is_file():
      names = set(read_json(index)["weight_map"].values())
      return [self._folder / name for name in sorted(names)]
    paths = sorted(self._folder.glob("*.safetensors"))
    if not paths:
      raise UserError(f"{self._folder} holds no *.safetensors.")
    return paths

  def _open(self, path: pathlib.Path) -> None:
    try:
      with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
      start = 8 + int.from_bytes(mapped[:8], "little")
      header = json.loads(mapped[8:start])
    except ValueError as error:
      raise UserError(
        f"{path} is no whole safetensors file ({error}): fetch it again."
      ) from None
    for name, entry in header.items():
      if name != "__metadata__":
        # A bare Qwen3Model has its weights' names without "model.".
        known = name.removeprefix("model.").removesuffix(".weight")
        self._found[known] = (mapped, start, entry)

  def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """One array in float32; UserError if it is not there, or other."""
    if name not in self._found:
      raise UserError(f"{self._folder} lacks the weight {name}.")
    mapped, start, entry = self._found[name]
    if tuple(entry["shape"]) != shape or entry["dtype"] not in _DTYPES:
      raise UserError(
        f"{self._folder}: the weight {name} is {entry['dtype']}"
        f" {entry['shape']}; expected {list(shape)} of {', '.join(_DTYPES)}."
      )
    begin, end = (start + offset for offset in entry["data_offsets"])
    if end > len(mapped):
      raise UserError(
        f"{self._folder}: the file with {name} is cut short: fetch it again."
      )
    flat = np.frombuffer(
      mapped, _DTYPES[entry["dtype"]], math.prod(shape), begin
    )
    return flat.reshape(shape).astype(np.float32)
