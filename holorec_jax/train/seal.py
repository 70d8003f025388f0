"""Seals of checkpoints: which are whole, and which is the best.

seal.json of a step holds the SHA-256 of the files of its `state/` beside the
host's state. tensorstore notices a truncated chunk, but a flipped bit in one
would come back as another weight.
"""

import contextlib
import functools
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from holorec_jax.artifacts import (
  hash_file,
  hash_files,
  read_json,
  write_json,
)
from holorec_jax.errors import UserError

SEAL = "seal.json"
STATE = "state"


def write_seal(path: pathlib.Path, host: Mapping[str, Any]) -> None:
  """Seals a step's folder, whose files are all written, with host's JSON."""
  write_json(path / SEAL, {**host, "files": hash_files(path / STATE)})


def amend_seal(path: pathlib.Path, **host: Any) -> None:
  """Replaces parts of the host's JSON in the seal of a step's folder."""
  write_json(path / SEAL, {**_read_seal(path), **host})


def identify(folder: pathlib.Path, step: int) -> dict[str, Any]:
  """Step and hash of a checkpoint in a folder, for what is made from it."""
  return {"step": step, "content": hash_file(folder / str(step) / SEAL)}


def first_whole(folder: pathlib.Path, steps: Sequence[int]) -> int | None:
  """The first of `steps` that is whole; None of an empty sequence."""
  for step in steps:
    fault = find_fault(folder / str(step))
    if fault is None:
      return step
    logging.warning(
      "checkpoint %s is truncated or damaged (%s): falling back to another",
      folder / str(step),
      fault,
    )
  if steps:
    raise UserError(
      f"none of the checkpoints {list(steps)} in {folder} is whole: delete"
      " that folder to train again from the start"
    )
  return None


def set_aside(folder: pathlib.Path, steps: Sequence[int]) -> None:
  """Renames damaged steps to broken-STEP; they can be saved again.

  Those of an earlier time go: each may be as large as the whole state.
  """
  if steps:
    for aside in folder.glob("broken-*"):
      shutil.rmtree(aside, ignore_errors=True)
  for step in steps:
    (folder / str(step)).rename(folder / f"broken-{step}")


def best_whole(folder: str | os.PathLike[str]) -> int | None:
  """The step of the greatest metric among the whole ones; None without any.

  Warns of each that is passed over, so that nobody takes another for the best.

  Raises:
    UserError: there are some and none is whole.
  """
  folder = pathlib.Path(folder)
  metrics = read_metrics(folder)
  for name in sorted(path.name for path in folder.glob("*")):
    if name.isdigit() and int(name) not in metrics:
      logging.warning(
        "checkpoint %s has no readable %s, so nobody knows how good it is: it"
        " is passed over",
        folder / name,
        SEAL,
      )
  ranked = rank_by_metric(metrics)
  step = first_whole(folder, ranked)
  if step is not None and step != ranked[0]:
    logging.warning(
      "%s: step %d (metric %.4f) is taken instead of the best, step %d (%.4f)",
      folder,
      step,
      metrics[step],
      ranked[0],
      metrics[ranked[0]],
    )
  return step


def find_fault(path: pathlib.Path) -> str | None:
  """What is wrong with a step's folder, or None."""
  try:
    files = _read_seal(path)["files"]
  except (UserError, OSError):
    return f"{SEAL} cannot be read"
  actual = _hash_once(path / STATE, _describe_files(path / STATE))
  for name in sorted(files.keys() | actual.keys()):
    if name not in actual:
      return f"{STATE}/{name} is missing"
    if files.get(name) != actual[name]:
      return f"{STATE}/{name} has changed"
  return None


def _describe_files(folder: pathlib.Path) -> tuple:
  """Names, sizes and times of change: others after any change."""
  found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
  return tuple((path, s.st_size, s.st_mtime_ns) for path, s in found)


@functools.lru_cache(maxsize=8)
def _hash_once(folder: pathlib.Path, files: tuple) -> dict[str, str]:
  """`hash_files` of a folder whose files are those."""
  del files
  return hash_files(folder)


def _read_seal(path: pathlib.Path) -> dict[str, Any]:
  """The seal of a step's folder; UserError if it does not look like one."""
  seal = read_json(path / SEAL)
  if not (
    isinstance(seal, dict)
    and seal.keys() >= {"step", "metric", "data", "loop", "files"}
    and isinstance(seal["metric"], float | int | None)
    and isinstance(seal["files"], dict)
  ):
    raise UserError(f"{path / SEAL} is not a seal: delete {path}")
  return seal


def rank_by_metric(metrics: dict[int, float | None]) -> list[int]:
  """Steps that have a metric, best first; of equals the later one."""
  known = [
    (m, s) for s, m in metrics.items() if m is not None and math.isfinite(m)
  ]
  return [step for _, step in sorted(known, reverse=True)]


def read_metrics(
  folder: str | os.PathLike[str],
) -> dict[int, float | None]:
  """The metric of each checkpoint in a folder, by step."""
  metrics: dict[int, float | None] = {}
  for path in sorted(pathlib.Path(folder).glob(f"*/{SEAL}")):
    if path.parent.name.isdigit():
      with contextlib.suppress(UserError):
        metrics[int(path.parent.name)] = _read_seal(path.parent)["metric"]
  return metrics


def read_loop(folder: str | os.PathLike[str]) -> Mapping[str, Any] | None:
  """The training loop's own state in the newest whole checkpoint, or None.

  That is where training would go on.

  Raises:
    UserError: there are checkpoints and none is whole.
  """
  folder = pathlib.Path(folder)
  newest = first_whole(folder, sorted(read_metrics(folder), reverse=True))
  return None if newest is None else _read_seal(folder / str(newest))["loop"]
