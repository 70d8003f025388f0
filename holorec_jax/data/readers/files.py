"""Opening raw files: clear refusals, decompression, a progress bar."""

import contextlib
import io
import pathlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import tqdm

from holorec_jax import errors

COMPRESSED = (".gz", ".bz2", ".zst")


def check_file(path: pathlib.Path) -> None:
  """Raises UserError unless the path is a file with something in it."""
  if not path.is_file():
    raise errors.UserError(
      f"{path}: no such file; set data.path (and data.items_path) to files "
      "that exist"
    )
  if path.stat().st_size == 0:
    raise errors.UserError(f"{path}: the file is empty")


def find_one(path: pathlib.Path, pattern: str) -> pathlib.Path:
  """The path itself if a file, else the one file in it that matches.

  Raises:
    UserError: no such path, none or several files.
  """
  if not path.is_dir():
    check_file(path)
    return path
  found = sorted(path.glob(pattern))
  if len(found) != 1:
    raise errors.UserError(
      f"{path}: {[f.name for f in found] or 'no file'} for {pattern}, expected "
      "one; set data.path or data.items_path to the file itself"
    )
  return found[0]


def plain_suffix(path: pathlib.Path) -> str:
  """The suffix that tells the format: `.csv` of both x.csv and x.csv.gz."""
  suffixes = [s.lower() for s in path.suffixes if s.lower() not in COMPRESSED]
  return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def open_bytes(path: pathlib.Path) -> Iterator[pa.NativeFile]:
  """The decompressed bytes; a bar appears when reading takes a while.

  Raises:
    UserError: the file is missing, empty or ends too early.
  """
  check_file(path)
  with _Watched(path) as raw:
    stream = pa.PythonFile(raw, mode="r")
    if path.suffix.lower() in COMPRESSED:
      codec = pa.Codec.detect(path).name
      stream = pa.CompressedInputStream(stream, codec)
    try:
      yield stream
    except OSError as error:
      raise errors.UserError(
        f"{path}: cannot be read to its end ({error}); fetch it again"
      ) from error


def read_lines(
  path: pathlib.Path, encoding: str = "utf-8-sig", blank: bool = False
) -> Iterator[tuple[int, str]]:
  """(line number from 1, line) of every line; of `blank` ones on request.

  Raises:
    UserError: as `open_bytes`, or the file is not text.
  """
  try:
    with open_bytes(path) as stream:
      text = io.TextIOWrapper(stream, encoding=encoding)
      for number, line in enumerate(text, 1):
        if blank or line.strip():
          yield number, line
  except UnicodeDecodeError as error:
    raise errors.UserError(
      f"{path}: not {error.encoding} text ({error.reason}); convert the file"
    ) from error


def open_parquet(path: pathlib.Path) -> pq.ParquetFile:
  """A Parquet file's columns, none read yet.

  Raises:
    UserError: the file is missing, empty, cut off or of another format.
  """
  check_file(path)
  try:
    return pq.ParquetFile(path, memory_map=True)
  except (pa.ArrowInvalid, OSError) as error:
    raise errors.UserError(f"{path}: not a Parquet file ({error})") from error


class _Watched(io.FileIO):
  """A file that moves a progress bar as it is read."""

  def __init__(self, path: pathlib.Path):
    super().__init__(path)
    self._bar = tqdm.tqdm(
      total=path.stat().st_size,
      desc=f"reading {path.name}",
      unit="B",
      unit_scale=True,
      delay=2,
    )

  def read(self, size: int | None = -1, /) -> bytes:
    data = super().read(-1 if size is None else size) or b""
    self._bar.update(len(data))
    return data

  def close(self) -> None:
    self._bar.close()
    super().close()
