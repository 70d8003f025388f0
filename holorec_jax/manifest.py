"""Seals of stage artefacts: what a folder was made from and what it is.

Every stage of a run writes one folder and seals it with a manifest.json: the
config section and the hashes of the inputs it was made from, the hashes of its
own files. A stage that finds its folder sealed by the same config and inputs
does not run again; one that finds a mismatch refuses and says what differs.
"""

import dataclasses
import datetime
import importlib.metadata
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from holorec_jax.artifacts import hash_files, hash_json, read_json, write_json
from holorec_jax.config_fields import diff, with_defaults
from holorec_jax.errors import UserError

MANIFEST = "manifest.json"
_LIBRARIES = ("holorec_jax", "jax", "numpy", "scikit-learn", "scipy")


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a finished folder is and what it was made from.

  Attributes:
    stage: name of the stage that made it.
    schema: version of the layout of the folder's files.
    config: the section(s) of the resolved config that the stage read.
    inputs: content hashes of what it read, by name.
    files: SHA-256 of each file in the folder, by relative path.
    content: hash that later stages hold as their input.
    versions: libraries at work.
    created: UTC time.
  """

  stage: str
  schema: int
  config: dict[str, Any]
  inputs: dict[str, str]
  files: dict[str, str]
  content: str
  versions: dict[str, str]
  created: str


def write_manifest(
  folder: str | os.PathLike[str],
  *,
  stage: str,
  schema: int,
  config: Mapping[str, Any],
  inputs: Mapping[str, str],
  content: str | None = None,
) -> Manifest:
  """Seals a folder whose files are all written.

  `content` (by default the hash of the file hashes) may be given where equal
  results can have unequal bytes, as in archives that hold times.
  """
  files = _hash_content(folder)
  manifest = Manifest(
    stage=stage,
    schema=schema,
    config=dict(config),
    inputs=dict(inputs),
    files=files,
    content=content or hash_json(files),
    versions={name: _version(name) for name in _LIBRARIES},
    created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  )
  write_json(pathlib.Path(folder) / MANIFEST, dataclasses.asdict(manifest))
  return manifest


def _hash_content(folder: str | os.PathLike[str]) -> dict[str, str]:
  hashes = hash_files(folder)
  hashes.pop(MANIFEST, None)
  return hashes


def _version(library: str) -> str:
  try:
    return importlib.metadata.version(library)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
  """The folder's manifest; UserError where it is absent or unreadable."""
  path = pathlib.Path(folder) / MANIFEST
  if not path.is_file():
    raise UserError(f"{folder} has no {MANIFEST}: delete it to make it again")
  fields = read_json(path)
  try:
    return Manifest(**fields)
  except TypeError:
    raise UserError(f"{path} is of another release: delete {folder}") from None


def check_manifest(
  folder: str | os.PathLike[str],
  *,
  schema: int,
  config: Mapping[str, Any],
  inputs: Mapping[str, str],
  defaults: Mapping[str, Any] | None = None,
  free: Collection[str] = (),
) -> Manifest | None:
  """The manifest of a finished folder, None if there is no such folder.

  Args:
    folder: that a stage has made, or will.
    schema: version of its layout.
    config: that it is to be made from.
    inputs: that it is to be made from, name -> content hash.
    defaults: of the config's leaves; those that the folder's own config lacks
      came later, and count as these.
    free: leaves of it that may differ, "data.path".

  Raises:
    UserError: the folder was made from another config or other inputs, by
      another layout, or its files have changed since; says which.
  """
  folder = pathlib.Path(folder)
  if not folder.exists():
    return None
  found = read_manifest(folder)
  if found.schema != schema:
    # What else differs then says nothing.
    wrong = [
      f"another release made it: layout version {found.schema} -> {schema}"
    ]
  else:
    made_from = with_defaults(found.config, defaults or {})
    wrong = [f"config {line}" for line in diff(made_from, config, free)]
    wrong += _compare_inputs(found.inputs, inputs)
    wrong += [
      f"file {name} was changed, added or removed afterwards"
      for name in _unlike(found.files, _hash_content(folder))
    ]
  if wrong:
    raise UserError(
      f"{folder} does not match this run:\n  "
      + "\n  ".join(wrong)
      + "\nDelete that folder to make it again, or choose another --workdir."
    )
  return found


def _unlike(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
  """Names whose hashes differ, or that one side lacks."""
  names = sorted(old.keys() | new.keys())
  return [name for name in names if old.get(name) != new.get(name)]


def _compare_inputs(
  old: Mapping[str, str], new: Mapping[str, str]
) -> list[str]:
  lines = []
  for name in _unlike(old, new):
    if name not in old:
      lines.append(f"input {name} was not there when it was made")
    elif name not in new:
      lines.append(f"input {name}, which it was made from, is not read now")
    else:
      lines.append(f"input {name} is not the one it was made from")
  return lines
