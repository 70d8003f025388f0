"""Metrics of a run: metrics.jsonl and TensorBoard events.

metrics.jsonl is the record that reports are drawn from, one JSON object a
line; TensorBoard gets the same numbers through its own EventFileWriter, which
needs no TensorFlow.
"""

import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from absl import logging
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from holorec_jax.artifacts import explain_full_disk, write_text

METRICS = "metrics.jsonl"


class MetricWriter:
  """Writes scalars by step; after a restart as if there had been none.

  Args:
    folder: the workdir.
    resumed_step: the step training goes on from. What a run wrote after its
      last checkpoint is dropped, since those steps are run again.

  Raises:
    UserError: the disk is full, now or at a later call; metrics.jsonl keeps its
      whole lines.
  """

  def __init__(
    self, folder: str | os.PathLike[str], resumed_step: int = 0
  ) -> None:
    path = pathlib.Path(folder) / METRICS
    with explain_full_disk(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      lines = [
        json.dumps(line)
        for line in read_metrics(folder)
        if line["step"] <= resumed_step
      ]
      write_text(path, "".join(f"{line}\n" for line in lines))
      # Unbuffered: what could not be written is not tried again in `close`.
      self._lines = open(path, "ab", buffering=0)  # noqa: SIM115
      _await_new_second(path.parent)
      self._events = EventFileWriter(str(folder))
      # TensorBoard, too, shall forget the steps that are run again.
      start = SessionLog(status=SessionLog.START)
      self._add_event(resumed_step + 1, session_log=start)

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Writes scalars, such as {"train/loss": 1.5}, that belong to one step."""
    values = {name: _to_number(value) for name, value in metrics.items()}
    # JSON has no NaN: null keeps the line readable for every reader.
    line = {k: v if math.isfinite(v) else None for k, v in values.items()}
    scalars = [Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
    with explain_full_disk(self._lines.name):
      self._append(json.dumps({"step": step, **line}) + "\n")
      self._add_event(step, summary=Summary(value=scalars))

  def _append(self, line: str) -> None:
    """Adds a whole line, or nothing."""
    size = os.fstat(self._lines.fileno()).st_size
    rest = line.encode()
    try:
      while rest:  # A disk that fills up takes a part first.
        rest = rest[self._lines.write(rest) :]
    except BaseException:
      self._lines.truncate(size)
      raise

  def _add_event(self, step: int, **content: Any) -> None:
    event = Event(step=step, wall_time=time.time(), **content)
    self._events.add_event(event)

  def close(self) -> None:
    """Flushes both files; nothing can be written afterwards."""
    self._lines.close()
    self._events.close()

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()


def _await_new_second(folder: pathlib.Path) -> None:
  """Until no file of events has this second in its name.

  TensorBoard reads the files of a folder by name, which orders those of one
  second by process and count as strings: a restart could come first.
  """
  while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
    time.sleep(0.02)


def _to_number(value: Any) -> int | float:
  """A Python number of a Python, numpy or JAX scalar."""
  number = value.item() if hasattr(value, "item") else value
  if not isinstance(number, int | float):
    raise TypeError(f"a metric is a scalar, not {value!r}")
  return number


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl, in the order in which they were written.

  A line that a killed process left half-written is skipped, with a warning.
  """
  path = pathlib.Path(folder) / METRICS
  lines = []
  if path.exists():
    for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
      try:
        lines.append(json.loads(text))
      except ValueError:
        logging.warning("%s, line %d is cut off: skipped", path, number)
  return lines
