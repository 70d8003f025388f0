"""What the training loop knows beside the state."""

import dataclasses

METRIC = "valid/ndcg@10"


@dataclasses.dataclass
class Progress:
  """What the loop knows beside the state; saved as JSON.

  Attributes:
    best: best validation metric.
    best_step: its step.
    stale: validations since.
    seconds: training time, validations and restarts included.
    finished: the run is over (all epochs, or out of patience).
    unwritten: sums of the steps since the last line of metrics.jsonl.
    rows_per_batch: of the batches that steps count; 0: an older release did
      not write it down.
    unjudged: the validation of this checkpoint is yet to come.
  """

  best: float = -1.0
  best_step: int = 0
  stale: int = 0
  seconds: float = 0.0
  finished: bool = False
  unwritten: dict[str, float] = dataclasses.field(default_factory=dict)
  rows_per_batch: int = 0
  unjudged: bool = False

  def count(self, step: int, metric: float) -> None:
    """Takes a validation into account."""
    self.stale = 0 if metric > self.best else self.stale + 1
    if metric >= self.best:
      # Of equals the later one, as checkpoints are ranked.
      self.best, self.best_step = metric, step
