"""The generator's network in torch, for search (licence: BSD-3-Clause).

What `transformers_t5` expresses, computed without detours: products that read
the same input are one product, residuals are added by the product itself,
heads are views, the context's keys and values are made once per user, and a
step computes the logits of its own level only.

The letters are the project's; P are all rows, B * C or B * M, and E = H * K.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from holorec_jax.export import hf
from holorec_jax.models.config import GeneratorConfig
from holorec_jax.nn.layers import relative_bucket

EPSILON = 1e-6


class Mlp(NamedTuple):
  """Weights of a feed-forward; a gated one has the gate's before wi's."""

  norm_D: torch.Tensor
  wi_FD: torch.Tensor
  wo_DF: torch.Tensor
  gated: bool

  def add_to(self, x_PD: torch.Tensor) -> None:
    """Adds its output to the residual stream, in place."""
    hidden_PF = F.linear(_normed(x_PD, self.norm_D), self.wi_FD)
    if self.gated:
      gate_PF, hidden_PF = hidden_PF.chunk(2, dim=-1)
      hidden_PF = F.gelu(gate_PF, approximate="tanh").mul_(hidden_PF)
    else:
      hidden_PF.relu_()
    x_PD.addmm_(hidden_PF, self.wo_DF.T)


class SelfAttention(NamedTuple):
  """Weights; queries, keys and values are one product."""

  norm_D: torch.Tensor
  qkv_ED: torch.Tensor
  output_DE: torch.Tensor


class CrossAttention(NamedTuple):
  """Weights without those of keys and values, which all layers share."""

  norm_D: torch.Tensor
  query_ED: torch.Tensor
  output_DE: torch.Tensor


class Context(NamedTuple):
  """What all beams of a user share.

  Attributes:
    layers: per decoder layer, keys and values (2, B, H, C, K), as views.
    bias_B11C: 0, and a large negative number at empty slots.
  """

  layers: list[torch.Tensor]
  bias_B11C: torch.Tensor


# Per decoder layer and level so far: keys and values (2, B, M, H, K). All
# beams share level 0's, which is of one branch (M = 1).
Cache = list[list[torch.Tensor]]


class TorchGenerator:
  """Encoder and stepwise decoder on copied weights."""

  def __init__(
    self, params: dict, config: GeneratorConfig, slots: int, device: str
  ):
    """Copies the weights.

    Args:
      params: the generator's parameters.
      config: its configuration; T5 must be able to express it.
      slots: most items of a history.
      device: where torch computes.

    Raises:
      ValueError: T5 cannot express the configuration.
    """
    hf.check(config)
    self.config, self.device = config, device
    self.embedding_XD = self._put(hf.token_embedding(params))
    self.bos_D = self._put(params["bos"])
    self.levels = len(params["code_embedding"])
    self.head_LVD = self._put(hf.token_heads(params, config)).view(
      self.levels, -1, config.d_model
    )
    encoder, decoder = params["encoder"], params["decoder"]
    self.encoder = [
      (self._self_attention(block, "attention"), self._mlp(block))
      for block in _blocks(encoder)
    ]
    self.encoder_norm_D = self._put(encoder["final_norm"]["scale"])
    self.decoder = [
      (
        self._self_attention(block, "self_attention"),
        self._cross_attention(block),
        self._mlp(block),
      )
      for block in _blocks(decoder)
    ]
    self.decoder_norm_D = self._put(decoder["final_norm"]["scale"])
    # Keys and values of all layers' contexts are one product, too.
    self.context_XD = self._kernels(
      *(
        block["cross_attention"][name]
        for block in _blocks(decoder)
        for name in ("key", "value")
      )
    )
    width = slots * self.levels
    self.encoder_bias_HCC = self._relative_bias(encoder, width, True)
    self.own_bias_HSS = self._relative_bias(decoder, self.levels, False)

  def encode(self, token_BC: torch.Tensor, mask_BC: torch.Tensor) -> Context:
    """Encodes histories and projects the context; empty slots are False."""
    B, C = token_BC.shape
    bias_B11C = torch.where(mask_BC, 0.0, -1e9)[:, None, None]
    bias_BHCC = self.encoder_bias_HCC[:, :C, :C] + bias_B11C
    x_PD = self.embedding_XD[token_BC.reshape(-1)]
    for attention, mlp in self.encoder:
      qkv = F.linear(_normed(x_PD, attention.norm_D), attention.qkv_ED)
      query, key, value = self._split(qkv, B).transpose(2, 3)
      mixed_PE = _attend(query, key, value, bias_BHCC)
      x_PD.addmm_(mixed_PE, attention.output_DE.T)
      mlp.add_to(x_PD)
    states_PD = _normed(x_PD, self.encoder_norm_D)
    kv = self._split(F.linear(states_PD, self.context_XD), B).transpose(2, 3)
    return Context(list(kv.split(2)), bias_B11C)

  def open_cache(self) -> Cache:
    """Nothing fed yet."""
    return [[] for _ in self.decoder]

  def level(
    self, token_BM: torch.Tensor | None, cache: Cache, context: Context
  ) -> torch.Tensor:
    """Feeds the codes chosen before; appends a slot to the cache.

    Args:
      token_BM: tokens of every beam; None at level 0, which feeds BOS.
      cache: of `open_cache`, reordered to fit the beams.
      context: of the users.

    Returns:
      (B, M, V) logits of the level's codes.
    """
    B, level = len(context.bias_B11C), len(cache[0])
    if token_BM is None:
      x_PD = self.bos_D.repeat(B, 1)
    else:
      x_PD = self.embedding_XD[token_BM.view(-1)]
    for (own, cross, mlp), slots, (key, value) in zip(
      self.decoder, cache, context.layers
    ):
      qkv = F.linear(_normed(x_PD, own.norm_D), own.qkv_ED)
      query, *kv = self._split(qkv, B).split((1, 2))
      slots.append(*kv)
      mixed_PE = _attend_own(query[0], slots, self.own_bias_HSS[:, level])
      x_PD.addmm_(mixed_PE, own.output_DE.T)
      query_PE = F.linear(_normed(x_PD, cross.norm_D), cross.query_ED)
      query = self._split(query_PE, B)[0].transpose(1, 2)
      mixed_PE = _attend(query, key, value, context.bias_B11C)
      x_PD.addmm_(mixed_PE, cross.output_DE.T)
      mlp.add_to(x_PD)
    states_PD = _normed(x_PD, self.decoder_norm_D)
    return F.linear(states_PD, self.head_LVD[level]).view(B, len(x_PD) // B, -1)

  def follow(self, cache: Cache, parent_BM: torch.Tensor) -> Cache:
    """Every beam takes over the slots of the beam that it continues."""
    B, M = parent_BM.shape

    def take(slot: torch.Tensor) -> torch.Tensor:
      beams = slot.shape[2]
      if beams == 1:
        return slot
      first_B1 = torch.arange(0, B * beams, beams, device=self.device)[:, None]
      row_P = (first_B1 + parent_BM).view(-1)
      rows = slot.flatten(1, 2).index_select(1, row_P)
      return rows.view(2, B, M, *slot.shape[3:])

    return [[take(slot) for slot in slots] for slots in cache]

  def _split(self, x_PX: torch.Tensor, users: int) -> torch.Tensor:
    """(B * N, n * H * K) -> (n, B, N, H, K), a view."""
    c = self.config
    shape = (users, len(x_PX) // users, -1, c.num_heads, c.head_dim)
    return x_PX.view(shape).movedim(2, 0)

  def _put(self, array) -> torch.Tensor:
    return torch.tensor(
      np.ascontiguousarray(array, np.float32), device=self.device
    )

  def _kernels(self, *layers: dict) -> torch.Tensor:
    """Linear layers of one input as one: (outputs, inputs)."""
    kernels = [np.asarray(layer["kernel"]).T for layer in layers]
    return self._put(np.concatenate(kernels))

  def _self_attention(self, block: dict, name: str) -> SelfAttention:
    layer = block[name]
    norm = block[name.removesuffix("_attention") + "_norm"]
    return SelfAttention(
      self._put(norm["scale"]),
      self._kernels(layer["query"], layer["key"], layer["value"]),
      self._kernels(layer["output"]),
    )

  def _cross_attention(self, block: dict) -> CrossAttention:
    layer = block["cross_attention"]
    return CrossAttention(
      self._put(block["cross_norm"]["scale"]),
      self._kernels(layer["query"]),
      self._kernels(layer["output"]),
    )

  def _mlp(self, block: dict) -> Mlp:
    layer, gated = block["mlp"], self.config.gated_mlp
    inputs = ("wi_gate", "wi") if gated else ("wi",)
    return Mlp(
      self._put(block["mlp_norm"]["scale"]),
      self._kernels(*(layer[name] for name in inputs)),
      self._kernels(layer["wo"]),
      gated,
    )

  def _relative_bias(self, stack: dict, width: int, bidirectional: bool):
    """(H, width, width) bias of query to key positions."""
    position = jnp.arange(width)
    distance = position[:, None] - position
    bucket = np.asarray(relative_bucket(distance, bidirectional))
    return self._put(np.asarray(stack["relative_bias"]["table"])[:, bucket])


def _normed(x_PD: torch.Tensor, scale_D: torch.Tensor) -> torch.Tensor:
  return F.rms_norm(x_PD, scale_D.shape, scale_D, EPSILON)


def _attend(query, key, value, bias) -> torch.Tensor:
  """(B, H, N, K) queries to a context that they share -> (B * N, H * K)."""
  mixed_BHNK = F.scaled_dot_product_attention(
    query, key, value, attn_mask=bias, scale=1.0
  )
  return mixed_BHNK.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_own(query_BMHK, slots, bias_HS) -> torch.Tensor:
  """Every beam to its own few slots -> (B * M, H * K).

  Products and sums: matrix products of this size cost more to begin than to
  compute.
  """
  logits = [(query_BMHK * key_BMHK).sum(-1) for key_BMHK, _ in slots]
  logits_BMHS = torch.stack(logits, dim=-1) + bias_HS[:, : len(slots)]
  weights_BMHS = logits_BMHS.softmax(dim=-1)
  mixed_BMHK = torch.zeros_like(query_BMHK)
  for slot, (_, value_BMHK) in enumerate(slots):
    mixed_BMHK.addcmul_(weights_BMHS[..., slot, None], value_BMHK)
  return mixed_BMHK.flatten(2).flatten(0, 1)


def _blocks(stack: dict) -> list[dict]:
  depth = sum(name.startswith("blocks_") for name in stack)
  return [stack[f"blocks_{number}"] for number in range(depth)]
