"""What the machine does while it trains: speed, waiting, memory, compiling."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

# Peak of one device's dense bfloat16 matrix products, from the vendors' data
# sheets, by the start of its `device_kind`; the first that fits counts.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v6": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100 NVL": 835e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA GH200": 989e12,
  "NVIDIA B200": 2250e12,
}
_COMPILED = "/jax/core/compile/backend_compile_duration"


def peak_flops(tflops: float = 0.0) -> float | None:
  """Of all devices together; None, with a warning, where it is unknown.

  Args:
    tflops: of one device; 0: by its name.
  """
  kind = jax.devices()[0].device_kind
  one = tflops * 1e12 or peak_of(kind)
  if one:
    return one * jax.device_count()
  if jax.default_backend() != "cpu":
    logging.warning(
      "no speed/mfu, as the peak of a device called %r is not known:"
      " config.train.peak_tflops sets it",
      kind,
    )
  return None


def peak_of(device_kind: str) -> float | None:
  """Of one device by its name; None where that is unknown."""
  for kind, flops in PEAK_FLOPS.items():
    if device_kind.startswith(kind):
      return flops
  return None


class Meter:
  """Counts between two lines of the log; while open, compilations too.

  Args:
    peak: FLOP/s of all devices; None: no model FLOPs utilisation is told.
    flops: batch -> model FLOPs of a training step on it (`train.flops`).
  """

  def __init__(
    self,
    peak: float | None = None,
    flops: Callable[[Any], float] | None = None,
  ) -> None:
    self._peak, self._flops = peak, flops
    self._compiled = self._compile_seconds = 0.0
    self.restart()

  def restart(self) -> None:
    """Starts the clock, and all that is told by it, anew."""
    self._since = time.perf_counter()
    self._waited = self._targets = self._tokens = self._done = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """The loop has nothing to do inside but to wait for its input."""
    began = time.perf_counter()
    yield
    self._waited += time.perf_counter() - began

  def read_in(self, rows: Mapping[str, np.ndarray], batch: Any) -> None:
    """Takes a step's input into account.

    Args:
      rows: this process's rows; of the others' tokens there are as many.
      batch: those of all processes.
    """
    filled = np.count_nonzero(rows["segment_BT"])
    self._tokens += filled * len(batch.segment_BT) / len(rows["segment_BT"])
    if self._peak and self._flops:
      self._done += self._flops(batch)

  def trained(self, targets: float) -> None:
    """Takes a step's targets into account."""
    self._targets += targets

  def read(self) -> dict[str, float]:
    """The rates since the last call or restart.

    Tokens are history items; the input's share is of the time; compilations
    are of programs, with their seconds, where there were any. Rates are of
    steps of this process, if any.
    """
    seconds = time.perf_counter() - self._since
    rates = {}
    if self._targets:
      rates["targets_per_second"] = self._targets / seconds
    if self._tokens:
      rates["tokens_per_second"] = self._tokens / seconds
      rates["input_wait_share"] = self._waited / seconds
    if self._peak and self._done:
      rates["mfu"] = self._done / seconds / self._peak
    if self._compiled:
      rates["compilations"] = self._compiled
      rates["compile_seconds"] = self._compile_seconds
      self._compiled = self._compile_seconds = 0.0
    self.restart()
    return {
      f"speed/{name}": rate for name, rate in rates.items()
    } | memory_in_use()

  def _listen(self, event: str, duration_secs: float, **kwargs: Any) -> None:
    del kwargs
    if event == _COMPILED:
      self._compiled += 1
      self._compile_seconds += duration_secs

  def __enter__(self) -> "Meter":
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self

  def __exit__(self, *error: object) -> None:
    jax.monitoring.unregister_event_duration_listener(self._listen)


def memory_in_use() -> dict[str, float]:
  """Of the fullest local device, in GiB; {} where the platform has no count."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  names = {"bytes_in_use": "in_use_gib", "peak_bytes_in_use": "peak_gib"}
  found = {
    f"memory/{name}": max(s.get(key, 0) for s in stats) / 2**30
    for key, name in names.items()
  }
  return {name: gib for name, gib in found.items() if gib}
