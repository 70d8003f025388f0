"""AdamW, Adafactor or Muon with warm-up, cosine decay and clipping.

All three give updates of about unit root mean square (Muon of about 0.2, as
Adam's are in practice), so one learning rate, schedule and weight decay means
the same to each:

  adamw      Loshchilov & Hutter, arXiv 1711.05101; two moments a parameter
  adafactor  Shazeer & Stern, arXiv 1804.04235, without momentum and relative
             step sizes; large matrices keep the second moment's rows and
             columns alone
  muon       Jordan et al., 2024, scaled as in arXiv 2502.16982: orthogonalised
             momentum for the layers' matrices, Adam for all else
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import optax

from holorec_jax import sharding
from holorec_jax.ranges import check_ranges


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """Optimiser and schedule.

  Attributes:
    learning_rate: peak.
    warmup_share: share of all steps with linear warm-up, at most half.
    final_share: learning rate at the end, as a share of the peak.
    weight_decay: decoupled, on matrices only.
    clip_norm: global gradient norm bound; inf for none.
    b2: second-moment decay of Adam, in Muon's part too.
    average_decay: of the parameters' moving average, which evaluation and
      export read; 0 turns averaging off.
    name: "adamw", "adafactor" or "muon".
    accumulate: parts that a batch's rows are gone through in, one after the
      other, before an update: less memory, and the same update but for
      dropout's masks (and for losses that compare targets with each other,
      S2GR's, which see a part).
  """

  learning_rate: float = 5e-4
  warmup_share: float = 0.01
  final_share: float = 0.0
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  b2: float = 0.999
  average_decay: float = 0.0
  name: Literal["adamw", "adafactor", "muon"] = "adamw"
  accumulate: int = 1

  def __post_init__(self):
    check_ranges(
      self,
      "config.optim",
      learning_rate="(0, inf)",
      warmup_share="[0, 0.5]",
      final_share="[0, 1]",
      weight_decay="[0, inf)",
      clip_norm="(0, inf]",
      b2="[0, 1)",
      average_decay="[0, 1)",
      accumulate="[1, inf)",
    )


def _by_path(rule: Callable[[str, int], object], params):
  """rule(path, dimensions in one layer) for every parameter."""

  def apply(path, x):
    name = sharding.path_name(path)
    return rule(name, x.ndim - sharding.is_stacked(name))

  return jax.tree_util.tree_map_with_path(apply, params)


def _decays(params):
  return _by_path(lambda name, ndim: ndim > 1, params)


def _orthogonal(params):
  """What Muon sees as a matrix: the kernels of dense layers, layer by layer."""
  matrix = optax.contrib.MuonDimensionNumbers(-2, -1)

  def choose(name, ndim):
    return matrix if name.endswith("/kernel") and ndim == 2 else None

  return _by_path(choose, params)


def _adamw(config: OptimConfig) -> optax.GradientTransformation:
  return optax.scale_by_adam(b2=config.b2)


def _adafactor(config: OptimConfig) -> optax.GradientTransformation:
  del config
  return optax.chain(
    optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)
  )


def _muon(config: OptimConfig) -> optax.GradientTransformation:
  # Its learning rate of -1 leaves the direction alone; as below, up is minus.
  return _in_whole_matrices(
    optax.contrib.muon(
      learning_rate=-1.0,
      adam_b2=config.b2,
      consistent_rms=0.2,
      muon_weight_dimension_numbers=_orthogonal,
    )
  )


def _in_whole_matrices(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """The same on whole matrices: each device has those of its own layers.

  A product of a matrix with itself, and Muon makes ten in a row, needs all of
  it. Left to itself XLA gathers all layers' shares for every one of them.
  """

  def update(updates, state, params=None):
    whole = sharding.whole_matrices((updates, state))
    # Both ends say so, or XLA takes the matrices apart in between.
    return sharding.stored(
      sharding.whole_matrices(inner.update(*whole, params))
    )

  return optax.GradientTransformation(inner.init, update)


# Gradients -> directions, which the learning rate scales.
DIRECTIONS = {"adamw": _adamw, "adafactor": _adafactor, "muon": _muon}


def make_schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
  """Learning rate by the number of updates done before."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=max(1, round(config.warmup_share * total_steps)),
    decay_steps=max(2, total_steps),
    end_value=config.final_share * config.learning_rate,
  )


def make_optimizer(
  config: OptimConfig, total_steps: int
) -> optax.GradientTransformation:
  """The gradient transformation for a run of `total_steps` updates."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.chain(
      DIRECTIONS[config.name](config),
      optax.add_decayed_weights(config.weight_decay, _decays),
      optax.scale_by_learning_rate(make_schedule(config, total_steps)),
    ),
  )
