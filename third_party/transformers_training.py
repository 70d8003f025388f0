"""Training steps of transformers' T5 (package licence: Apache-2.0).

One target per row, as T5 is trained: B histories of T * L tokens in, the L
code tokens of the next item out, cross-entropy over the whole vocabulary,
AdamW.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from holorec_jax.catalog import Catalog
from holorec_jax.export.hf import code_tokens
from holorec_jax.models.config import GeneratorConfig
from third_party.histories import check_histories
from third_party.transformers_t5 import copy_to_seq2seq


def make_train_step(
  params: dict,
  config: GeneratorConfig,
  catalog: Catalog,
  learning_rate: float = 1e-3,
  device: str = "cpu",
) -> Callable[[np.ndarray, np.ndarray], float]:
  """Copies the weights and makes the optimiser.

  Args:
    params: the generator's parameters.
    config: its configuration; T5 must be able to express it.
    catalog: the items.
    learning_rate: of AdamW, constant.
    device: where torch computes.

  Returns:
    step(item_BT, target_B) -> loss, the mean over the B * L tokens before the
    update. Histories are left-aligned, -1 where empty, and hold an item each.

  Raises:
    ValueError: T5 cannot express the configuration.
  """
  model = copy_to_seq2seq(params, config).to(device).train()
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=learning_rate, fused=True
  )
  token_IL = code_tokens(catalog.codes_IL, catalog.num_codes)

  def step(item_BT: np.ndarray, target_B: np.ndarray) -> float:
    check_histories(item_BT)
    mask_BC = np.repeat(item_BT >= 0, token_IL.shape[1], axis=1)
    token_BC = token_IL[item_BT].reshape(mask_BC.shape)
    loss = model(
      input_ids=torch.from_numpy(token_BC).to(device),
      attention_mask=torch.from_numpy(mask_BC).long().to(device),
      labels=torch.from_numpy(token_IL[target_B]).to(device),
    ).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()

  return step


def seconds_per_step(
  step: Callable[[np.ndarray, np.ndarray], float],
  item_BT: np.ndarray,
  target_B: np.ndarray,
  repeats: int,
) -> list[float]:
  """Seconds of each of `repeats` steps after one that warms up."""
  seconds = []
  for _ in range(repeats + 1):
    began = time.perf_counter()
    # The loss is a number: a step is over when it returns.
    step(item_BT, target_B)
    seconds.append(time.perf_counter() - began)
  return seconds[1:]
