"""The structs that cross module borders (shape legend: package docstring)."""

import jax
from flax import struct


@struct.dataclass
class Batch:
  """Histories and the branches that decode one target each.

  A row holds one history, or several packed one behind the other and told
  apart by `segment`. A branch sees the slots of its own segment up to and
  including slot `last`, and is trained to generate the item `target`.

  Attributes:
    item_BT: int32 item of each history slot; -1 where empty.
    segment_BT: int32, 1, 2, .. per packed history; 0 where empty.
    last_BN: int32 index of the branch's last visible slot.
    target_BN: int32 item to generate; -1 in unused branches.
    weight_BN: float32; 0 switches a branch off.
  """

  item_BT: jax.Array
  segment_BT: jax.Array
  last_BN: jax.Array
  target_BN: jax.Array
  weight_BN: jax.Array


@struct.dataclass
class TrainState:
  """All that training carries from step to step.

  Attributes:
    step: int32 number of updates done.
    params: float32 parameters.
    average: exponential moving average of params; what evaluation reads.
    opt_state: optax state.
  """

  step: jax.Array
  params: dict
  average: dict
  opt_state: tuple
