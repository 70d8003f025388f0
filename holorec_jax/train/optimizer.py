"""AdamW with warm-up, cosine decay and clipping (methods 1.2)."""

import dataclasses

import jax
import optax

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
    b2: AdamW's second-moment decay.
    average_decay: of the parameters' moving average, which evaluation and
      export read; 0 turns averaging off.
  """

  learning_rate: float = 5e-4
  warmup_share: float = 0.01
  final_share: float = 0.0
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  b2: float = 0.999
  average_decay: float = 0.0

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
    )


def make_optimizer(
  config: OptimConfig, total_steps: int
) -> optax.GradientTransformation:
  """The gradient transformation for a run of `total_steps` updates."""
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=max(1, round(config.warmup_share * total_steps)),
    decay_steps=max(2, total_steps),
    end_value=config.final_share * config.learning_rate,
  )
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      schedule,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    ),
  )
