"""Stage artefacts: hashes, folders and files that are whole or not there.

One process writes to a workdir at a time. `manifest` seals the folders.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from holorec_jax.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A file changed less than so long ago may change again within one tick of the
# file system's clock.
_SETTLED_NS = 2_000_000_000


def hash_json(value: Any) -> str:
  """SHA-256 of a JSON value; the order of keys does not matter."""
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
  """SHA-256 of a file's bytes."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: str | os.PathLike[str]) -> dict[str, str]:
  """SHA-256 of every file below `folder`, by its relative path."""
  folder = pathlib.Path(folder)
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  names = [p.relative_to(folder).as_posix() for p in files]
  # hashlib works beside other threads; a core hashes about 1 GB a second.
  with concurrent.futures.ThreadPoolExecutor() as pool:
    return dict(zip(names, pool.map(hash_file, files), strict=True))


def hash_outside(
  paths: Mapping[str, pathlib.Path],
  cache: str | os.PathLike[str],
  keeps: bool = True,
) -> dict[str, str]:
  """SHA-256 of files by name; those that are not there are left out.

  A file whose size and time of change are those in `cache` (JSON) is not read
  again. The cache is made and kept up here where `keeps` says so, as one
  process of a run alone may.
  """
  cache = pathlib.Path(cache)
  known = read_json(cache) if cache.is_file() else {}
  fresh, hashes = dict(known), {}
  for name, path in paths.items():
    if not path.is_file():
      continue
    key, stat = str(path.resolve()), path.stat()
    seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    entry = known.get(key, {})
    if seen.items() <= entry.items():
      hashes[name] = entry["sha256"]
      continue
    settled = time.time_ns() - stat.st_mtime_ns > _SETTLED_NS
    hashes[name] = hash_file(path)
    fresh.pop(key, None)
    if settled:
      fresh[key] = seen | {"sha256": hashes[name]}
  if keeps and fresh != known:
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_json(cache, fresh)
  return hashes


def is_disk_full(error: BaseException) -> bool:
  """Whether an error, of whatever library, says that the disk is full."""
  if isinstance(error, OSError) and error.errno in _FULL:
    return True
  # tensorstore hands the system's words on without its number, and numpy's
  # tofile has words of its own.
  words = [os.strerror(code) for code in _FULL] + ["requested and"]
  return any(word in str(error) for word in words)


@contextlib.contextmanager
def explain_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns a full disk while writing `path` into a UserError."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if not is_disk_full(error):
      raise
    raise UserError(
      f"the disk is full (or a quota is reached) while writing {path}; nothing"
      " half-written was kept: free some space, or choose another --workdir,"
      " and run the same command again"
    ) from error


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a temporary sibling of `path` that takes its name on success.

  On any failure, an interrupt included, the sibling is removed; what a killed
  process left behind is removed when the same folder is made again.
  """
  path = pathlib.Path(path)
  if path.exists():
    raise UserError(f"{path} is already there: delete it to make it again")
  partial = path.with_name(f".{path.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  with explain_full_disk(path):
    try:
      partial.mkdir(parents=True)
      yield partial
      partial.rename(path)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes indented JSON, as `write_text` does."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes a file; readers see the old one or the new one, no other."""
  with atomic_file(path) as file:
    file.write(text.encode())


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
  """Yields a file that takes the path's place once it is whole."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.partial")
  with explain_full_disk(path):
    try:
      with open(partial, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      partial.replace(path)
    except BaseException:
      partial.unlink(missing_ok=True)
      raise


def read_json(path: str | os.PathLike[str]) -> Any:
  """Reads a JSON file; UserError if it is not JSON."""
  try:
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
  except ValueError as error:
    raise UserError(f"{path} is not JSON ({error}): delete it") from None
