"""Notice that this run is to be stopped, and the step after which it is.

SIGTERM, as schedulers and clouds send it some seconds ahead, and the first
SIGINT (Ctrl-C) ask a run to save after the step it is at and to end with
`EXIT_CODE`. Several processes have to agree on the step: JAX's preemption
service, which SIGTERM in any of them wakes, tells all of them the one after
the furthest that they have reached. It counts how often it was asked since the
processes began, not training's steps: a run that goes on from step 500 asks for
the first time, and a signal that came before names that time.
"""

import itertools
import os
import signal
import threading
from types import FrameType

import jax
from absl import logging
from jax.experimental import multihost_utils

# EX_TEMPFAIL: whoever started the command may start it again at once.
EXIT_CODE = 75
# How often all processes have asked whether to stop.
_ASKED = itertools.count(1)


class Preempted(Exception):
  """Training was asked to stop and has saved: the same command goes on."""


class Notice:
  """While this context is open, signals stop the run instead of killing it."""

  def __init__(self) -> None:
    self._noticed = False
    self._interrupts = 0
    self._alone = jax.process_count() == 1

  @property
  def came(self) -> bool:
    """Whether it came already; of several processes none knows that alone."""
    return self._alone and self._noticed

  def reached(self) -> bool:
    """Whether to save and stop now; asked after every step.

    All processes of a run get the same answer at the same step.
    """
    if self._alone:
      return self._noticed
    return multihost_utils.reached_preemption_sync_point(next(_ASKED))

  def __enter__(self) -> "Notice":
    self._before = {}
    if threading.current_thread() is threading.main_thread():
      taken = {signal.SIGINT: self._interrupt}
      if self._alone:  # Of several it belongs to JAX's service.
        taken[signal.SIGTERM] = self._terminate
      self._before = {s: signal.signal(s, to) for s, to in taken.items()}
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _interrupt(self, number: int, frame: FrameType | None) -> None:
    self._interrupts += 1
    if self._interrupts > 1:
      raise KeyboardInterrupt
    if self._alone:
      self._terminate(number, frame)
    else:
      os.kill(os.getpid(), signal.SIGTERM)

  def _terminate(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._noticed = True
    logging.warning(
      "%s: saving after this step, then stopping", signal.Signals(number).name
    )
