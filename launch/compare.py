r"""Trains and evaluates several configs under equal conditions; one table.

  python launch/compare.py \
    --configs=configs/beauty.py,configs/beauty.py:tiger \
    --overrides=data.path=PATH --seeds=3 --workdir=DIR

Every config and seed is a run of launch/run.py in DIR/NAME/seed_S, NAME from
the file's name and the variant behind the colon; what it prints goes to
seed_S.log beside it. Runs whose configs agree on data, vectors and codes share
them. The same command goes on where it was stopped; configs and seeds may be
added. Ablations are rows: variants behind the colon.

DIR/comparison.md, .csv and .svg compare with the first row: mean and standard
deviation over seeds, paired differences with intervals, training time, search
time, parameters. What the columns mean is told in
holorec_jax/experiment/comparison_table.py.
"""

import collections
import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import prelude  # noqa: F401
import status
from absl import app, flags
from tqdm import tqdm

from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.experiment import comparison, comparison_table, mirror
from holorec_jax.experiment.comparison import Job, Plan

LAUNCH = pathlib.Path(__file__).resolve().parent
CONFIGS = flags.DEFINE_list(
  "configs",
  None,
  "FILE.py or FILE.py:VARIANT, separated by commas; the first is the one that"
  " others are compared with.",
)
SEEDS = flags.DEFINE_integer(
  "seeds", 1, "Runs of each config, of the seeds 0, 1, ..", lower_bound=1
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the comparison: all runs and the table."
)
OVERRIDES = flags.DEFINE_multi_string(
  "overrides",
  [],
  "Leaves to set in all configs, as in train.epochs=3,sid.nested.dims=(8,16);"
  " may be given more than once.",
)
JOBS = flags.DEFINE_integer(
  "jobs",
  1,
  "Runs at a time; each gets its share of the CPUs. On one accelerator they"
  " share its memory if XLA_PYTHON_CLIENT_PREALLOCATE=false is set.",
  lower_bound=1,
)
REFIT = flags.DEFINE_bool(
  "refit", False, "Fit the codes again for every seed, with that seed."
)
ALIGN = flags.DEFINE_bool(
  "align",
  False,
  "Align the headline of every config with preferences (GRPO), where it"
  " generates codes; a row NAME/aligned beside its own.",
)
DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "Print what would be run, and write nothing."
)
TAIL = 15


def split_overrides(texts: Sequence[str]) -> list[str]:
  """["a=1,b=(2,3)", "c=4"] as ["a=1", "b=(2,3)", "c=4"]."""
  return [
    part
    for text in texts
    for part in re.split(r",(?=[A-Za-z_][\w.]*=)", text)
    if part
  ]


def command(job: Job) -> list[str]:
  """The process that does a job."""
  return [sys.executable, str(LAUNCH / job.script), *job.arguments()]


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[int]:
  """Yields a file descriptor that holds the folder for this comparison.

  Jobs inherit it, so that the lock outlives a killed parent.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  with open(workdir / ".lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f"another comparison, or a run that one left, works in {workdir}: wait"
        " for it, or end it"
      ) from None
    yield file.fileno()


def execute(plan: Plan, at_once: int, lock: int) -> list[Job]:
  """Does all that is left to do; returns the jobs that failed.

  What needs a failed job fails with it.
  """
  waiting = collections.deque(plan.to_do())
  running: dict[int, tuple[Job, subprocess.Popen]] = {}
  failed: list[Job] = []
  lost: set[pathlib.Path] = set()
  bar = tqdm(total=len(waiting), desc="comparison", unit="run")

  def is_ready(job: Job) -> bool:
    busy = {other.folder for other, _ in running.values()}
    return not job.needs or (job.needs.done() and job.needs.folder not in busy)

  try:
    while waiting or running:
      for slot, (job, process) in list(running.items()):
        if process.poll() is None:
          continue
        del running[slot]
        bar.update()
        if process.returncode or not job.done():
          failed.append(job)
          lost.add(job.folder)
          bar.write(describe_failure(job, process.returncode), sys.stderr)
      for _ in range(len(waiting)):
        job = waiting.popleft()
        if job.needs and job.needs.folder in lost:
          failed.append(job)
          lost.add(job.folder)
          bar.update()
        elif len(running) < at_once and is_ready(job):
          slot = min(set(range(at_once)) - running.keys())
          running[slot] = job, start(job, plan.workdir, slot, at_once, lock)
        else:
          waiting.append(job)
      bar.set_postfix_str(
        ", ".join(job.label for job, _ in running.values()), refresh=False
      )
      time.sleep(0.2)
  finally:
    bar.close()
    for _, process in running.values():
      process.terminate()
    for _, process in running.values():
      process.wait()
  return failed


def start(
  job: Job, workdir: pathlib.Path, slot: int, at_once: int, lock: int
) -> subprocess.Popen:
  """Starts a job on its share of the CPUs."""
  comparison.share(job, workdir)
  with open(job.log, "a") as log:
    print("$", shlex.join(command(job)), file=log, flush=True)
    process = subprocess.Popen(
      command(job),
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      pass_fds=(lock,),
    )
  if at_once > 1 and hasattr(os, "sched_setaffinity"):
    mine = sorted(os.sched_getaffinity(0))
    with contextlib.suppress(ProcessLookupError):
      os.sched_setaffinity(process.pid, mine[slot::at_once] or mine)
  return process


def describe_failure(job: Job, code: int) -> str:
  """What failed, and the last words of its log."""
  text = job.log.read_text(errors="replace")
  lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
  tail = "\n".join(f"  {line}" for line in lines[-TAIL:])
  reason = f"exit code {code}"
  if not code:
    reason = "it ended, but not with this config's results: was code changed?"
  return f"{job.label} failed ({reason}); {job.log} ends with:\n{tail}"


def show(plan: Plan) -> None:
  """Prints every job with its command."""
  to_do = {job.folder for job in plan.to_do()}
  for job in plan.jobs:
    state = "to do" if job.folder in to_do else "done"
    print(f"{job.label}: {state}\n  {shlex.join(command(job))}")
  print(f"{len(to_do)} of {len(plan.jobs)} jobs to do")


def report(plan: Plan) -> None:
  """Writes and prints the table of what is finished."""
  trained = {
    name: [job for job in jobs if dataclasses.replace(job, align=False).done()]
    for name, jobs in plan.runs.items()
  }
  runs = {name: [job.folder for job in jobs] for name, jobs in trained.items()}
  aligned = [
    name
    for name, jobs in trained.items()
    if all(job.align and job.done() for job in jobs)
  ]
  without = [name for name, folders in runs.items() if not folders]
  runs = {name: folders for name, folders in runs.items() if folders}
  if not runs:
    return
  notes = [f"No run is finished of: {', '.join(without)}."] if without else []
  notes.append(f"`python {shlex.join(sys.argv)}`")
  rows = comparison_table.read_rows(runs, aligned)
  print(comparison_table.write(rows, plan.workdir, notes))
  print(f"Table: {(plan.workdir / 'comparison.md').resolve()}, .csv and .svg")


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; see --help")
  workdir = mirror.local_folder(str(WORKDIR.value))
  plan = comparison.make_plan(
    list(CONFIGS.value or ()),
    SEEDS.value,
    split_overrides(OVERRIDES.value),
    workdir,
    REFIT.value,
    ALIGN.value,
  )
  if DRY_RUN.value:
    show(plan)
    return
  # Ends the jobs, as an interrupt does.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  with locked(workdir) as lock:
    comparison.check_folders(plan)
    failed = execute(plan, JOBS.value, lock)
    report(plan)
  if failed:
    names = ", ".join(job.label for job in failed)
    print(f"error: {len(failed)} jobs failed: {names}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
  flags.mark_flags_as_required(["configs", "workdir"])
  with status.exits():
    app.run(main, flags_parser=config_fields.parse_flags)
