"""Asynchronous Orbax checkpoints of training, sealed against damage.

One step is one folder: Orbax's `state/` and our seal.json (see `seal`), which
also holds what lives on the host: the data iterator's state, the loop's own
state and the metric. The seal is written just before Orbax renames the folder
to its final name, so a checkpoint is there with its seal or not at all. All
use of Orbax, by its v0 CheckpointManager, is here.

Of several processes each writes and reads its own part of the state, in one
folder that all of them see; process 0 writes the seal and decides what is
whole. All of them call the same methods in the same order.
"""

import contextlib
import dataclasses
import logging as python_logging
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import SingleDeviceSharding

from holorec_jax import processes
from holorec_jax.artifacts import explain_full_disk, read_json
from holorec_jax.config_fields import diff
from holorec_jax.errors import UserError
from holorec_jax.train import seal

T = TypeVar("T")
_STATE = seal.STATE
_PARTIAL = ".orbax-checkpoint-tmp"


@dataclasses.dataclass(frozen=True)
class Restored(Generic[T]):
  """A checkpoint read back.

  Attributes:
    step: its step.
    state: the pytree, placed as the target that was asked for.
    data: the data iterator's state.
    loop: the training loop's own state (best metric, patience, ..).
  """

  step: int
  state: T
  data: Any
  loop: Any


class Checkpointer:
  """Saves training states in the background; reads the newest whole one.

  Keeps the last `last` checkpoints, those of steps that `every` divides (0:
  none), and the one of the greatest metric. To be closed, or used as a context
  manager, so that the last save is finished.
  """

  def __init__(
    self, folder: str | os.PathLike[str], *, last: int = 2, every: int = 0
  ) -> None:
    logging.get_absl_logger().addFilter(_hush_orbax)
    self._folder = pathlib.Path(folder).absolute()
    self._last, self._every = last, every
    self._metrics = seal.read_metrics(self._folder)
    self._pending: dict[str, Any] = {}
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self,
      cleanup_tmp_directories=True,
      save_root_metadata=False,
      async_options=ocp.options.AsyncOptions(
        post_finalization_callback=self._seal
      ),
    )
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def save(
    self,
    step: int,
    state: Any,
    *,
    data: Any = None,
    loop: Any = None,
    metric: float | None = None,
  ) -> None:
    """Starts to save; waits only for the save before it and a copy to the host.

    Args:
      step: number of the checkpoint; one that is there already stays as it is.
      state: pytree of arrays; it may be donated as soon as this returns.
      data: JSON of the data iterator.
      loop: JSON of the loop.
      metric: greater is better; None where none is measured, or not yet.

    Raises:
      UserError: the disk is full; may concern the save before this one.
    """
    with self._explain():
      self._manager.wait_until_finished()
      if step in self._manager.all_steps():
        return
      host = {"step": step, "metric": metric, "data": data, "loop": loop}
      self._pending = host
      self._metrics[step] = metric
      args = ocp.args.Composite(**{_STATE: ocp.args.StandardSave(state)})
      self._manager.save(step, args=args, force=True)

  def judge(self, step: int, metric: float, loop: Any) -> None:
    """Adds to a checkpoint what its validation found; waits for its save.

    Args:
      step: its number.
      metric: as in `save`.
      loop: JSON of the loop, in place of that which was saved.

    Raises:
      UserError: the disk is full; may concern the save.
    """
    with self._explain():
      self._manager.wait_until_finished()
      if processes.is_first():
        seal.amend_seal(self._folder / str(step), metric=metric, loop=loop)
      self._metrics[step] = metric
      # Deleting waits for all processes: the first says which they are.
      steps = set(self._manager.all_steps())
      passed = processes.from_first(
        lambda: sorted(steps - self._choose_kept(steps))
      )
      for each in passed:
        self._manager.delete(each)

  def restore(self, target: T) -> Restored[T] | None:
    """The newest whole checkpoint, or None where there is none at all.

    Damaged ones are renamed to broken-STEP once an older one is read, so that
    training can save those steps again.

    Args:
      target: pytree of arrays or jax.ShapeDtypeStruct; its shardings are those
        of the result, whatever they were when it was saved.

    Raises:
      UserError: no checkpoint is whole, or the newest whole one is of another
        model.
    """
    self.wait()
    steps = sorted(self._manager.all_steps(), reverse=True)
    step = processes.from_first(lambda: seal.first_whole(self._folder, steps))
    if step is None:
      return None
    state = _read(self._folder / str(step), target)
    broken = steps[: steps.index(step)]
    processes.from_first(lambda: seal.set_aside(self._folder, broken))
    for damaged in broken:
      self._metrics.pop(damaged, None)
    self._manager.reload()
    host = read_json(self._folder / str(step) / seal.SEAL)
    return Restored(step, state, host["data"], host["loop"])

  def wait(self) -> None:
    """Returns when the save in progress is on disk; UserError if it failed."""
    with self._explain():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the save in progress and ends Orbax's threads."""
    try:
      self.wait()
    except BaseException:
      with contextlib.suppress(Exception):  # It would tell of the same again.
        self._manager.close()
      raise
    self._manager.close()

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> Sequence[bool]:
    """Orbax's preservation policy: the last, every so many, the best."""
    del context
    kept = self._choose_kept(c.step for c in checkpoints)
    return [c.step in kept for c in checkpoints]

  def _choose_kept(self, steps: Iterable[int]) -> set[int]:
    steps = sorted(steps)
    kept = set(steps[-self._last :])
    kept.update(s for s in steps if self._every and s % self._every == 0)
    kept.update(
      seal.rank_by_metric({s: self._metrics.get(s) for s in steps})[:1]
    )
    return kept

  def _seal(self) -> None:
    """Runs in Orbax's thread when all files of the step are written."""
    if not processes.is_first():
      return
    final = self._folder / str(self._pending["step"])
    partial = final.with_name(final.name + _PARTIAL)
    folder = partial if partial.exists() else final
    seal.write_seal(folder, self._pending)

  @contextlib.contextmanager
  def _explain(self) -> Iterator[None]:
    try:
      with explain_full_disk(self._folder):
        yield
    except Exception:
      if processes.is_first():
        for partial in self._folder.glob(f"*{_PARTIAL}*"):
          _remove(partial)
      self._manager.reload()
      self._metrics = seal.read_metrics(self._folder)
      raise


def restore_params(
  folder: str | os.PathLike[str],
  step: int | Literal["best"] | None = None,
  target: Any = None,
  field: str = "params",
) -> Any:
  """Reads one field of the state alone, such as its parameters.

  Of several processes all call it.

  Args:
    folder: the folder of the checkpoints.
    step: a step, "best" for that of the greatest metric, None for the newest.
    target: pytree whose structure and shardings the result takes; without it
      nested dicts of numpy arrays come back.
    field: "params", or "average" for their moving average.

  Raises:
    UserError: there is no such checkpoint, none is whole (the next best is
      taken, with a warning, where one is not), or it is of another model.
  """
  logging.get_absl_logger().addFilter(_hush_orbax)
  folder = pathlib.Path(folder).absolute()
  names = [path.name for path in folder.glob("*") if path.name.isdigit()]
  found = sorted(map(int, names), reverse=True)

  def choose() -> int | None:
    if step == "best":
      return seal.best_whole(folder)
    return seal.first_whole(folder, [s for s in found if step in (None, s)])

  chosen = processes.from_first(choose)
  if chosen is None:
    which = "" if step is None else f" {step!r}"
    raise UserError(
      f"no checkpoint{which} in {folder} (there are: {found or 'none'}):"
      " train first, or ask for one of these"
    )
  if target is not None:
    target = {field: target}
  return _read(folder / str(chosen), target, within=field)[field]


def _read(path: pathlib.Path, target: Any, within: str = "") -> Any:
  """Reads the subtree `within` a step that is known to be whole.

  Refuses here what Orbax would let pass: a missing name or another dtype.
  """

  def place(x: Any) -> Any:
    if isinstance(x, np.ndarray):
      return x
    # Without a sharding Orbax would take that of the devices that saved it.
    sharding = x.sharding or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  with ocp.PyTreeCheckpointer() as reader:
    tree = reader.metadata(path / _STATE).item_metadata.tree
    tree = {within: tree[within]} if within else tree
    if target is None:
      target = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), tree)
    unlike = diff(_list_leaves(tree), _list_leaves(target))
    if unlike:
      raise UserError(
        f"checkpoint {path} is not of the model of this config:\n  "
        + "\n  ".join(unlike[:8])
        + ("\n  .." if len(unlike) > 8 else "")
        + "\nTake the config it was trained with, or another --workdir."
      )
    item = jax.tree.map(place, target)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(
      item=item, restore_args=restore_args, partial_restore=True
    )
    return reader.restore(path / _STATE, args=args)


def _list_leaves(tree: Any) -> dict[str, str]:
  """{"params/item/table": "float32[769,64]"}"""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{np.dtype(x.dtype)}[{','.join(map(str, x.shape))}]"
    )
    for path, x in leaves
  }


def _remove(folder: pathlib.Path) -> None:
  """Deletes a folder that threads of a failed save may still write into."""
  for _ in range(100):
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
      return
    time.sleep(0.1)


def _hush_orbax(record: python_logging.LogRecord) -> bool:
  """Orbax logs some twenty lines a save, and each error that it raises."""
  return (
    logging.vlog_is_on(1) or f"{os.sep}orbax{os.sep}" not in record.pathname
  )
