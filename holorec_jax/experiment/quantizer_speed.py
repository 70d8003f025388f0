"""Items per second of quantizer training, in turns with a matrix product.

Training is the very scan that `quantize.fit` runs, on random vectors: speed
does not depend on what they are.
"""

from typing import Any

import jax
import numpy as np

from holorec_jax import sharding
from holorec_jax.experiment import ceiling, timing
from holorec_jax.quantize import fit
from holorec_jax.quantize.nested import NestedConfig, NestedQuantizer

EPOCH_STEPS = 16


class Epochs:
  """Epochs of EPOCH_STEPS steps on random vectors.

  Attributes:
    items: of an epoch.
  """

  def __init__(self, config: NestedConfig, width: int):
    self.items = EPOCH_STEPS * config.batch_size
    self._config = config
    self._x_IW = jax.random.normal(jax.random.key(0), (self.items, width))
    variables = jax.jit(NestedQuantizer(config).init)(
      jax.random.key(1), self._x_IW[:1]
    )
    self._state = fit.start_state(variables["params"], config)
    self._even_RLV = fit.balance_weights(
      np.ones((len(config.dims), config.levels, config.codes)), config.balance
    )
    self._epoch = 0

  def run(self) -> None:
    """Trains one epoch; returns when it is done."""
    key = jax.random.fold_in(jax.random.key(2), self._epoch)
    self._epoch += 1
    self._state, _ = jax.block_until_ready(
      fit.train_epochs(
        self._state,
        self._x_IW,
        self._even_RLV,
        key,
        losses=fit.quantizer_losses,
        config=self._config,
        epochs=1,
      )
    )

  def count_costs(self) -> tuple[float, float]:
    """FLOPs and bytes of one item, without the optimiser's.

    Counted on one gradient, as XLA counts a scan's body once only.
    """

    def total(params, x_BW):
      parts = fit.quantizer_losses(params, x_BW, self._even_RLV, self._config)
      return sum(parts.values())

    size = self._config.batch_size
    gradient: Any = jax.jit(jax.grad(total))
    lowered = gradient.lower(self._state.params, self._x_IW[:size])
    flops, bytes_ = timing.count_costs(lowered.compile())
    return flops / size, bytes_ / size


def measure(config: NestedConfig, width: int, repeats: int) -> timing.Result:
  """Times epochs.

  Args:
    config: the quantizer and its batch size.
    width: of the item vectors.
    repeats: timed epochs, after one that is not timed.

  Returns:
    One row, in items per second.
  """
  epochs = Epochs(config, width)
  # One device, as quantizers train on.
  product = ceiling.Product(sharding.make_mesh(jax.local_devices()[:1]))
  seconds, product_seconds = timing.take_turns(
    [epochs.run, product.run], repeats, "quantizer"
  )
  case = f"quantizer, {width} dimensions"
  row = timing.make_row(case, "training", "items", epochs.items, seconds)
  row = timing.add_costs(
    row, "item", *epochs.count_costs(), product.speed(product_seconds)
  )
  more = {"width": width, "batch_size": config.batch_size}
  return timing.Result([row | more])
