"""Inputs at an address, such as gs://BUCKET/data: copies in WORKDIR/mirror.

What is read has to be a file here: it is mapped into memory, hashed and read by
several libraries. So an address of `fsspec`'s form, a file or a folder, is
copied once, before the stage that needs it. What artefacts record is the
address and the hash of the bytes; a copy may be deleted when all are made.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import fsspec
from tqdm import tqdm

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.experiment.config import Config

FOLDER = "mirror"
# Leaves that may hold an address; "" is the config itself.
_LEAVES = (
  ("data", "path"),
  ("data", "items_path"),
  ("vectors", "path"),
  ("vectors", "ids_path"),
  ("", "sids_path"),
)
_CHUNK = 1 << 24


def is_address(path: str) -> bool:
  """Whether it is no path of this machine."""
  return "://" in path


def local_folder(path: str) -> pathlib.Path:
  """A --workdir as a path.

  Raises:
    UserError: it is an address, such as gs://BUCKET/run.
  """
  if is_address(path):
    raise UserError(
      f"--workdir={path} is an address; expected a folder of a file system that"
      " is mounted on every host (of a bucket, by its FUSE client). Inputs such"
      " as config.data.path may be addresses."
    )
  return pathlib.Path(path)


def near(config: Config, workdir: pathlib.Path) -> Config:
  """The config with paths of copies, there or not, in place of addresses."""
  for section, leaf, address in _addresses(config):
    copied: dict[str, Any] = {leaf: str(_place(workdir, address))}
    if section:
      part = getattr(config, section)
      copied = {section: dataclasses.replace(part, **copied)}
    config = dataclasses.replace(config, **copied)
  return config


def fetch(config: Config, workdir: pathlib.Path) -> None:
  """Copies what is not there yet.

  Raises:
    UserError: an address cannot be read, the disk is full, or a relative path
      starts in a folder of which there is no copy.
  """
  for section, leaf, address in _addresses(config):
    name = ".".join(filter(None, ("config", section, leaf)))
    place = _place(workdir, address)
    if not place.exists():
      _copy(name, address, place)
  if is_address(config.data.path):
    _refuse_neighbours(config, _place(workdir, config.data.path))


def _addresses(config: Config) -> Iterator[tuple[str, str, str]]:
  for section, leaf in _LEAVES:
    value = getattr(getattr(config, section) if section else config, leaf)
    if is_address(value):
      yield section, leaf, value


def _place(workdir: pathlib.Path, address: str) -> pathlib.Path:
  """The address's last part, in a folder of its own."""
  digest = hashlib.sha256(address.encode()).hexdigest()[:12]
  last = address.split("://")[1].rstrip("/").rpartition("/")[2]
  return workdir / FOLDER / digest / (last or "all")


def _refuse_neighbours(config: Config, copy: pathlib.Path) -> None:
  """Of one file nothing beside it is copied."""
  if not copy.is_file():
    return
  vectors = config.vectors
  for name, path in (
    ("config.vectors.path", vectors.path),
    ("config.vectors.ids_path", vectors.ids_path),
    ("config.sids_path", config.sids_path),
  ):
    if path and not is_address(path) and not pathlib.Path(path).is_absolute():
      raise UserError(
        f"{name} is {path!r}, beside config.data.path, which is the address of"
        f" one file, {config.data.path}: give the address of its folder there,"
        f" or that of {path} here"
      )


def _copy(name: str, address: str, place: pathlib.Path) -> None:
  try:
    files, root = fsspec.core.url_to_fs(address)
    names = [root] if files.isfile(root) else sorted(files.find(root))
    if not names:
      raise FileNotFoundError("there is no file")
    sizes = [files.size(each) for each in names]
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    with (
      artifacts.atomic_folder(place.parent) as partial,
      tqdm(
        total=sum(size or 0 for size in sizes),
        desc=f"copying {address}",
        unit="B",
        unit_scale=True,
      ) as bar,
    ):
      for each in names:
        inside = each.removeprefix(root).strip("/")
        target = partial / place.name / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.open(each, "rb") as source, open(target, "wb") as copy:
          while chunk := source.read(_CHUNK):
            copy.write(chunk)
            bar.update(len(chunk))
  except (ImportError, OSError, ValueError) as error:
    raise UserError(f"{name}: {address} cannot be read: {error}") from error
