"""supervise.sh: when it starts a command again, and when it gives up."""

import pathlib
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SUPERVISE = str(ROOT / "launch" / "supervise.sh")


def start(*args: str) -> subprocess.Popen:
  return subprocess.Popen(
    ["bash", SUPERVISE, *args],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    # Tests that a script runs in the background were started without it, and
    # bash cannot trap what is ignored when it starts.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )


def supervise(
  script: str, workdir: pathlib.Path, *options: str
) -> tuple[int, str, int]:
  """Status, stderr, and how often the command was started.

  The script finds its workdir in $1, and in $n how often it was started.
  """
  process = start(*options, *command(script, workdir))
  _, errors = process.communicate(timeout=60)
  return process.returncode, errors, starts(workdir)


def command(script: str, workdir: pathlib.Path) -> list[str]:
  workdir.mkdir(exist_ok=True)
  count = 'w=${1#*=}; echo >>"$w"/starts; n=$(grep -c "" "$w"/starts); '
  return ["bash", "-c", count + script, "script", f"--workdir={workdir}"]


def starts(workdir: pathlib.Path) -> int:
  path = workdir / "starts"
  return len(path.read_text().splitlines()) if path.exists() else 0


def test_what_is_done_and_what_a_person_must_mend_is_not_repeated(tmp_path):
  assert supervise("exit 0", tmp_path / "a") == (0, "", 1)
  code, errors, count = supervise("exit 2", tmp_path / "b")
  assert (code, count) == (2, 1)
  assert errors == "supervise: status 2: not started again\n"


def test_progress_goes_on_whatever_happens(tmp_path):
  code, errors, count = supervise(
    'mkdir -p "$w"/systems/other/checkpoints/$((n * 9)); ((n == 4)) || exit 1',
    tmp_path,
    "--restarts=1",
    "--longest=0",
  )
  assert (code, count) == (0, 4)
  assert errors.count("status 1: starting again in 0 s") == 3


def test_a_repeating_step_is_given_up_loudly(tmp_path):
  code, errors, count = supervise(
    'mkdir -p "$w"/checkpoints/120 "$w"/checkpoints/95; exit 139',
    tmp_path,
    "--restarts=2",
    "--longest=1",
  )
  # The first made a checkpoint; then came the restarts that made none.
  assert (code, count) == (139, 4)
  last = errors.splitlines()[-1]
  assert "GIVING UP: status 139, and no newer checkpoint after 2" in last
  assert last.endswith(f"{tmp_path}/checkpoints 120")


def test_preempted_starts_again_at_once(tmp_path):
  code, errors, count = supervise(
    'mkdir -p "$w"/checkpoints/$n; ((n == 3)) || exit 75', tmp_path
  )
  assert (code, count) == (0, 3)
  assert errors.count("preempted: starting again\n") == 2
  # But not for ever.
  code, errors, count = supervise("exit 75", tmp_path / "b", "--restarts=3")
  assert (code, count) == (75, 4)
  assert "GIVING UP" in errors


def wait_for(text: str, process: subprocess.Popen) -> None:
  assert process.stderr is not None
  while text not in (line := process.stderr.readline()):
    assert line, f"never said {text}"


def test_signals_reach_the_command_which_is_waited_for(tmp_path):
  for number in (signal.SIGTERM, signal.SIGINT):
    workdir = tmp_path / number.name
    script = (
      "trap 'sleep .3; touch \"$w\"/saved; exit 75' TERM;"
      "echo ready >&2; while :; do sleep .05; done"
    )
    process = start(*command(script, workdir))
    wait_for("ready", process)
    process.send_signal(number)
    assert process.wait(timeout=30) == 75
    assert (workdir / "saved").exists()
    assert starts(workdir) == 1


def test_a_command_that_cannot_save_yet_may_start_again(tmp_path):
  process = start(*command("echo ready >&2; exec sleep 30", tmp_path))
  wait_for("ready", process)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 75


def test_a_signal_ends_the_pause(tmp_path):
  process = start("--longest=100", *command("exit 1", tmp_path))
  wait_for("again in 1 s", process)
  wait_for("again in 2 s", process)
  wait_for("again in 4 s", process)
  began = time.monotonic()
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=30) == 75
  assert time.monotonic() - began < 3
  assert starts(tmp_path) == 3


def test_help_and_mistakes(tmp_path):
  answer = subprocess.run(
    ["bash", SUPERVISE, "--help"], capture_output=True, text=True
  )
  assert answer.returncode == 0
  assert answer.stdout.startswith("Runs a training command until it is done")
  assert "#" not in answer.stdout and "set -" not in answer.stdout
  for args, words in (
    (["--restart=3", "true"], "unknown option --restart=3"),
    (["--restarts=x", "true"], "take whole numbers"),
    ([], "no command"),
    (["true"], "no --workdir=DIR"),
  ):
    process = start(*args)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert words in errors
