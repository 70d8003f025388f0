"""Scripts of launch/clusters: they run, and what they name is there."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_docs import Block, calls_of, problems_of

from holorec_jax import processes
from holorec_jax.train import preemption

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CLUSTERS = ROOT / "launch" / "clusters"
LOCAL, TPU = CLUSTERS / "local.sh", CLUSTERS / "tpu_vm.sh"
SLURM = CLUSTERS / "slurm.sbatch"


def run(*command, **options) -> subprocess.CompletedProcess:
  return subprocess.run(
    [str(word) for word in command],
    capture_output=True,
    text=True,
    timeout=60,
    **options,
  )


def write(path: pathlib.Path, script: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"#!/usr/bin/env bash\n{script}\n")
  path.chmod(0o755)


def check_flags(place: str, text: str) -> None:
  assert problems_of(Block(place, "bash", "", text)) == []


@pytest.mark.parametrize("script", [LOCAL, TPU, SLURM], ids=lambda p: p.name)
def test_scripts_parse_and_what_they_name_is_there(script):
  assert run("bash", "-n", script).returncode == 0
  text = script.read_text()
  if script is not SLURM:
    # The example of the comment that --help shows.
    helped = run("bash", script, "--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith("One run ")
    example = helped.stdout.split("such as\n\n")[1].split("\n\n")[0]
    assert "launch/train.py" in [name for name, _ in calls_of(example)]
    check_flags(script.name, example)
    assert run("bash", script, "--nosuch=1").returncode == 2
    assert run("bash", script).returncode == 2
  for name, value in re.findall(r"^([A-Z]+)=(\S+)$", text, re.MULTILINE):
    text = text.replace(f'"${name}"', value)
  check_flags(script.name, re.sub(r"^#.*$", "", text, flags=re.MULTILINE))


def local(*options: str, script: str, **more) -> subprocess.CompletedProcess:
  return run("bash", LOCAL, *options, sys.executable, "-c", script, **more)


def test_local_processes_are_a_cluster_that_we_find(tmp_path):
  script = f"""
import os, pathlib
from holorec_jax import processes
found = processes.find_cluster(os.environ)
pathlib.Path({str(tmp_path)!r}, str(found["process_id"])).write_text(
  f"{{found['coordinator_address']}} {{found['num_processes']}}"
  f" {{os.environ['XLA_FLAGS'].split()[-1]}}"
)
"""
  ended = local("--processes=3", "--devices=4", script=script, cwd=ROOT)
  assert ended.returncode == 0, ended.stderr
  told = {(tmp_path / str(i)).read_text() for i in range(3)}
  (one,) = told
  assert re.fullmatch(
    r"localhost:6\d{4} 3 --xla_force_host_platform_device_count=4", one
  )


@pytest.mark.parametrize(
  ("statuses", "worst"),
  [
    ((0, 0, 0), 0),
    ((75, 0, 75), 75),
    ((75, 1, 0), 1),
    ((1, 2, 75), 2),
    ((137, 75, 0), 137),
  ],
)
def test_local_ends_with_the_worst_status(statuses, worst):
  ended = run(
    *("bash", LOCAL, "--processes=3", "bash", "-c"),
    f"s=({' '.join(map(str, statuses))}); exit ${{s[JAX_PROCESS_ID]}}",
  )
  assert ended.returncode == worst
  failed = [i for i, status in enumerate(statuses) if status not in (0, 75)]
  told = re.findall(r"process (\d) ended with status", ended.stderr)
  assert list(map(int, told)) == failed


def test_local_passes_sigterm_on(tmp_path):
  script = (
    f"trap 'exit {preemption.EXIT_CODE}' TERM; >{tmp_path}/$JAX_PROCESS_ID;"
    " while :; do sleep .1; done"
  )
  ours = subprocess.Popen(["bash", str(LOCAL), "bash", "-c", script])
  deadline = time.monotonic() + 30
  while len(list(tmp_path.iterdir())) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.05)
  ours.send_signal(signal.SIGTERM)
  assert ours.wait(timeout=30) == preemption.EXIT_CODE


# Stand-ins: srun leaves its own options out, python notes what it is asked
# and, as training, is stopped by the SIGTERM that ends the job's time.
SRUN = """
while [[ $1 == --* ]]; do echo "srun $1" >>"$NOTES"; shift; done; exec "$@"
"""
PYTHON = """
echo "$@" >>"$NOTES"
case $1 in
  launch/train.py)
    trap "exit 75" TERM; kill -TERM $PPID; while :; do sleep .1; done ;;
  *) exit "${STAGES:-0}" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path):
  """Runs the batch script where these programs are; its status and notes."""
  programs = tmp_path / "programs"
  write(programs / "srun", SRUN)
  write(programs / "python", PYTHON)
  write(programs / "scontrol", 'echo scontrol "$@" >>"$NOTES"')
  write(tmp_path / ".venv/bin/activate", f"PATH={programs}:$PATH")
  (tmp_path / "launch").symlink_to(ROOT / "launch")
  notes = tmp_path / "notes"
  environment = {
    **os.environ,
    "HOME": "/home/someone",
    "NOTES": str(notes),
    "SLURM_JOB_ID": "17",
    "SLURM_CPUS_ON_NODE": "96",
    "SLURM_CPUS_PER_TASK": "12",
    "SLURM_SUBMIT_DIR": str(tmp_path),
  }

  def submit(**variables):
    ended = run("bash", SLURM, env=environment | variables)
    return ended.returncode, notes.read_text().splitlines()

  return submit


def test_slurm_job_prepares_trains_and_queues_again(slurm):
  status, notes = slurm()
  assert status == preemption.EXIT_CODE
  assert [" ".join(note.split()[:2]) for note in notes] == [
    "srun --nodes=1",
    "srun --ntasks=1",
    "srun --cpus-per-task=96",
    "launch/prepare_data.py --config=configs/pod/holorec_1b.py",
    "launch/fit_sids.py --config=configs/pod/holorec_1b.py",
    # It does not take the batch script's since SLURM 22.05.
    "srun --cpus-per-task=12",
    "srun --kill-on-bad-exit=0",
    "launch/train.py --config=configs/pod/holorec_1b.py",
    "scontrol requeue",
  ]
  assert notes[-1] == "scontrol requeue 17"
  for note in (note for note in notes if note.startswith("launch/")):
    assert "--config.data.path=/home/someone/data" in note
    assert "--workdir=/home/someone/runs/holorec" in note


def test_slurm_job_ends_where_preparation_fails(slurm):
  status, notes = slurm(STAGES="2")
  assert status == 2
  assert notes[-1].startswith("launch/prepare_data.py")


def test_slurm_signals_and_tasks():
  options = dict(
    re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SLURM.read_text(), 8)
  )
  # JAX gives each task of a node the GPU of its number.
  assert options["ntasks-per-node"] == options["gpus-per-node"]
  # To the steps, not to the batch script ("B:").
  assert re.fullmatch(r"TERM@\d+", options["signal"])
  assert "requeue" in options
  environment = {"SLURM_STEP_NUM_TASKS": "64", "SLURM_PROCID": "3"}
  assert processes.find_cluster(environment) == {}


@pytest.fixture
def tpu(tmp_path):
  """What tpu_vm.sh does on every worker: installs, then trains."""
  write(tmp_path / "cloud/gcloud", 'printf "%s\\0" "$@" >>"$NOTES"')
  notes = tmp_path / "asked"
  path = f"{tmp_path}/cloud:{os.environ['PATH']}"

  def commands(source: str, *command: str) -> list[str]:
    call = ("bash", TPU, "--name=pod", "--zone=zone-a", f"--source={source}")
    environment = {"NOTES": str(notes), "PATH": path}
    shown = run(*call, "--dry_run", *command, env=environment, check=True)
    assert shown.stdout.startswith("gcloud compute tpus tpu-vm ssh pod ")
    assert not notes.exists()
    run(*call, *command, env=environment, check=True)
    *words, end = notes.read_text().split("\0")
    assert len(words) == 2 * 8 and end == ""
    for start in (0, 8):
      assert words[start : start + 5] == [
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "pod",
      ]
      assert words[start + 5 : start + 7] == ["--zone=zone-a", "--worker=all"]
    return [words[place].removeprefix("--command=") for place in (7, 15)]

  return commands


def test_tpu_workers_train(tpu, tmp_path):
  command = ("python", "launch/train.py", "--workdir=a b")
  config = "--config=configs/pod/tiny.py"
  _, train = tpu("u", *command, config)
  write(tmp_path / "programs/python", 'printf "%s\\n" "$@" >"$HOME/notes"')
  checkout = tmp_path / "holorec_jax"
  write(checkout / ".venv/bin/activate", f"PATH={tmp_path}/programs:$PATH")
  (checkout / "launch").symlink_to(ROOT / "launch")
  environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
  started = run("bash", "-c", f"{train}\nwait", cwd=tmp_path, env=environment)
  assert started.returncode == 0, started.stderr
  asked = (tmp_path / "notes").read_text().splitlines()
  assert asked == [*command[1:], config, "--coordinator=auto"]
  check_flags(TPU.name, shlex.join(["python", *asked]))
  shutil.rmtree(checkout)
  assert run("bash", "-c", train, cwd=tmp_path, env=environment).returncode


def test_tpu_workers_install(tpu, tmp_path):
  """Twice: a clone, then what is new in it; an environment that was cut off."""
  origin, worker = tmp_path / "u v", tmp_path / "worker"
  install, _ = tpu(str(origin), "true")
  worker.mkdir()
  python = 'for last; do :; done; mkdir -p "$last/bin"; cp pip "$last/bin"'
  write(tmp_path / "programs/python3.11", python)
  environment = {
    "HOME": str(worker),
    "PATH": f"{tmp_path}/programs:{os.environ['PATH']}",
  }
  author = ("-c", "user.name=a", "-c", "user.email=a@b")
  for number in (1, 2):
    write(origin / "pip", f'echo {number} "$@" >>"$HOME/notes"')
    if number == 1:
      run("git", "init", "-q", cwd=origin, check=True)
    run("git", "add", "pip", cwd=origin, check=True)
    run("git", *author, "commit", "-qm", "x", cwd=origin, check=True)
    ended = run("bash", "-c", install, cwd=worker, env=environment)
    assert ended.returncode == 0, ended.stderr
    (worker / "holorec_jax/.venv/bin/pip").unlink()
  assert (worker / "notes").read_text().splitlines() == [
    "1 install -q -e .[tpu]",
    "2 install -q -e .[tpu]",
  ]
