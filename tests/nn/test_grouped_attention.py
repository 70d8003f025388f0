"""Grouped queries equal the plain form with repeated keys; rotary by hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from holorec_jax.nn import grouped_attention
from holorec_jax.nn.attention import KeyValues, mask_to_bias
from holorec_jax.nn.grouped_attention import attend_branches, attend_history
from holorec_jax.nn.rotary import rotate, rotation


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attend_plainly(query_XHK, key_CHK, value_CHK, visible_XC):
  """One row; every query head has keys of its own."""
  group = query_XHK.shape[1] // key_CHK.shape[1]
  key, value = (np.repeat(x, group, axis=1) for x in (key_CHK, value_CHK))
  logits = np.einsum("xhk,chk->hxc", query_XHK, key) / key.shape[-1] ** 0.5
  logits = np.where(visible_XC, logits, -np.inf)
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum("hxc,chk->xhk", weights, value)


def test_histories_see_their_segment_up_to_themselves():
  B, C, H, K = 2, 7, 6, 4
  query = normal(0, B, C, H, K)
  own = KeyValues(normal(1, B, C, 2, K), normal(2, B, C, 2, K))
  segment = np.array([[1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 2]])
  mixed = attend_history(query, own, segment)
  for row, segments in enumerate(segment):
    visible = np.tril(segments[:, None] == segments)
    wanted = attend_plainly(query[row], own.key[row], own.value[row], visible)
    np.testing.assert_allclose(mixed[row], wanted, atol=1e-5)


def test_branches_share_a_context_and_one_softmax():
  B, N, C, H, G, K, S = 2, 3, 5, 2, 3, 4, 3
  query = normal(0, B, N, H * G, K)
  context = KeyValues(normal(1, B, H, C, K), normal(2, B, H, C, K))
  # The first slot is shared by all branches, the second still empty.
  slots = [
    KeyValues(
      normal(3 + s, B, 1 if s == 0 else N, H, K), normal(9 + s, B, N, H, K)
    )
    for s in range(S)
  ]
  visible = normal(20, B, N, C) > 0
  mixed = attend_branches(
    query,
    context,
    mask_to_bias(visible)[:, None],
    slots,
    mask_to_bias(jnp.array([True, False, True])),
  )
  for b, n in np.ndindex(B, N):
    keys = [*np.swapaxes(context.key[b], 0, 1)]
    values = [*np.swapaxes(context.value[b], 0, 1)]
    for s in (0, 2):
      keys.append(np.broadcast_to(slots[s].key, (B, N, H, K))[b, n])
      values.append(slots[s].value[b, n])
    seen = np.concatenate([visible[b, n], [True, True]])
    wanted = attend_plainly(
      query[b, n][None], np.stack(keys), np.stack(values), seen[None]
    )
    np.testing.assert_allclose(mixed[b, n], wanted[0], atol=1e-5)


def make_histories():
  """Two rows of 12 tokens, 4 query heads on 2, in segments."""
  B, C, H, K = 2, 12, 4, 6
  own = KeyValues(normal(1, B, C, 2, K), normal(2, B, C, 2, K))
  segment = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12])
  return attend_history, (normal(0, B, C, H, K), own), (segment,)


def make_branches():
  """Their branches with two slots, of which all share the first."""
  B, N, K = 2, 12, 6
  query, own = make_histories()[1]
  slots = tuple(
    KeyValues(normal(3 + n, B, n, 2, K), normal(5 + n, B, n, 2, K))
    for n in (1, N)
  )
  bias = mask_to_bias(np.tril(np.ones((B, 1, N, N), bool)))
  context = jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), own)

  def attend(query, context, slots, bias, bias_S):
    return attend_branches(query, context, bias, slots, bias_S)

  return attend, (query, context, slots), (bias, jnp.zeros(2))


@pytest.mark.parametrize("make", [make_histories, make_branches])
@pytest.mark.parametrize(
  ("most", "chunks"), [(576, 2), (288, 4), (144, 8), (1, 16)]
)
def test_chunks_are_the_whole(monkeypatch, make, most, chunks):
  """Values and gradients; scores of no more queries are ever made."""
  attend, floats, rest = make()

  def value(floats):
    mixed = attend(*floats, *rest)
    return jnp.sum(mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape)))

  def largest(program):
    shapes = re.findall(r"f32\[([\d,]+)\]", program)
    return max(np.prod([int(n) for n in s.split(",")]) for s in shapes)

  program = str(jax.make_jaxpr(value)(floats))
  assert largest(program) == 2 * 4 * 12 * 12
  whole = jax.jit(jax.value_and_grad(value))(floats)
  monkeypatch.setattr(grouped_attention, "_MOST_SCORES", most)

  def anew(floats):  # what was traced is not traced again
    return value(floats)

  program = str(jax.make_jaxpr(anew)(floats))
  assert f"length={chunks}" in program
  # Half of the scores, or the queries with what is added to them.
  assert largest(program) <= max(2 * 4 * 12 * 12 // 2, 2 * 16 * 4 * 6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    jax.jit(jax.value_and_grad(anew))(floats),
    whole,
  )


def test_gradients_of_chunks_are_summed_in_float32(monkeypatch):
  """In bfloat16 as far from the truth as the whole, however many they are."""
  B, C, H, K = 1, 512, 2, 16
  floats = normal(0, B, C, H, K), normal(1, B, C, 1, K), normal(2, B, C, 1, K)
  weight, segment = normal(3, B, C, H, K), np.ones((B, C), int)

  def gradients(chunks, dtype):
    monkeypatch.setattr(
      grouped_attention, "_MOST_SCORES", B * H * C * C // chunks
    )

    def value(floats):
      query, key, value = (x.astype(dtype) for x in floats)
      mixed = attend_history(query, KeyValues(key, value), segment)
      return jnp.sum(mixed.astype(jnp.float32) * weight)

    return jax.jit(jax.grad(value))(floats)

  truth = gradients(1, jnp.float32)
  whole, in_chunks = (
    [
      np.linalg.norm(x - y) / np.linalg.norm(y)
      for x, y in zip(gradients(chunks, jnp.bfloat16), truth)
    ]
    for chunks in (1, 64)
  )
  assert max(whole) < 0.01
  np.testing.assert_array_less(in_chunks, 1.1 * np.array(whole))


def test_keys_are_never_repeated():
  """No array of the program has keys for every query head and slot."""
  B, N, C, H, G, K = 2, 3, 11, 2, 5, 7
  kv = KeyValues(jnp.ones((B, H, C, K)), jnp.ones((B, H, C, K)))
  program = jax.make_jaxpr(attend_branches)(
    jnp.ones((B, N, H * G, K)),
    kv,
    jnp.zeros((B, 1, N, C)),
    (KeyValues(jnp.ones((B, N, H, K)), jnp.ones((B, N, H, K))),),
    jnp.zeros(1),
  )
  sizes = [v.aval.size for e in program.eqns for v in e.outvars]
  assert max(sizes) < B * C * H * G * K


def test_rotation_by_hand():
  # theta = 100, K = 4: frequencies 1 and 1/10; entry i turns with i + 2.
  x_BCHK = jnp.array([1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
  turned = rotate(x_BCHK, rotation(jnp.array([[3]]), 4, 100.0))
  wanted = [np.cos(3), -2 * np.sin(0.3), np.sin(3), 2 * np.cos(0.3)]
  np.testing.assert_allclose(turned[0, 0, 0], wanted, atol=1e-6)


def test_products_depend_on_distance_alone():
  query, key = normal(0, 1, 1, 2, 6), normal(1, 1, 1, 2, 6)

  def product(at_query, at_key):
    turned = (
      rotate(x, rotation(jnp.array([[at]]), 6, 50.0))
      for x, at in ((query, at_query), (key, at_key))
    )
    return jnp.sum(jnp.prod(jnp.stack([*turned]), axis=0), -1)

  near = product(5, 2)
  np.testing.assert_allclose(near, product(105, 102), atol=1e-4)
  assert np.abs(near - product(5, 3)).max() > 0.1
