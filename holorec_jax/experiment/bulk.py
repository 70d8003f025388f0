"""Recommendations for all users, as a folder of Parquet shards.

`manifest.json` says what the folder is made from. Each shard is computed alone
and is whole or not there, so a killed run goes on with the missing ones and
ends with the files of an undisturbed one.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import logging
from tqdm import tqdm

from holorec_jax import artifacts, config_fields
from holorec_jax.decode.recommender import WIDEST_BEAM
from holorec_jax.decode.requests import Filters, Recommendations
from holorec_jax.errors import UserError
from holorec_jax.experiment import recommendation
from holorec_jax.experiment.config import Config
from holorec_jax.experiment.recommendation import Run
from holorec_jax.manifest import MANIFEST
from holorec_jax.ranges import check_ranges

COLUMNS = pa.schema(
  [
    pa.field("user", pa.string()),
    pa.field("items", pa.list_(pa.string())),
    pa.field("scores", pa.list_(pa.float32())),
    pa.field("from_prior", pa.bool_()),
  ]
)
# Arrow counts a column's bytes in 31 bits: room for ids of 64 bytes.
MOST_ITEMS = 1 << 25


@dataclasses.dataclass(frozen=True)
class Request:
  """What is asked for every user.

  Attributes:
    system: one of config.systems; "": the headline.
    k: items per user; where filters leave fewer, a list is shorter.
    exclude_seen: leave out items of the user's history.
    allow: external ids of the items to choose from; none: all.
    deny: external ids of items to leave out.
    users_per_shard: rows of a file; the last has the rest.
  """

  system: str = ""
  k: int = 20
  exclude_seen: bool = False
  allow: tuple[str, ...] = ()
  deny: tuple[str, ...] = ()
  users_per_shard: int = 10_000

  def __post_init__(self):
    check_ranges(
      self, "request", k=f"[1, {WIDEST_BEAM}]", users_per_shard="[1, inf)"
    )
    if self.users_per_shard * self.k > MOST_ITEMS:
      raise UserError(
        f"users_per_shard={self.users_per_shard} times k={self.k} is more than"
        f" {MOST_ITEMS} items in a file: lower users_per_shard"
      )


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file.

  Attributes:
    path: where it lies once it is whole.
    rows_U: its users' rows in the data set.
  """

  path: pathlib.Path
  rows_U: np.ndarray

  def is_whole(self) -> bool:
    """Whether the file is there; a damaged one is not."""
    try:
      return pq.read_metadata(self.path).num_rows == len(self.rows_U)
    except FileNotFoundError:
      return False
    except (pa.ArrowException, OSError) as error:
      logging.warning("%s is damaged (%s): made again", self.path, error)
      return False


def recommend_all(
  config: Config,
  workdir: pathlib.Path,
  out: str | os.PathLike[str],
  request: Request,
) -> None:
  """Writes the shards that are missing.

  Args:
    config: of the run.
    workdir: of the run.
    out: folder of the shards, made if need be.
    request: what is asked.

  Raises:
    UserError: the folder holds something else or cannot be written to, the
      disk is full, unknown system or items, or stages not run.
  """
  out = pathlib.Path(out)
  if out.is_file():
    raise UserError(f"--out={out} is a file; expected a folder for the shards")
  run = recommendation.load_run(config, workdir, request.system)
  run.offer_only(request.allow, request.deny)
  _hold_folder(out, _made_from(run, request))
  shards = _cut(out, run.dataset.num_users, request.users_per_shard)
  missing = [shard for shard in shards if not shard.is_whole()]
  if not missing:
    logging.info("%s is finished", out)
    return
  if len(missing) < len(shards):
    done = len(shards) - len(missing)
    logging.info("%s: %d of %d shards are there", out, done, len(shards))
  _fill(run, request, missing, run.dataset.num_users)
  logging.info("%s: %d shards", out, len(shards))


def _made_from(run: Run, request: Request) -> dict[str, Any]:
  asked = dataclasses.asdict(request)
  del asked["system"]  # the run knows its name even where none is given
  for name in ("allow", "deny"):
    asked[name] = sorted(set(asked[name]))
  users = run.dataset.num_users
  return config_fields.resolved(
    {"run": run.made_from, "request": asked, "users": users}
  )


def _hold_folder(out: pathlib.Path, made_from: Mapping[str, Any]) -> None:
  """Makes the folder, or holds it to its manifest; removes leftovers."""
  try:
    out.mkdir(parents=True, exist_ok=True)
    for pattern in (f".{MANIFEST}.partial", ".recommendations-*.partial"):
      for leftover in out.glob(pattern):
        leftover.unlink()
    path = out / MANIFEST
    if not path.exists():
      if others := sorted(p.name for p in out.iterdir()):
        raise UserError(
          f"--out={out} holds other files ({', '.join(others[:3])}) and no"
          f" {MANIFEST}: choose an empty folder, or one that this wrote"
        )
      artifacts.write_json(path, {"made_from": made_from})
  except OSError as error:
    raise UserError(
      f"--out={out} cannot be used: {error}; expected a folder that can be"
      " written to, or a path where one can be made"
    ) from error
  stored = artifacts.read_json(path).get("made_from", {})
  if lines := config_fields.diff(stored, made_from):
    raise UserError(
      f"{out} was made from something else:\n  "
      + "\n  ".join(lines)
      + "\nChoose another --out, or delete that one to start again."
    )


def _cut(out: pathlib.Path, users: int, users_per_shard: int) -> list[Shard]:
  starts = range(0, users, users_per_shard)
  return [
    Shard(
      out / f"recommendations-{i:05d}-of-{len(starts):05d}.parquet",
      np.arange(start, min(start + users_per_shard, users)),
    )
    for i, start in enumerate(starts)
  ]


def _fill(run: Run, request: Request, missing: list[Shard], users: int) -> None:
  """Computes and writes shards; the bar counts users."""
  filters = Filters(exclude_seen=request.exclude_seen)
  item_ids = pa.array(run.dataset.item_ids, pa.string())
  left = sum(len(shard.rows_U) for shard in missing)
  with tqdm(total=users, initial=users - left, unit=" users") as bar:
    for number, shard in enumerate(missing, start=1):
      bar.set_description(f"shard {number} of {len(missing)}")
      found = run.recommender.recommend(
        run.histories(shard.rows_U), filters, request.k
      )
      user_ids = run.dataset.user_ids[shard.rows_U]
      _write(_as_table(user_ids, found, item_ids), shard.path)
      bar.update(len(shard.rows_U))


def _as_table(
  user_ids: np.ndarray, found: Recommendations, item_ids: pa.Array
) -> pa.Table:
  valid_UK = found.valid_UK
  offsets = np.zeros(len(user_ids) + 1, np.int32)
  np.cumsum(valid_UK.sum(axis=1), out=offsets[1:])
  items = item_ids.take(pa.array(found.items_UK[valid_UK]))
  scores = pa.array(found.scores_UK[valid_UK], pa.float32())
  columns = [
    pa.array(user_ids, pa.string()),
    pa.ListArray.from_arrays(offsets, items),
    pa.ListArray.from_arrays(offsets, scores),
    pa.array(found.from_prior_U),
  ]
  return pa.Table.from_arrays(columns, schema=COLUMNS)


def _write(table: pa.Table, path: pathlib.Path) -> None:
  """Writes a file that is whole or not there, whatever happens."""
  with artifacts.atomic_file(path) as file:
    pq.write_table(table, file)
