"""Causal attention within segments that keeps no scores in memory.

The plain form (`grouped_attention.attend_history`) writes scores, those of long
rows some at a time, and reads them again; a kernel has a block of them on its
processor (Dao et al., FlashAttention, arXiv 2205.14135): JAX's own in Triton on
NVIDIA GPUs, splash attention on TPUs. The platform that a program is lowered
for tells which; others take the plain form. XLA cannot split a kernel: on a
mesh each device calls it for its own rows and heads. Neither has run on its
hardware yet. JAX 0.12 still has the GPU's, but points to tokamax for the time
after it, which today needs a GPU to be traced.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from holorec_jax.nn.attention import KeyValues
from holorec_jax.nn.grouped_attention import attend_history

_ROWS = ("data", "fsdp")
_NOBODY = -1  # the segment of tokens that are added here


def attend(
  query_BCHK: jax.Array, own_BCHK: KeyValues, segment_BC: jax.Array
) -> jax.Array:
  """`grouped_attention.attend_history` -> (B, C, H, K).

  Rows are split over the mesh that is set where the caller is traced
  (`jax.sharding.use_abstract_mesh`), whose axis `sequence` has one device.
  """
  # What one platform's form keeps for the gradient all have to return, if only
  # as zeros: so the plain one keeps no scores either.
  call = functools.partial(
    jax.lax.platform_dependent,
    cuda=attend_gpu,
    tpu=attend_tpu,
    default=jax.checkpoint(attend_history),
  )
  mesh = jax.sharding.get_abstract_mesh()
  if not set(_ROWS) <= set(mesh.axis_names):
    return call(query_BCHK, own_BCHK, segment_BC)
  B, _, H, _ = query_BCHK.shape
  if own_BCHK.key.shape[2] % mesh.shape["tensor"]:
    own_BCHK = jax.tree.map(lambda x: _repeat_heads(x, H), own_BCHK)
  rows = _ROWS if B % math.prod(mesh.shape[a] for a in _ROWS) == 0 else None
  heads = "tensor" if H % mesh.shape["tensor"] == 0 else None
  by_head = PartitionSpec(rows, None, heads)
  return jax.shard_map(
    call,
    in_specs=(by_head, by_head, PartitionSpec(rows)),
    out_specs=by_head,
    check_vma=False,  # kernels do not say over which axes they vary
  )(query_BCHK, own_BCHK, segment_BC)


def _repeat_heads(x_BCHK: jax.Array, heads: int) -> jax.Array:
  return jnp.repeat(x_BCHK, heads // x_BCHK.shape[2], axis=2)


def _pad(tree: Any, axis: int, size: int, value: int = 0) -> Any:
  """Arrays of so many entries along an axis."""

  def pad(x):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths, constant_values=value)

  return jax.tree.map(pad, tree)


def attend_gpu(
  query_BCHK: jax.Array,
  own_BCHK: KeyValues,
  segment_BC: jax.Array,
  interpret: bool = False,
) -> jax.Array:
  """`attend` by JAX's kernel for NVIDIA GPUs.

  Args:
    query_BCHK, own_BCHK, segment_BC: as there.
    interpret: on the CPU, slowly, for tests.
  """
  # Here, not above: a JAX without it concerns nobody else.
  from jax.experimental.pallas.ops.gpu import attention

  C, H, K = query_BCHK.shape[1:]
  # With blocks of 64, heads of 128 fit a multiprocessor's memory in float32.
  sizes = attention.BlockSizes(64, 64, 32, 32, 32, 32)
  tokens, width = -(-C // 64) * 64, max(K, 16)
  own = jax.tree.map(lambda x: _repeat_heads(x, H), own_BCHK)
  padded = _pad(_pad((query_BCHK, *own), 1, tokens), 3, width)
  mixed = attention.mha(
    *padded,
    _pad(segment_BC, 1, tokens, _NOBODY),
    sm_scale=K**-0.5,
    causal=True,
    block_sizes=sizes,
    interpret=interpret,
  )
  return mixed[:, :C, :, :K]


def attend_tpu(
  query_BCHK: jax.Array,
  own_BCHK: KeyValues,
  segment_BC: jax.Array,
  interpret: bool = False,
) -> jax.Array:
  """`attend` by splash attention.

  Args:
    query_BCHK, own_BCHK, segment_BC: as there.
    interpret: on the CPU, slowly, for tests.
  """
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  C, H, K = query_BCHK.shape[1:]
  tokens = -(-C // 128) * 128
  block = max(size for size in (128, 256, 512) if tokens % size == 0)
  mask = splash.CausalMask((tokens, tokens))
  kernel = splash.make_splash_mha_single_device(
    splash.MultiHeadMask([mask] * H),
    block_sizes=splash.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    interpret=interpret,
  )
  padded = _pad((query_BCHK * K**-0.5, *own_BCHK), 1, tokens)
  by_head = [jnp.swapaxes(x_BCHK, 1, 2) for x_BCHK in padded]
  segment_BC = _pad(segment_BC, 1, tokens, _NOBODY)
  segments = splash.SegmentIds(segment_BC, segment_BC)
  mixed_BHCK = jax.vmap(kernel)(*by_head, segments)
  return jnp.swapaxes(mixed_BHCK, 1, 2)[:, :C]
