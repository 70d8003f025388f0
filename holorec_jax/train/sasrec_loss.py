"""SASRec's losses: full softmax over all items, or sampled negatives.

  full   -log softmax(h E^T)[target], as re-runs find best (Klenitskiy &
         Vasilev, "Turning Dross Into Gold Loss", arXiv 2309.07602)
  bce    -log s(h . E_target) - mean over negatives of log s(-h . E_negative)
         (SASRec, arXiv 1808.09781, section III.F: one negative)
  bpr    -mean over negatives of log s(h . E_target - h . E_negative)
         (Rendle et al., arXiv 1205.2618)

The full softmax goes through the items in chunks, forth and back, and keeps
one number a branch in between: its memory does not grow with the catalogue.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from holorec_jax.codes import Codes
from holorec_jax.errors import UserError
from holorec_jax.models.sasrec import SasRec
from holorec_jax.ranges import check_ranges
from holorec_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class SasRecLossConfig:
  """What SASRec minimises.

  Attributes:
    loss: "full", "bce" or "bpr", see the module's docstring.
    negatives: of "bce" and "bpr", drawn evenly for each target from the items
      that are not it; those in its row's history count nothing.
    chunk: items of the full softmax that are in memory at a time.
    label_smoothing: of "full": mass spread over all items.
  """

  loss: Literal["full", "bce", "bpr"] = "full"
  negatives: int = 1
  chunk: int = 1024
  label_smoothing: float = 0.0

  def __post_init__(self):
    check_ranges(
      self,
      "config.sasrec_loss",
      negatives="[1, inf)",
      chunk="[1, inf)",
      label_smoothing="[0, 1)",
    )


def _logits(
  state_ND, table_CD, num_items: int, start=0, stride: int = 1
) -> jax.Array:
  """(N, C) float32 of every stride-th item; rows of no item have -inf."""
  logits_NC = jnp.matmul(
    state_ND, table_CD.T, preferred_element_type=jnp.float32
  )
  is_item_C = start + stride * jnp.arange(len(table_CD)) < num_items
  return jnp.where(is_item_C, logits_NC, -jnp.inf)


def _chunks(table_ID: jax.Array, chunk: int) -> tuple[jax.Array, jax.Array]:
  """Equal chunks, none greater than `chunk`, and the first row of each.

  Of n chunks the first has rows 0, n, 2 n and so on, hence rows of all devices:
  a table that is split over them by row is gone through where it lies.
  """
  rows, D = table_ID.shape
  count = -(-rows // chunk)
  # Whole blocks of rows have a divisor near enough; others are filled up.
  count = next((n for n in range(count, 2 * count) if rows % n == 0), count)
  size = -(-rows // count)
  padded = jnp.pad(table_ID, ((0, count * size - rows), (0, 0)))
  table_XCD = jnp.swapaxes(padded.reshape(size, count, D), 0, 1)
  return table_XCD, jnp.arange(count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _chunked_log_norm(state_ND, table_ID, num_items: int, chunk: int):
  parts = _chunks(table_ID, chunk)

  def add(carry, part):
    high_N, sum_N = carry
    table_CD, start = part
    logits_NC = _logits(state_ND, table_CD, num_items, start, len(parts[1]))
    new_N = jnp.maximum(high_N, logits_NC.max(axis=1))
    sum_N *= jnp.exp(high_N - new_N)
    sum_N += jnp.exp(logits_NC - new_N[:, None]).sum(axis=1)
    return (new_N, sum_N), None

  # The first chunk has an item, so this is no maximum for long; an infinite
  # one would make the first rescaling exp(inf - inf).
  low_N = jnp.full(len(state_ND), jnp.finfo(jnp.float32).min)
  (high_N, sum_N), _ = jax.lax.scan(add, (low_N, jnp.zeros_like(low_N)), parts)
  return high_N + jnp.log(sum_N)


def _log_norm_forth(state_ND, table_ID, num_items, chunk):
  log_norm_N = _chunked_log_norm(state_ND, table_ID, num_items, chunk)
  return log_norm_N, (state_ND, table_ID, log_norm_N)


def _log_norm_back(num_items, chunk, saved, gradient_N):
  state_ND, table_ID, log_norm_N = saved
  parts = _chunks(table_ID, chunk)

  def add(to_state_ND, part):
    table_CD, start = part
    logits_NC = _logits(state_ND, table_CD, num_items, start, len(parts[1]))
    share_NC = jnp.exp(logits_NC - log_norm_N[:, None]) * gradient_N[:, None]
    share_NC = share_NC.astype(state_ND.dtype)
    to_state_ND += jnp.matmul(
      share_NC, table_CD, preferred_element_type=jnp.float32
    )
    return to_state_ND, share_NC.T @ state_ND

  to_state_ND, to_table_XCD = jax.lax.scan(
    add, jnp.zeros(state_ND.shape, jnp.float32), parts
  )
  to_table_ID = jnp.swapaxes(to_table_XCD, 0, 1).reshape(-1, table_ID.shape[1])
  to_table = to_table_ID[: len(table_ID)]
  return to_state_ND.astype(state_ND.dtype), to_table.astype(table_ID.dtype)


_chunked_log_norm.defvjp(_log_norm_forth, _log_norm_back)


def log_norm(
  state_ND: jax.Array, table_ID: jax.Array, num_items: int, chunk: int
) -> jax.Array:
  """log sum over items of exp(state . E_item), differentiable.

  Args:
    state_ND: any number of states.
    table_ID: embeddings; rows beyond `num_items` do not count.
    num_items: at least 1.
    chunk: items in memory at a time. A table that is no longer is not gone
      through twice.

  Returns:
    (N,) float32.
  """
  if len(table_ID) <= chunk:
    logits_NI = _logits(state_ND, table_ID, num_items)
    return jax.nn.logsumexp(logits_NI, axis=1)
  return _chunked_log_norm(state_ND, table_ID, num_items, chunk)


def _dot(state_BND: jax.Array, embedded_BND: jax.Array) -> jax.Array:
  """(B, N) float32 scores of one item per branch."""
  return jnp.sum(state_BND.astype(jnp.float32) * embedded_BND, axis=-1)


def draw_negatives(
  key: jax.Array, batch: Batch, num_items: int, count: int
) -> tuple[jax.Array, jax.Array]:
  """Negatives of every branch.

  Args:
    key: of the draw.
    batch: histories and targets.
    num_items: at least 2.
    count: K, of each branch.

  Returns:
    item_BNK int32, never the branch's target; valid_BNK, False for items of
    the row's history that the target belongs to, past or future.
  """
  target_BN1 = batch.target_BN[..., None]
  drawn_BNK = jax.random.randint(
    key, (*batch.target_BN.shape, count), 0, num_items - 1
  )
  item_BNK = drawn_BNK + (drawn_BNK >= target_BN1)
  own_BN = jnp.take_along_axis(batch.segment_BT, batch.last_BN, axis=1)
  own_BNT = batch.segment_BT[:, None] == own_BN[..., None]
  same_BNKT = item_BNK[..., None] == batch.item_BT[:, None, None]
  return item_BNK, ~(same_BNKT & own_BNT[:, :, None]).any(-1)


@dataclasses.dataclass(frozen=True)
class SasRecObjective:
  """SASRec with one of its losses.

  Attributes:
    model: the network.
    config: which loss.
  """

  model: SasRec
  config: SasRecLossConfig

  def __post_init__(self):
    if self.config.loss != "full" and self.model.num_items < 2:
      raise UserError(
        f"config.sasrec_loss.loss is {self.config.loss!r}, which tells the"
        f" target from other items, but the catalogue has"
        f" {self.model.num_items}. Use data with more items."
      )

  def init_params(self, seed: int) -> dict:
    """Float32 parameters; shapes depend on the model alone."""
    one = jnp.zeros((1, 1), jnp.int32)
    key = jax.random.key(seed)
    return self.model.init(key, one, one + 1, method=SasRec.states)["params"]

  def loss(
    self,
    params: dict,
    batch: Batch,
    codes: Codes,
    dropout_key: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean loss per target and summed metrics; see `train.objective`."""
    del codes  # Items are told apart by their numbers alone.
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    state_BND: Any = self.model.apply(
      {"params": params},
      batch.item_BT,
      batch.segment_BT,
      batch.last_BN,
      deterministic=dropout_key is None,
      rngs=rngs,
      method=SasRec.branches,
    )
    table_ID = params["item_embedding"]
    if self.config.loss == "full":
      loss_BN = self._full(state_BND, table_ID, batch.target_BN)
    else:
      key = jax.random.key(0) if dropout_key is None else dropout_key
      loss_BN = self._sampled(state_BND, table_ID, batch, key)
    total = jnp.sum(loss_BN * batch.weight_BN)
    targets = jnp.sum(batch.weight_BN)
    metrics = {
      "targets": targets,
      "loss": total,
      f"loss/{self.config.loss}": total,
    }
    return total / jnp.maximum(targets, 1.0), metrics

  def _full(self, state_BND, table_ID, target_BN) -> jax.Array:
    B, N, D = state_BND.shape
    items, smoothing = self.model.num_items, self.config.label_smoothing
    log_norm_BN = log_norm(
      state_BND.reshape(B * N, D), table_ID, items, self.config.chunk
    ).reshape(B, N)
    gold_BN = _dot(state_BND, table_ID[target_BN])
    if smoothing:
      centre_D = table_ID[:items].astype(jnp.float32).mean(axis=0)
      mean_BN = _dot(state_BND, centre_D)
      gold_BN = (1.0 - smoothing) * gold_BN + smoothing * mean_BN
    return log_norm_BN - gold_BN

  def _sampled(self, state_BND, table_ID, batch, key) -> jax.Array:
    item_BNK, valid_BNK = draw_negatives(
      jax.random.fold_in(key, 0),
      batch,
      self.model.num_items,
      self.config.negatives,
    )
    gold_BN = _dot(state_BND, table_ID[batch.target_BN])
    other_BNK = _dot(state_BND[:, :, None], table_ID[item_BNK])

    def mean(x_BNK):
      count_BN = jnp.maximum(valid_BNK.sum(axis=-1), 1)
      return jnp.sum(x_BNK * valid_BNK, axis=-1) / count_BN

    if self.config.loss == "bce":
      return -jax.nn.log_sigmoid(gold_BN) - mean(jax.nn.log_sigmoid(-other_BNK))
    return -mean(jax.nn.log_sigmoid(gold_BN[..., None] - other_BNK))
