"""A window of steps in JAX's profiler."""

import pathlib
import re
from typing import Any

import jax
from absl import logging

from holorec_jax.errors import UserError


def parse_window(text: str) -> tuple[int, int] | None:
  """(first, last) step of "START:STOP"; None if it is empty.

  Raises:
    UserError: it is not of that form.
  """
  if not text:
    return None
  match = re.fullmatch(r"(\d+):(\d+)", text)
  if not match or not 1 <= int(match[1]) <= int(match[2]):
    raise UserError(
      f"--profile is {text!r}; expected START:STOP, the first and the last step"
      " to trace, such as 100:105"
    )
  return int(match[1]), int(match[2])


class Profile:
  """Traces the steps of a window while this context is open.

  Args:
    folder: gets the trace, for TensorBoard's or XProf's profile page.
    window: first and last step; None: nothing is traced.
  """

  def __init__(self, folder: pathlib.Path, window: tuple[int, int] | None):
    # Traces are named after the host, which several processes may share.
    if jax.process_count() > 1:
      folder = folder / f"process_{jax.process_index()}"
    self._folder = folder
    self._first, self._last = window or (1, 0)
    self._tracing, self._traced = False, window is None

  def before(self, step: int) -> None:
    """To be called before each step."""
    if not self._tracing and self._first <= step <= self._last:
      jax.profiler.start_trace(self._folder)
      self._tracing = self._traced = True

  def after(self, step: int, result: Any) -> None:
    """To be called after each step with something that it computes."""
    if self._tracing and step >= self._last:
      jax.block_until_ready(result)
      self._stop()

  def _stop(self) -> None:
    jax.profiler.stop_trace()
    self._tracing = False
    logging.info("profile of the last steps: %s", self._folder)

  def __enter__(self) -> "Profile":
    return self

  def __exit__(self, *error: object) -> None:
    if self._tracing:
      self._stop()
    if not self._traced:
      logging.warning(
        "--profile=%d:%d: none of these steps was trained here, so there is no"
        " trace",
        self._first,
        self._last,
      )
