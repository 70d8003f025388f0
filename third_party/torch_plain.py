"""The same network in torch as one writes it first (licence: BSD-3-Clause).

What `torch_generator` merges is apart here: a product for every linear layer,
residuals added behind it, a cache that grows by concatenation. The algorithm is
the same: the context once per user, the level's own logits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from holorec_jax.models.config import GeneratorConfig
from third_party.torch_generator import (
  EPSILON,
  Cache,
  Context,
  Mlp,
  SelfAttention,
  TorchGenerator,
)


class Layer(NamedTuple):
  """Weights of an attention; keys and values of the context's are in it."""

  norm_D: torch.Tensor
  query_ED: torch.Tensor
  key_ED: torch.Tensor
  value_ED: torch.Tensor
  output_DE: torch.Tensor


class PlainGenerator(TorchGenerator):
  """Encoder and stepwise decoder without merged products."""

  def __init__(
    self, params: dict, config: GeneratorConfig, slots: int, device: str
  ):
    """As `TorchGenerator`."""
    super().__init__(params, config, slots, device)
    self.plain_encoder = [(_split(own), mlp) for own, mlp in self.encoder]
    context = iter(self.context_XD.chunk(2 * len(self.decoder)))
    self.plain_decoder = []
    for own, cross, mlp in self.decoder:
      key_ED, value_ED = next(context).clone(), next(context).clone()
      layer = Layer(
        cross.norm_D, cross.query_ED, key_ED, value_ED, cross.output_DE
      )
      self.plain_decoder.append((_split(own), layer, mlp))

  def encode(self, token_BC: torch.Tensor, mask_BC: torch.Tensor) -> Context:
    C = token_BC.shape[1]
    bias_B11C = torch.where(mask_BC, 0.0, -1e9)[:, None, None]
    bias_BHCC = self.encoder_bias_HCC[:, :C, :C] + bias_B11C
    x_BCD = self.embedding_XD[token_BC]
    for own, mlp in self.plain_encoder:
      normed_BCD = _norm(x_BCD, own.norm_D)
      x_BCD = x_BCD + self._attend(
        own,
        self._heads(normed_BCD, own.query_ED),
        self._heads(normed_BCD, own.key_ED),
        self._heads(normed_BCD, own.value_ED),
        bias_BHCC,
      )
      x_BCD = x_BCD + _feed_forward(x_BCD, mlp)
    states_BCD = _norm(x_BCD, self.encoder_norm_D)
    layers = [
      torch.stack(
        [
          self._heads(states_BCD, cross.key_ED),
          self._heads(states_BCD, cross.value_ED),
        ]
      )
      for _, cross, _ in self.plain_decoder
    ]
    return Context(layers, bias_B11C)

  def level(
    self, token_BM: torch.Tensor | None, cache: Cache, context: Context
  ) -> torch.Tensor:
    B, step = len(context.bias_B11C), 0
    if token_BM is None:
      x_BMD = self.bos_D.expand(B, 1, -1)
    else:
      x_BMD = self.embedding_XD[token_BM]
    M = x_BMD.shape[1]
    for (own, cross, mlp), slots, (key, value) in zip(
      self.plain_decoder, cache, context.layers
    ):
      # Beams are rows of their own: each has its own cache.
      normed_P1D = _norm(x_BMD, own.norm_D).view(B * M, 1, -1)
      new = [
        self._heads(normed_P1D, weights)
        for weights in (own.key_ED, own.value_ED)
      ]
      slots[:] = [torch.cat(pair, dim=2) for pair in zip(slots, new)] or new
      step = slots[0].shape[2] - 1
      bias_H1S = self.own_bias_HSS[:, step : step + 1, : step + 1]
      query_PH1K = self._heads(normed_P1D, own.query_ED)
      key_PHSK, value_PHSK = slots
      mixed_P1D = self._attend(own, query_PH1K, key_PHSK, value_PHSK, bias_H1S)
      x_BMD = x_BMD + mixed_P1D.view(B, M, -1)
      query_BHMK = self._heads(_norm(x_BMD, cross.norm_D), cross.query_ED)
      x_BMD = x_BMD + self._attend(
        cross, query_BHMK, key, value, context.bias_B11C
      )
      x_BMD = x_BMD + _feed_forward(x_BMD, mlp)
    states_BMD = _norm(x_BMD, self.decoder_norm_D)
    return F.linear(states_BMD, self.head_LVD[step])

  def follow(self, cache: Cache, parent_BM: torch.Tensor) -> Cache:
    B = len(parent_BM)
    beams = len(cache[0][0]) // B
    first_B1 = torch.arange(0, B * beams, beams, device=self.device)[:, None]
    row_P = (first_B1 + parent_BM).view(-1)
    return [[slot.index_select(0, row_P) for slot in slots] for slots in cache]

  def _heads(self, x_BND: torch.Tensor, weights_ED: torch.Tensor):
    """(B, N, D) -> (B, H, N, K)."""
    c = self.config
    heads = F.linear(x_BND, weights_ED).unflatten(-1, (c.num_heads, c.head_dim))
    return heads.transpose(1, 2)

  def _attend(self, layer: Layer, query, key, value, bias) -> torch.Tensor:
    """(B, H, N, K) queries -> (B, N, D)."""
    mixed_BHNK = F.scaled_dot_product_attention(
      query, key, value, attn_mask=bias, scale=1.0
    )
    return F.linear(mixed_BHNK.transpose(1, 2).flatten(2), layer.output_DE)


def _split(own: SelfAttention) -> Layer:
  query_ED, key_ED, value_ED = (part.clone() for part in own.qkv_ED.chunk(3))
  return Layer(own.norm_D, query_ED, key_ED, value_ED, own.output_DE)


def _norm(x_BND: torch.Tensor, scale_D: torch.Tensor) -> torch.Tensor:
  return F.rms_norm(x_BND, scale_D.shape, scale_D, EPSILON)


def _feed_forward(x_BND: torch.Tensor, mlp: Mlp) -> torch.Tensor:
  normed_BND = _norm(x_BND, mlp.norm_D)
  if not mlp.gated:
    return F.linear(F.relu(F.linear(normed_BND, mlp.wi_FD)), mlp.wo_DF)
  gate_FD, wi_FD = mlp.wi_FD.chunk(2)
  hidden_BNF = F.gelu(F.linear(normed_BND, gate_FD), approximate="tanh")
  return F.linear(hidden_BNF * F.linear(normed_BND, wi_FD), mlp.wo_DF)
