"""Step metrics to metrics.jsonl, TensorBoard and the progress bar."""

import math

import jax
from tqdm import tqdm

from holorec_jax.errors import UserError
from holorec_jax.train.meter import Meter
from holorec_jax.train.progress import METRIC
from holorec_jax.train.writers import MetricWriter

_STEPS = "steps"


class NotFinite(UserError):
  """A metric of a step is not finite.

  Attributes:
    step: its number.
  """

  def __init__(
    self, what: str, value: float, step: int, mend: str, why: str = ""
  ) -> None:
    self.step, self._what, self._value, self._mend = step, what, value, mend
    super().__init__(
      f"the {what} is {value} at step {step}; {why}training stopped before a"
      f" checkpoint could be spoilt: {mend}"
    )

  def because(self, why: str) -> "NotFinite":
    """The same with its cause."""
    return NotFinite(self._what, self._value, self.step, self._mend, f"{why}; ")


def _is_of_step(name: str) -> bool:
  """Whether a metric is one value a step, not a sum over its targets."""
  return name.endswith("_norm") or name == "learning_rate"


class Reporter:
  """Sums step metrics; writes means over the targets or steps since then.

  Args:
    writer: of the metrics; None in processes that leave it to the first.
    bar: the progress bar.
    log_every: steps between lines.
    mend: what helps against values that are not finite.
    meter: of the machine; one that is told nothing knows targets/s.
  """

  def __init__(
    self,
    writer: MetricWriter | None,
    bar: tqdm,
    log_every: int,
    mend: str,
    meter: Meter | None = None,
  ):
    self._writer = writer
    self._bar = bar
    self._log_every, self._mend = log_every, mend
    self._meter = meter or Meter()
    self._sums: dict[str, float] = {}
    self.targets = 0.0  # of this process's life

  @property
  def unwritten(self) -> dict[str, float]:
    """Sums since the last line, for a checkpoint between two lines."""
    return dict(self._sums)

  def resume(self, unwritten: dict[str, float]) -> None:
    """Goes on with the sums of a checkpoint."""
    self._sums = dict(unwritten)

  def add(
    self, step: int, metrics: dict[str, jax.Array], writes: bool = True
  ) -> None:
    """Takes one step's metrics; waits for the step to be done.

    Args:
      step: its number.
      metrics: of the step.
      writes: a line, if one is due.

    Raises:
      NotFinite: the loss is not finite, or a norm (a gradient spoils the
        parameters one step before the loss shows it).
    """
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    for name in ("loss", *sorted(filter(_is_of_step, values))):
      if not math.isfinite(values[name]):
        self.flush(step - 1)  # What led to it.
        raise NotFinite(name.replace("_", " "), values[name], step, self._mend)
    self._bar.update()
    self._meter.trained(values["targets"])
    self.targets += values["targets"]
    for key, value in {**values, _STEPS: 1.0}.items():
      self._sums[key] = self._sums.get(key, 0.0) + value
    if writes and step % self._log_every == 0:
      self.flush(step)

  def validated(self, step: int, metrics: dict[str, float]) -> None:
    """Writes validation metrics; their time counts for no speed."""
    self._write(step, metrics)
    self._bar.set_postfix_str(f"{METRIC} {metrics[METRIC]:.4f}", False)
    self._meter.restart()

  def flush(self, step: int) -> None:
    """Writes the means of the steps since the last line, if any."""
    if not self._sums:
      return
    steps, targets = self._sums.pop(_STEPS), self._sums.pop("targets")
    means = {
      f"train/{k}": v / (steps if _is_of_step(k) else targets)
      for k, v in self._sums.items()
    }
    speed = self._meter.read()
    shown = f"loss {means['train/loss']:.3f}"
    if rate := speed.get("speed/targets_per_second"):
      shown += f", {rate:.0f} targets/s"
    self._bar.set_postfix_str(shown, False)
    self._write(step, means | speed)
    self._sums.clear()

  def _write(self, step: int, metrics: dict[str, float]) -> None:
    if self._writer is not None:
      self._writer.write(step, metrics)
