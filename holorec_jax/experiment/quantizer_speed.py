"""Items per second of quantizer training, beside the machine's matmul speed.

Training is the very scan that `quantize.fit` runs, on random vectors: speed
does not depend on what they are. A plain matrix product of a layer's size is
timed in turns with it, so the share of that speed which training reaches does
not depend on what else the machine does.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from holorec_jax.quantize import fit
from holorec_jax.quantize.nested import NestedConfig, NestedQuantizer

EPOCH_STEPS = 16
PRODUCTS = 20


def measure(config: NestedConfig, width: int, repeats: int) -> dict[str, float]:
  """Times epochs of EPOCH_STEPS steps.

  Args:
    config: the quantizer and its batch size.
    width: of the item vectors.
    repeats: timed epochs, after one that is not timed.

  Returns:
    items_per_second, spread ((slowest - fastest) / median), flops_per_item (as
    XLA counts them), gflops_per_second, matmul_gflops_per_second.
  """
  items = EPOCH_STEPS * config.batch_size
  x_IW = jax.random.normal(jax.random.key(0), (items, width))
  params = jax.jit(NestedQuantizer(config).init)(jax.random.key(1), x_IW[:1])
  state = fit.start_state(params["params"], config)
  even_RLV = fit.balance_weights(
    np.ones((len(config.dims), config.levels, config.codes)), config.balance
  )
  left, right = jnp.ones((config.batch_size, width)), jnp.ones((width, 512))
  product = jax.jit(jnp.matmul)
  seconds: dict[str, list[float]] = {"epoch": [], "product": []}
  for repeat in tqdm(range(repeats + 1), desc="quantizer", unit="epoch"):
    key = jax.random.fold_in(jax.random.key(2), repeat)
    began = time.perf_counter()
    state, _ = jax.block_until_ready(
      fit.train_epochs(
        state,
        x_IW,
        even_RLV,
        key,
        losses=fit.quantizer_losses,
        config=config,
        epochs=1,
      )
    )
    seconds["epoch"].append(time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(PRODUCTS):
      answer = product(left, right)
    answer.block_until_ready()
    seconds["product"].append(time.perf_counter() - began)
  taken = seconds["epoch"][1:]
  median = statistics.median(taken)
  flops_per_item = _flops_of_step(state, x_IW, even_RLV, config) / (
    config.batch_size
  )
  product_flops = 2.0 * PRODUCTS * left.size * right.shape[1]
  return {
    "items_per_second": items / median,
    "spread": (max(taken) - min(taken)) / median,
    "flops_per_item": flops_per_item,
    "gflops_per_second": flops_per_item * items / median / 1e9,
    "matmul_gflops_per_second": product_flops
    / statistics.median(seconds["product"][1:])
    / 1e9,
  }


def _flops_of_step(state, x_IW, even_RLV, config: NestedConfig) -> float:
  """XLA's count for one gradient; it counts a scan's body once only."""

  def total(params, x_BW):
    parts = fit.quantizer_losses(params, x_BW, even_RLV, config)
    return sum(parts.values())

  compiled: Any = (
    jax.jit(jax.grad(total))
    .lower(state.params, x_IW[: config.batch_size])
    .compile()
  )
  return compiled.cost_analysis()["flops"]
