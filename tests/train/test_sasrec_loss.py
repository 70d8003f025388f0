"""SASRec's losses: the chunked softmax against the plain one, negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models as tiny

from holorec_jax import sharding
from holorec_jax.errors import UserError
from holorec_jax.models.sasrec import SasRec, SasRecConfig
from holorec_jax.train.sasrec_loss import (
  SasRecLossConfig,
  SasRecObjective,
  draw_negatives,
  log_norm,
)
from holorec_jax.train.step import init_state, make_train_step

ITEMS, D = 30, 8
CATALOG = tiny.make_catalog(ITEMS, 2, 6)
CODES = tiny.make_codes(CATALOG)


def make_objective(items: int = ITEMS, dropout: float = 0.0, **config):
  model = SasRec(
    SasRecConfig(d_model=D, num_heads=2, layers=1, d_ff=12, dropout=dropout),
    items,
  )
  return SasRecObjective(model, SasRecLossConfig(**config))


@pytest.fixture(scope="module")
def params() -> dict:
  """Of every objective of as many items, whatever its loss."""
  return tiny.jit(make_objective().init_params)(0)


def draw(rows: int, seed: int = 0, scale: float = 1.0):
  rng = np.random.default_rng(seed)
  state_ND = rng.normal(size=(5, D)).astype(np.float32)
  table_ID = scale * rng.normal(size=(rows, D)).astype(np.float32)
  return jnp.asarray(state_ND), jnp.asarray(table_ID)


def plain_log_norm(state_ND, table_ID, items):
  return jax.nn.logsumexp(state_ND @ table_ID[:items].T, axis=1)


@pytest.mark.parametrize(
  ("chunk", "scale"), [(1, 1.0), (7, 30.0), (32, 1.0), (64, 30.0)]
)
def test_chunked_log_norm_is_the_plain_one(chunk, scale):
  """Values and gradients; the last rows of the table are no items."""
  items = 51
  state_ND, table_ID = draw(64, scale=scale)
  weight_N = jnp.arange(1.0, 6.0)

  def total(norm):
    return lambda state_ND, table_ID: jnp.sum(
      weight_N * norm(state_ND, table_ID)
    )

  ours = total(lambda s, t: log_norm(s, t, items, chunk))
  plain = total(lambda s, t: plain_log_norm(s, t, items))
  got, to_got = tiny.jit(jax.value_and_grad(ours, (0, 1)))(state_ND, table_ID)
  want, to_want = jax.value_and_grad(plain, (0, 1))(state_ND, table_ID)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for ours_XD, plain_XD in zip(to_got, to_want):
    np.testing.assert_allclose(ours_XD, plain_XD, rtol=1e-4, atol=2e-5 * scale)
  assert not np.any(to_got[1][items:])


def test_a_chunk_may_hold_no_items():
  state_ND, table_ID = draw(128)
  got = log_norm(state_ND, table_ID, 3, 32)
  np.testing.assert_allclose(
    got, plain_log_norm(state_ND, table_ID, 3), rtol=1e-5
  )


def test_memory_does_not_grow_with_the_catalogue():
  """Beside the table itself and its gradient."""
  N, chunk = 512, 128

  def temporary(rows: int) -> int:
    def total(state_ND, table_ID):
      return log_norm(state_ND, table_ID, rows, chunk).sum()

    shapes = [jax.ShapeDtypeStruct((n, D), jnp.float32) for n in (N, rows)]
    compiled = jax.jit(jax.grad(total, (0, 1))).lower(*shapes).compile()
    tables = 3 * rows * D * 4
    return compiled.memory_analysis().temp_size_in_bytes - tables

  logits = 4 * N * 128 * 128
  assert temporary(128 * 128) < 0.1 * logits
  assert temporary(128 * 128) <= temporary(16 * 128) + 0.01 * logits


@tiny.jit
def score_all(params, batch):
  """(B, N, I): the whole matrix of logits."""
  state_BND = make_objective().model.apply(
    {"params": params},
    batch.item_BT,
    batch.segment_BT,
    batch.last_BN,
    method=SasRec.branches,
  )
  return state_BND @ params["item_embedding"][:ITEMS].T


def by_hand(params, batch, smoothing) -> np.ndarray:
  """(B, N) losses of the full softmax."""
  log_prob_BNI = jax.nn.log_softmax(score_all(params, batch))
  gold = jnp.take_along_axis(log_prob_BNI, batch.target_BN[..., None], -1)
  mean = log_prob_BNI.mean(-1)
  return -(1 - smoothing) * gold[..., 0] - smoothing * mean


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_full_softmax_by_hand(params, smoothing):
  objective = make_objective(label_smoothing=smoothing, chunk=16)
  batch = tiny.make_packed(CATALOG)
  assert params["item_embedding"].shape[0] > ITEMS
  loss, metrics = tiny.jit(objective.loss)(params, batch, CODES, None)
  loss_BN = by_hand(params, batch, smoothing)
  total = float((loss_BN * batch.weight_BN).sum())
  assert float(metrics["targets"]) == batch.weight_BN.sum() == 10
  assert float(metrics["loss"]) == pytest.approx(total, rel=1e-5)
  assert float(metrics["loss/full"]) == pytest.approx(total, rel=1e-5)
  assert float(loss) == pytest.approx(total / 10, rel=1e-5)


def test_packed_rows_train_as_single_ones_do(params):
  objective, packed = make_objective(), tiny.make_packed(CATALOG)
  run = tiny.jit(
    jax.value_and_grad(lambda p, b: objective.loss(p, b, CODES, None)[0])
  )
  together, alone = run(params, packed), run(params, tiny.unpack(packed))
  for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_later_items_have_no_part_in_a_targets_loss(params):
  """Nor in its gradient, to the bit; they are wrong answers all the same."""
  objective, batch = make_objective(chunk=16), tiny.make_packed(CATALOG)
  only = np.zeros_like(batch.weight_BN)
  only[:, 3] = 1  # The second of three or four slots of segment 2.
  batch = batch.replace(weight_BN=only)
  assert (batch.segment_BT[:, 3:5] == 2).all()
  run = tiny.jit(
    jax.value_and_grad(lambda p, b: objective.loss(p, b, CODES, None)[0])
  )
  before = run(params, batch)

  def changed(slots):
    item_BT = batch.item_BT.copy()
    item_BT[:, slots] = (item_BT[:, slots] + 7) % ITEMS
    return run(params, batch.replace(item_BT=item_BT))

  for ours, theirs in zip(*map(jax.tree.leaves, (before, changed([4, 5])))):
    np.testing.assert_array_equal(ours, theirs)
  assert float(changed([3])[0]) != float(before[0])
  used = set(batch.target_BN[:, 3]) | set(batch.item_BT[:, 1:4].flat)
  unused = sorted(set(range(ITEMS)) - used)
  assert np.asarray(before[1]["item_embedding"])[unused].any()


def test_negatives_are_never_the_target_and_all_other_items_may_be():
  batch = tiny.make_packed(CATALOG)
  item_BNK, valid_BNK = map(
    np.asarray, draw_negatives(jax.random.key(0), batch, ITEMS, 500)
  )
  for row, branch in np.argwhere(batch.weight_BN > 0):
    drawn_K = item_BNK[row, branch]
    others = set(range(ITEMS)) - {batch.target_BN[row, branch]}
    assert set(drawn_K) == others
    own_T = batch.segment_BT[row] == batch.segment_BT[row, branch]
    history = batch.item_BT[row, own_T]
    np.testing.assert_array_equal(
      valid_BNK[row, branch], ~np.isin(drawn_K, history)
    )


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_sampled_losses_by_hand(params, loss):
  """With so many negatives that their mean is that of all items."""
  objective = make_objective(loss=loss, negatives=4000)
  batch = tiny.make_packed(CATALOG)
  score_BNI = np.asarray(score_all(params, batch))
  total = 0.0
  for row, branch in np.argwhere(batch.weight_BN > 0):
    own_T = batch.segment_BT[row] == batch.segment_BT[row, branch]
    target = batch.target_BN[row, branch]
    taken = {target, *batch.item_BT[row, own_T].tolist()}
    other = score_BNI[row, branch, sorted(set(range(ITEMS)) - taken)]
    gold = score_BNI[row, branch, target]
    if loss == "bce":
      total += np.log1p(np.exp(-gold)) + np.log1p(np.exp(other)).mean()
    else:
      total += np.log1p(np.exp(other - gold)).mean()
  _, metrics = tiny.jit(objective.loss)(params, batch, CODES, None)
  assert float(metrics[f"loss/{loss}"]) == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("loss", ["full", "bce"])
def test_training_learns_what_follows(loss):
  """One item per history's last one: targets are (item + 1)."""
  objective = make_objective(items=12, loss=loss, negatives=4, dropout=0.1)
  optimizer = optax.adam(0.05)
  mesh = sharding.make_mesh(jax.devices()[:1])
  state = init_state(objective, optimizer, 0, mesh)
  step = make_train_step(objective, optimizer, mesh, 0, 0.0)
  segment_BT = np.repeat(tiny.SEGMENTS[:1], 8, axis=0).astype(np.int32)
  rng, losses = np.random.default_rng(0), []
  batch = tiny.make_packed(CATALOG)
  for _ in range(40):
    item_BT = rng.integers(0, 12, segment_BT.shape).astype(np.int32)
    filled = segment_BT > 0
    fresh = batch.replace(
      item_BT=np.where(filled, item_BT, -1),
      segment_BT=segment_BT,
      last_BN=np.broadcast_to(np.arange(6, dtype=np.int32), item_BT.shape),
      target_BN=np.where(filled, (item_BT + 1) % 12, -1),
      weight_BN=filled.astype(np.float32),
    )
    state, metrics = step(state, sharding.put_rows(fresh, mesh), CODES)
    losses.append(float(metrics["loss"]) / float(metrics["targets"]))
  assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_one_item_cannot_be_told_from_others():
  with pytest.raises(UserError, match=r"'bpr', which.*catalogue has 1"):
    make_objective(items=1, loss="bpr")
