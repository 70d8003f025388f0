"""Scanned == unrolled, recomputed == kept; what a config may not ask for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from tiny_qwen3 import QWEN3

from holorec_jax.errors import UserError
from holorec_jax.models.layer_stack import stack_layers
from holorec_jax.models.qwen3 import positions_within
from holorec_jax.precision import cast
from holorec_jax.train.objective import init_params

CATALOG = tiny.make_catalog(30, levels=2, codes=6)
CODES = tiny.make_codes(CATALOG)


def test_scanned_is_unrolled_and_recomputed_is_kept():
  """Outputs and gradients, with dropout, of histories and of branches."""
  unrolled, params = tiny.make_model(
    CATALOG, history="pooled", dropout=0.3, **QWEN3
  )
  packed = tiny.make_packed(CATALOG)

  def run(params, scan, remat):
    config = dataclasses.replace(unrolled.config, scan_layers=scan, remat=remat)
    model = dataclasses.replace(unrolled, config=config)

    def loss(params):
      outputs = model.apply(
        {"params": params},
        packed,
        CODES,
        deterministic=False,
        rngs={"dropout": jax.random.key(3)},
      )
      fine_LBNV = jnp.stack([output.fine_BNV for output in outputs])
      used_BN1 = packed.weight_BN[..., None]
      return jnp.sum(jnp.sin(fine_LBNV) * used_BN1), fine_LBNV

    return jax.grad(loss, has_aux=True)(params)

  run = tiny.jit(run, static_argnums=(1, 2))
  kept, fine_LBNV = run(params, False, "none")
  assert np.std(fine_LBNV) > 0.1
  for scan, remat in [
    (False, "layers"),
    (True, "layers"),
    (True, "products"),
  ]:
    given = stack_layers(params) if scan else params
    gradient, other_LBNV = run(given, scan, remat)
    np.testing.assert_allclose(other_LBNV, fine_LBNV, atol=1e-5)
    wanted = stack_layers(kept) if scan else kept
    assert jax.tree.structure(gradient) == jax.tree.structure(wanted)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted)):
      np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_layers_start_apart_and_programs_do_not_grow_with_depth():
  sizes = {}
  for layers in (2, 8):
    changes = QWEN3 | dict(decoder_layers=layers, scan_layers=True)
    model, params = tiny.make_model(CATALOG, **changes)
    program = jax.make_jaxpr(
      lambda p, model=model: model.apply(
        {"params": p}, tiny.make_packed(CATALOG), CODES
      )
    )(params)
    sizes[layers] = len(str(program).splitlines())
  assert sizes[2] == sizes[8]
  kernel_YDX = tiny.jit(lambda: init_params(model, 0))()["decoder"]["layers"][
    "attention"
  ]["query"]["kernel"]
  assert kernel_YDX.shape == (8, 16, 24)
  assert np.std(kernel_YDX, axis=0).min() > 0.01  # No layer is another.
  np.testing.assert_allclose(np.std(kernel_YDX), 16**-0.5, rtol=0.1)


@pytest.mark.parametrize("scan", [False, True])
def test_all_is_bfloat16_but_scores(scan):
  model, params = tiny.make_model(
    CATALOG, thought="holorec", repeat_bias=True, scan_layers=scan, **QWEN3
  )

  def decode(params):
    bound = model.bind({"params": cast(params, "bfloat16")})
    batch = tiny.make_packed(CATALOG)
    context = bound.open_branches(
      batch.item_BT, CODES, batch.segment_BT, batch.last_BN
    )
    state, _ = bound.level(bound.start(context), context, 0, None)
    code_BN = jnp.zeros(batch.last_BN.shape, int)
    return context.layers, *bound.level(state, context, 1, code_BN)

  layers, state, output = jax.eval_shape(decode, params)
  assert output.thought_BND.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves((layers, state.caches))} == {
    jnp.dtype(jnp.bfloat16)
  }
  assert output.fine_BNV.dtype == output.coarse_BNV.dtype == jnp.float32


def test_positions_start_anew_with_every_history():
  segment_BC = jnp.array([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0]])
  position_BC = positions_within(segment_BC)
  wanted = [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1]]
  np.testing.assert_array_equal(position_BC, wanted)
  np.testing.assert_array_equal(
    positions_within(jnp.ones((1, 3), int)), [[0, 1, 2]]
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"encoder_layers": 2}, r"encoder_layers is 2, .*'qwen3' .*set it to 0"),
    ({"gated_mlp": False}, r"gated_mlp is False, .*'qwen3' .*set it to True"),
    ({"causal_history": False}, r"causal_history is False, .*set it to True"),
    ({"cross_bias": True}, r"cross_bias is True, .*set it to False"),
    ({"num_kv_heads": 3}, r"num_kv_heads is 3, .*divide .*num_heads = 4"),
    ({"head_dim": 5}, r"head_dim is 5; .*even"),
    ({"fused_attention": True, "head_dim": 256}, r"head_dim is 256; .*128"),
    ({"rope_theta": 0.0}, r"rope_theta is 0.0; expected"),
    (
      {"backbone": "t5", "rope_theta": 1e6},
      r"num_kv_heads is 2, .*'t5' .*set it to 0",
    ),
    (
      {"backbone": "t5", "num_kv_heads": 0},
      r"rope_theta is 100.0, .*'t5' .*set it to 1000000.0",
    ),
    (
      {
        "backbone": "t5",
        "num_kv_heads": 0,
        "rope_theta": 1e6,
        "fused_attention": True,
      },
      r"fused_attention is True, .*'t5' .*set it to False",
    ),
  ],
)
def test_leaves_without_a_choice_are_refused(changes, message):
  with pytest.raises(UserError, match=f"config.model.{message}"):
    tiny.make_config(**QWEN3 | changes)
