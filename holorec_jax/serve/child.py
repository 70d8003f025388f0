"""launch/serve.py as a process of its own, for those who measure it."""

import asyncio
import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from holorec_jax.errors import UserError

_LOOK = 0.1  # seconds between looks at the log


class ServerProcess:
  """A server that can be killed and started again on the same port.

  Attributes:
    port: that it listens on; 0 before the first start.
  """

  def __init__(self, command: Sequence[str]):
    """Starts nothing yet.

    Args:
      command: that serves, without a port.
    """
    self._command = list(command)
    self._process: subprocess.Popen | None = None
    self._folder = tempfile.TemporaryDirectory()
    self._logs: list[pathlib.Path] = []
    self.port = 0

  async def start(self) -> float:
    """Starts it; seconds until it was ready.

    Raises:
      UserError: it ended instead; the message is the end of its log.
    """
    began = time.perf_counter()
    path = pathlib.Path(self._folder.name) / f"{len(self._logs)}.log"
    self._logs.append(path)
    command = [*self._command, f"--port={self.port}"]
    with open(path, "wb") as log:
      self._process = subprocess.Popen(command, stderr=log)
    while "ready" not in (found := _by_name(_events(path))):
      if not self.is_alive():
        raise UserError(path.read_text()[-2000:])
      await asyncio.sleep(_LOOK)
    self.port = found["listening"]["port"]
    return time.perf_counter() - began

  def is_alive(self) -> bool:
    return self._process is not None and self._process.poll() is None

  def kill(self) -> None:
    """SIGKILL: it gets no chance to answer what has arrived."""
    assert self._process is not None  # it was started
    self._process.kill()
    self._process.wait()

  def stop(self) -> int:
    """SIGTERM; the exit status. Of one that has ended already, its own."""
    if self._process is None:
      return 0
    self._process.terminate()
    return self._process.wait()

  def defects(self) -> list[dict[str, Any]]:
    """What all its lives logged as errors."""
    events = [event for log in self._logs for event in _events(log)]
    return [event for event in events if event["level"] == "ERROR"]


def _events(path: pathlib.Path) -> list[dict[str, Any]]:
  lines = path.read_bytes().splitlines(keepends=True)
  whole = [line for line in lines if line[:1] == b"{" and line[-1:] == b"\n"]
  return [json.loads(line) for line in whole]


def _by_name(events: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  return {event["event"]: event for event in events}
