"""Inputs at an address, such as gs://BUCKET/data: copies in WORKDIR/mirror.

What is read has to be a file here: it is mapped into memory, hashed and read by
several libraries. So an address of `fsspec`'s form, a file or a folder, is
copied once, before the stage that needs it. What artefacts record is the
address and the hash of the bytes; a copy may be deleted when all are made.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import fsspec
from absl import logging
from tqdm import tqdm

from holorec_jax import artifacts
from holorec_jax.errors import UserError
from holorec_jax.experiment.config import Config

FOLDER = "mirror"
# Leaves that may hold an address, by section; that of "" is the config itself.
_DATA = (("data", "path"), ("data", "items_path"))
_VECTORS = (("vectors", "path"), ("vectors", "ids_path"))
_SIDS = (("", "sids_path"),)
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
  for section, leaf in (*_DATA, *_VECTORS, *_SIDS):
    address = _value(config, section, leaf)
    if not is_address(address):
      continue
    copied: dict[str, Any] = {leaf: str(_place(workdir, address))}
    if section:
      part = getattr(config, section)
      copied = {section: dataclasses.replace(part, **copied)}
    config = dataclasses.replace(config, **copied)
  return config


def fetch_data(config: Config, workdir: pathlib.Path) -> None:
  """Copies events and item table, unless they are there.

  Raises:
    UserError: an address cannot be read, or the disk is full.
  """
  _fetch(config, workdir, _DATA)


def fetch_vectors(config: Config, workdir: pathlib.Path) -> None:
  """Copies what the vectors are made of, unless it is there; as fetch_data."""
  _fetch(config, workdir, _VECTORS)


def fetch_sids(config: Config, workdir: pathlib.Path) -> None:
  """Copies published codes, unless they are there; as fetch_data."""
  _fetch(config, workdir, _SIDS)


def _fetch(
  config: Config, workdir: pathlib.Path, leaves: tuple[tuple[str, str], ...]
) -> None:
  for section, leaf in leaves:
    path = _value(config, section, leaf)
    name = ".".join(filter(None, ("config", section, leaf)))
    if is_address(path):
      _copy(name, path, _place(workdir, path))
    elif leaves != _DATA and path and not pathlib.Path(path).is_absolute():
      _fetch_beside(name, path, config, workdir)


def _fetch_beside(
  name: str, path: str, config: Config, workdir: pathlib.Path
) -> None:
  """The data's folder, in which a relative path starts."""
  address = config.data.path
  if not is_address(address):
    return
  place = _place(workdir, address)
  _copy("config.data.path", address, place)
  if place.is_file():
    raise UserError(
      f"{name} is {path!r}, beside config.data.path, which is the address of"
      f" one file, {address}: give the address of its folder there, or that of"
      f" {path} here"
    )


def _value(config: Config, section: str, leaf: str) -> str:
  return getattr(getattr(config, section) if section else config, leaf)


def _place(workdir: pathlib.Path, address: str) -> pathlib.Path:
  """The address's last part, in a folder of its own."""
  digest = hashlib.sha256(address.encode()).hexdigest()[:12]
  last = address.split("://")[1].rstrip("/").rpartition("/")[2]
  return workdir / FOLDER / digest / (last or "all")


def _copy(name: str, address: str, place: pathlib.Path) -> None:
  if place.exists():
    logging.info("%s is read from its copy %s", address, place)
    return
  if "::" in address or "?" in address:
    raise UserError(
      f"{name}: {address} is a chain or has a query; expected PROTOCOL://PLACE"
      " of a file or folder"
    )
  files, root, sizes = _list(name, address)
  place.parent.parent.mkdir(parents=True, exist_ok=True)
  with (
    artifacts.atomic_folder(place.parent) as partial,
    tqdm(
      total=sum(size or 0 for size in sizes.values()),
      desc=f"copying {address}",
      unit="B",
      unit_scale=True,
    ) as bar,
  ):
    for each in sizes:
      target = partial / place.name / each.removeprefix(root).strip("/")
      target.parent.mkdir(parents=True, exist_ok=True)
      with open(target, "wb") as copy:
        for chunk in _read(name, address, files, each):
          copy.write(chunk)
          bar.update(len(chunk))


def _list(name: str, address: str) -> tuple[Any, str, dict[str, int | None]]:
  """The file system, the address's path in it, and sizes of the files there."""
  with _explained(name, address):
    files, root = fsspec.core.url_to_fs(address)
    if files.isfile(root):
      found = {root: files.info(root)}
    else:
      found = files.find(root, detail=True)
    if not found:
      raise FileNotFoundError("there is no file")
    return (
      files,
      root,
      {each: found[each].get("size") for each in sorted(found)},
    )


def _read(name: str, address: str, files: Any, path: str) -> Iterator[bytes]:
  with _explained(name, address), files.open(path, "rb") as source:
    while chunk := source.read(_CHUNK):
      yield chunk


@contextlib.contextmanager
def _explained(name: str, address: str) -> Iterator[None]:
  """Errors of the file systems' clients, whatever they derive from."""
  try:
    yield
  except Exception as error:
    why = str(error) or type(error).__name__
    raise UserError(f"{name}: {address} cannot be read: {why}") from error
