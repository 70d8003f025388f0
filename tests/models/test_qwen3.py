"""The decoder-only backbone: branches continue their histories."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

CATALOG = tiny.make_catalog(30, levels=3, codes=5)
CODES = tiny.make_codes(CATALOG)


def layers_of(params) -> list[dict]:
  """Parameters layer by layer, however they are kept."""
  if "layers" in params:
    return [
      jax.tree.map(operator.itemgetter(n), params["layers"]) for n in range(2)
    ]
  return [params[f"blocks_{number}"] for number in range(2)]


def rms_norm(x, params):
  return (
    x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * params["scale"]
  )


def turn(x_CHK):
  """Rotary embedding as a product of complex numbers."""
  C, _, K = x_CHK.shape
  z = x_CHK[..., : K // 2] + 1j * x_CHK[..., K // 2 :]
  frequency = 100.0 ** (-2 * jnp.arange(K // 2) / K)
  z = z * jnp.exp(1j * jnp.arange(C)[:, None, None] * frequency)
  return jnp.concatenate([z.real, z.imag], -1)


def forward(params, x_CD):
  """One causal pass of Qwen3 over one sequence; keys are repeated."""
  C = len(x_CD)
  for block in layers_of(params):
    attention, mlp = block["attention"], block["mlp"]
    normed = rms_norm(x_CD, block["attention_norm"])

    def heads(name, normed=normed, attention=attention):
      return (normed @ attention[name]["kernel"]).reshape(C, -1, 6)

    query = turn(rms_norm(heads("query"), attention["query_norm"]))
    key = turn(rms_norm(heads("key"), attention["key_norm"]))
    key, value = (jnp.repeat(x, 2, axis=1) for x in (key, heads("value")))
    logits = jnp.einsum("qhk,chk->hqc", query, key) / 6**0.5
    logits = jnp.where(jnp.tri(C, dtype=bool), logits, -jnp.inf)
    mixed = jnp.einsum("hqc,chk->qhk", jax.nn.softmax(logits, -1), value)
    x_CD += mixed.reshape(C, -1) @ attention["output"]["kernel"]
    normed = rms_norm(x_CD, block["mlp_norm"])
    gate = normed @ mlp["wi_gate"]["kernel"]
    hidden = gate * jax.nn.sigmoid(gate) * (normed @ mlp["wi"]["kernel"])
    x_CD += hidden @ mlp["wo"]["kernel"]
  return rms_norm(x_CD, params["final_norm"])


def unroll_uncached(model, params, batch, row, branch, outputs):
  """A branch by one pass over [history, BOS, codes and thoughts].

  The sequence takes its thoughts from the cached unroll; that they are what
  the states of this pass think closes the circle.
  """
  bound = model.bind({"params": params})
  table_LVD = params["code_embedding"]
  level_L = np.arange(model.num_levels)
  last = batch.last_BN[row, branch]
  own_T = batch.segment_BT[row] == batch.segment_BT[row, last]
  items = batch.item_BT[row, : last + 1][own_T[: last + 1]]
  embedded_TLD = table_LVD[level_L, CATALOG.codes_IL[items]]
  if model.config.history == "pooled":
    flat = embedded_TLD.reshape(len(items), -1)
    history = flat @ params["decoder"]["pool"]["kernel"]
  else:
    history = embedded_TLD.reshape(-1, embedded_TLD.shape[-1])
  target_L = CATALOG.codes_IL[batch.target_BN[row, branch]]
  sequence, reads = [*history, params["bos"]], []
  for level, output in enumerate(outputs):
    if level:
      sequence.append(table_LVD[level - 1, target_L[level - 1]])
    reads.append(len(sequence) - 1)
    if output.thought_BND is not None:
      sequence.append(output.thought_BND[row, branch])
  states_CD = forward(params["decoder"], jnp.stack(sequence))
  thoughts, fine = [], []
  for level, read in enumerate(reads):
    state_BND = states_CD[read][None, None]
    if bound.thought is not None:
      thought_BND, _ = bound.thought.think(state_BND, level, table_LVD[level])
      thoughts.append(thought_BND[0, 0])
      after_BND = states_CD[read + 1][None, None]
      state_BND = bound.thought.inject(after_BND, thought_BND)
    fine.append(state_BND[0, 0] @ params["fine_head"][level])
  return thoughts, fine


@pytest.mark.parametrize(
  ("thought", "history", "scan"),
  [
    ("none", "codes", False),
    ("holorec", "pooled", False),
    ("holorec", "codes", True),
    ("s2gr", "pooled", True),
  ],
)
def test_cached_steps_are_one_causal_pass(thought, history, scan):
  """Wherever in a packed row the history lies."""
  model, params = tiny.make_model(
    CATALOG, thought=thought, history=history, scan_layers=scan, **QWEN3
  )
  packed = tiny.make_packed(CATALOG)

  def run(params):
    outputs = model.apply({"params": params}, packed, CODES)
    return outputs, [
      unroll_uncached(model, params, packed, 0, branch, outputs)
      for branch in (1, 4)
    ]

  outputs, uncached = tiny.jit(run)(params)
  for branch, (thoughts, fine) in zip((1, 4), uncached):
    for level, output in enumerate(outputs):
      ours = output.fine_BNV[0, branch]
      np.testing.assert_allclose(ours, fine[level], atol=2e-5)
      if thoughts:
        ours = output.thought_BND[0, branch]
        np.testing.assert_allclose(ours, thoughts[level], atol=2e-5)
      assert np.std(fine[level]) > 0.1
