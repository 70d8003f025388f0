"""Runs of several processes: how they find each other and agree.

One process needs no setting at all. Several are started by the same command;
what tells them apart comes from flags or from the environment that their
launcher sets:

  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (in an indexed
    Kubernetes job JOB_COMPLETION_INDEX), as the three flags;
  srun and mpirun of more than one task: JAX reads their variables. It gives
    each task of a node the GPU of its number; where one task shall have them
    all, set JAX_LOCAL_DEVICE_IDS=0,1,..;
  --coordinator=auto: whatever else JAX detects, such as a Cloud TPU pod.

All processes see the same --workdir.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from holorec_jax.errors import UserError

T = TypeVar("T")

# One that has died is missed after so long; those that end together wait so
# long for each other.
_HEARTBEAT_SECONDS = 60
_SHUTDOWN_SECONDS = 60

# Variables of launchers that JAX reads itself: of how many tasks this is one.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def find_cluster(
  environment: Mapping[str, str],
  coordinator: str | None = None,
  count: int | None = None,
  index: int | None = None,
) -> dict[str, Any] | None:
  """What `jax.distributed.initialize` has to be told.

  Args:
    environment: variables; what is given beside goes before them.
    coordinator: HOST:PORT of process 0, or "auto" for what JAX detects.
    count: of all processes.
    index: of this one, from 0.

  Returns:
    Its arguments; empty where JAX finds them; None for one process alone.

  Raises:
    UserError: the three do not make a cluster.
  """
  if coordinator == "auto":
    return {}
  address = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
  count = _read_int(count, environment, "JAX_NUM_PROCESSES")
  if address is None and count is None and index is None:
    tasks = [_read_int(None, environment, name) or 1 for name in _TASKS]
    return {} if max(tasks) > 1 else None
  index = _read_int(
    index, environment, "JAX_PROCESS_ID", "JOB_COMPLETION_INDEX"
  )
  if address is None or count is None or index is None:
    raise UserError(
      "several processes need --coordinator=HOST:PORT of process 0 (found"
      f" {address}), their number --processes (found {count}) and each its"
      f" --process_id from 0 (found {index}), or JAX_COORDINATOR_ADDRESS,"
      " JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment; one process"
      " needs none of them"
    )
  if not 0 <= index < count:
    raise UserError(
      f"--process_id is {index}; expected 0..{count - 1}, as --processes is"
      f" {count}"
    )
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit():
    raise UserError(
      f"--coordinator is {address!r}; expected HOST:PORT of process 0, or auto"
    )
  return {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": index,
  }


def _read_int(
  given: int | None, environment: Mapping[str, str], *names: str
) -> int | None:
  if given is not None:
    return given
  for name in names:
    if text := environment.get(name):
      if not text.isdigit():
        raise UserError(f"{name} is {text!r} in the environment; not a number")
      return int(text)
  return None


def join(cluster: dict[str, Any] | None) -> None:
  """Joins the cluster that `find_cluster` found, before anything computes."""
  if cluster is None:
    return
  jax.distributed.initialize(
    **cluster,
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
  )


def is_first() -> bool:
  """Whether this is the process that writes what all would write alike."""
  return jax.process_index() == 0


def from_first(compute: Callable[[], T]) -> T:
  """What process 0 computes, on all processes; the others wait for it.

  To be called by all of them. What came before in process 0 has happened
  before it returns anywhere.

  Args:
    compute: called in process 0 alone; returns JSON.

  Raises:
    UserError: that of process 0.
  """
  if jax.process_count() == 1:
    return compute()
  answer: dict[str, Any] = {}
  if is_first():
    try:
      answer = {"value": compute()}
    except UserError as error:
      answer = {"error": str(error)}
  answer = json.loads(_broadcast(json.dumps(answer)))
  if "error" in answer:
    raise UserError(answer["error"])
  return answer["value"]


def after_first(compute: Callable[[], T]) -> T:
  """Each process computes by itself, process 0 before the others.

  For what writes files the first time and reads them from then on.

  Raises:
    UserError: that of process 0, or of one's own.
  """
  values = []
  from_first(lambda: values.append(compute()))
  return values[0] if values else compute()


def _broadcast(text: str) -> str:
  """The text of process 0."""
  data = np.frombuffer(text.encode(), np.uint8)
  # The others cannot know how long it is; few lengths, since each compiles.
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
  padded = np.zeros(1 << max(10, (size - 1).bit_length()), np.uint8)
  padded[: len(data)] = data if is_first() else 0
  sent = multihost_utils.broadcast_one_to_all(padded)
  return np.asarray(sent)[:size].tobytes().decode()


def own_rows(count: int) -> slice:
  """This process's block of so many rows; of few rows it may have none."""
  size = -(-count // jax.process_count())
  start = min(jax.process_index() * size, count)
  return slice(start, min(start + size, count))


def join_rows(own: np.ndarray, count: int) -> np.ndarray:
  """The blocks of all processes, each of which gives its `own_rows(count)`."""
  if jax.process_count() == 1:
    return own
  # Only what follows the last row is filled up.
  size = -(-count // jax.process_count())
  padded = np.zeros((size, *own.shape[1:]), own.dtype)
  padded[: len(own)] = own
  blocks = np.asarray(multihost_utils.process_allgather(padded))
  return blocks.reshape(-1, *own.shape[1:])[:count]


def row_share(rows: NamedSharding) -> tuple[int, int]:
  """Which rows of a batch this process assembles.

  Args:
    rows: how rows lie on the devices of all processes.

  Returns:
    (index, count): the index-th of count equal blocks. Processes whose devices
    hold the same rows, as along a tensor axis, have the same index.
  """
  shards = rows.num_devices
  parts = rows.devices_indices_map((shards,))
  # Of each device's slice the start; the sizes are all alike.
  starts = {device: part[0].start or 0 for device, part in parts.items()}
  own = sorted({starts[device] for device in rows.addressable_devices})
  count = len(set(starts.values())) // len(own)
  index = own[0] * count // shards
  size = shards // count
  if own != [s for s in sorted(set(starts.values())) if s // size == index]:
    raise UserError(
      "the rows of this process's devices are not one block of the batch:"
      " let the devices of a process be neighbours in config.mesh"
    )
  return index, count
