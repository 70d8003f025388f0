"""On copied weights, the generator computes what transformers' T5 computes."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from third_party.transformers_t5 import copy_to_t5  # noqa: E402

B, T, N, L, V = 2, 6, 3, 3, 5
T5_LIKE = dict(
  history="codes",
  causal_history=False,
  cross_bias=False,
  start="bos",
  thought="none",
  encoder_layers=2,
  decoder_layers=2,
)


def run_ours(model, params, codes, item_BT, segment_BT, last_BN, target_BNL):
  """Encoder states, and the decoder's states and logits of every level."""
  bound = model.bind({"params": params})
  embedded = bound.code_embedding_LVD[jnp.arange(L), codes.fine_IL[item_BT]]
  states_BCD = bound.encoder(embedded, segment_BT, True)
  context = bound.open_branches(item_BT, codes, segment_BT, last_BN)
  state, x_BND = bound.start(context), context.start_BND
  inputs, outputs, logits = [], [], []
  for level in range(L):
    output_BND, state = bound.decoder.step(x_BND, state, context, True)
    inputs.append(x_BND)
    outputs.append(output_BND)
    logits.append(bound._fine_logits(output_BND, level))
    x_BND = bound.code_embedding_LVD[level, target_BNL[..., level]]
  return (
    embedded,
    states_BCD,
    jnp.stack(inputs, 2),
    jnp.stack(outputs, 2),
    logits,
  )


@pytest.mark.parametrize("gated_mlp", [False, True])
def test_encoder_and_stepwise_decoder_match_t5(gated_mlp):
  rng = np.random.default_rng(0)
  catalog = tiny.make_catalog(10, L, V)
  model, params = tiny.make_model(
    catalog, gated_mlp=gated_mlp, tied_heads=True, **T5_LIKE
  )
  item_BT = rng.integers(0, catalog.num_items, (B, T))
  segment_BT = (np.arange(T) < np.array([[6], [3]])).astype(np.int32)
  last_BN = np.array([[0, 3, 5], [2, 1, 0]])
  target_BNL = rng.integers(0, V, (B, N, L))
  embedded, states_BCD, inputs_BNLD, outputs_BNLD, logits = tiny.jit(
    run_ours, static_argnums=0
  )(
    model,
    params,
    tiny.make_codes(catalog),
    item_BT,
    segment_BT,
    last_BN,
    target_BNL,
  )

  t5 = copy_to_t5(params, model.config)

  def tensor(x):
    return torch.from_numpy(np.array(x))

  mask_BC = np.repeat(segment_BT, L, axis=1)
  with torch.no_grad():
    theirs_BCD = t5.encoder(
      inputs_embeds=tensor(embedded).reshape(B, T * L, -1),
      attention_mask=tensor(mask_BC),
    ).last_hidden_state
    np.testing.assert_allclose(
      np.asarray(states_BCD)[mask_BC > 0],
      theirs_BCD.numpy()[mask_BC > 0],
      atol=1e-4,
    )
    # T5 knows no branches: each becomes a row with a mask of its own.
    visible_BNT = segment_BT[:, None] * (np.arange(T) <= last_BN[..., None])
    decoded = t5.decoder(
      inputs_embeds=tensor(inputs_BNLD).reshape(B * N, L, -1),
      encoder_hidden_states=theirs_BCD.repeat_interleave(N, 0),
      encoder_attention_mask=tensor(
        np.repeat(visible_BNT, L, -1).reshape(B * N, -1)
      ),
    ).last_hidden_state
  theirs_BNLD = decoded.numpy().reshape(outputs_BNLD.shape)
  np.testing.assert_allclose(outputs_BNLD, theirs_BNLD, atol=1e-4)
  for level in range(L):
    # T5 scales tied heads by d_model^-0.5, too.
    head_VD = params["code_embedding"][level]
    np.testing.assert_allclose(
      logits[level],
      theirs_BNLD[:, :, level] * model.config.d_model**-0.5 @ head_VD.T,
      atol=1e-4,
    )


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
def test_what_t5_cannot_express_is_refused(change):
  with pytest.raises(ValueError, match="T5 has no counterpart"):
    copy_to_t5({}, tiny.make_config(**T5_LIKE | change))
