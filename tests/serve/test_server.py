"""The process: ready, SIGHUP, SIGTERM, and what ends it with status 2."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from holorec_jax.errors import UserError
from holorec_jax.serve import self_check

BODY = b'{"history": ["item1", "item2"]}'
HEAD = (
  b"POST /recommend HTTP/1.1\r\nhost: test\r\n"
  b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
)
SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "serve.py"


class Process:
  """launch/serve.py, and its events by name."""

  def __init__(self, *flags):
    command = [sys.executable, SCRIPT, "--port=0", *flags]
    self.process = subprocess.Popen(
      command, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    self.lines = []
    self.reader = threading.Thread(target=self._read, daemon=True)
    self.reader.start()

  def _read(self):
    for line in self.process.stderr:
      self.lines.append(line)

  def wait_for(self, name, count=1, seconds=60):
    """The count-th event of this name."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and self.process.poll() is None:
      events = [json.loads(x) for x in self.lines if x.startswith("{")]
      found = [event for event in events if event["event"] == name]
      if len(found) >= count:
        return found[count - 1]
      time.sleep(0.05)
    raise AssertionError("".join(self.lines))

  def ask(self, path, body=None):
    """Status and JSON."""
    port = self.wait_for("listening")["port"]
    request = urllib.request.Request(
      f"http://127.0.0.1:{port}{path}",
      body and json.dumps(body).encode(),
      {"content-type": "application/json"},
    )
    try:
      with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
      return error.code, json.load(error)


def test_from_start_to_sigterm(bundle, other, tmp_path):
  link = tmp_path / "current"
  link.symlink_to(bundle)
  server = Process(f"--bundle={link}")
  try:
    assert server.ask("/health")[0] == 200
    server.wait_for("ready")
    status, ready = server.ask("/health/ready")
    assert status == 200 and ready["ready"]
    body = {"history": ["item1", "item2"]}
    status, answer = server.ask("/recommend", body)
    assert status == 200 and answer["bundle"] == ready["bundle"]

    link.unlink()
    link.symlink_to(other)
    server.process.send_signal(signal.SIGHUP)
    swapped = server.wait_for("bundle_loaded", count=2)
    assert swapped["previous"] == ready["bundle"] != swapped["bundle"]
    assert server.ask("/recommend", body)[1]["bundle"] == swapped["bundle"]

    link.unlink()
    server.process.send_signal(signal.SIGHUP)
    server.wait_for("bundle_refused")
    assert server.ask("/recommend", body)[1]["bundle"] == swapped["bundle"]

    # Half arrived when SIGTERM comes; /health is answered after those halves.
    port = server.wait_for("listening")["port"]
    users = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for user in users:
      user.sendall(HEAD + BODY[:9])
    assert server.ask("/health")[0] == 200
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("Shutting down")
    with pytest.raises(OSError):
      socket.create_connection(("127.0.0.1", port))
    for user in users:
      user.sendall(BODY[9:])
    for user in users:
      answer = user.makefile("rb").read()
      assert answer.startswith(b"HTTP/1.1 200 ") and b'"items":[{' in answer
    assert server.process.wait(30) == 0
    server.reader.join()
    assert json.loads(server.lines[-1])["event"] == "stopped"
  finally:
    server.process.kill()
    server.process.wait()


def test_no_bundle_ends_it(tmp_path):
  server = Process(f"--bundle={tmp_path}")
  assert server.process.wait(60) == 2
  server.reader.join()
  assert server.lines[-1].startswith(f"error: {tmp_path} cannot be served")


def test_self_check(bundle, tmp_path):
  said = []
  self_check.check(str(bundle), said.append)
  assert [line[:2] for line in said] == ["ok", "ok"]
  with pytest.raises(UserError, match="no bundle"):
    self_check.check(str(tmp_path))
