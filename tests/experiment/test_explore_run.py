"""launch/explore.py as a process: shows a finished run until Ctrl-C."""

import json
import pathlib
import signal
import subprocess
import sys
import urllib.request

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "explore.py"


def test_shows_a_run_until_it_is_interrupted(finished):
  _, workdir = finished
  command = [sys.executable, SCRIPT, f"--workdir={workdir}", "--port=0"]
  with subprocess.Popen(
    [*command, "--system=non_thinking"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      address = process.stdout.readline().strip()
      assert address.startswith("http://127.0.0.1:"), process.stderr.read()
      with urllib.request.urlopen(f"{address}/api/run", timeout=60) as answer:
        about = json.load(answer)
      assert (about["system"], about["items"]) == ("non_thinking", 80)
      process.send_signal(signal.SIGINT)
      assert process.wait(30) == 0
      assert "Traceback" not in process.stderr.read()
    finally:
      process.kill()
