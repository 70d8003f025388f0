"""Config fields: ConfigDict to dataclasses, differences, flags that explain.

The library takes frozen dataclasses and a run is described by a ConfigDict.
Whatever lies between the two is here: conversion by the types the dataclasses
declare, the plain form that is stored and compared, and one clear message for
a field that does not exist.
"""

import dataclasses
import difflib
import os
import pathlib
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from holorec_jax.artifacts import read_json, write_json
from holorec_jax.errors import UserError

T = TypeVar("T")
_ABSENT = object()


def to_dataclass(
  cls: type[T], config: ConfigDict | Mapping[str, Any], path: str = "config"
) -> T:
  """Builds the (nested) dataclass that `config` describes.

  Lists become tuples and integers become floats where the field says so; no
  other value changes its type. UserError names the dotted path of a field that
  is unknown, missing or of another type.
  """
  values = dict(config.items())
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
  for name in sorted(values.keys() - fields.keys()):
    raise UserError(_unknown(f"{path}.{name}", [f"{path}.{f}" for f in fields]))
  kinds = typing.get_type_hints(cls)
  for name, field in fields.items():
    missing = field.default is field.default_factory is dataclasses.MISSING
    if missing and name not in values:
      raise UserError(
        f"{path}.{name} is missing: set it ({_describe(kinds[name])})"
      )
  return cls(
    **{k: _coerce(kinds[k], v, f"{path}.{k}") for k, v in values.items()}
  )


def _coerce(kind: Any, value: Any, path: str) -> Any:
  """`value` as a `kind`, or a UserError that names `path`."""
  origin, args = typing.get_origin(kind), typing.get_args(kind)
  if kind is Any:
    return value
  if dataclasses.is_dataclass(kind) and isinstance(kind, type):
    if isinstance(value, kind):
      return value
    if isinstance(value, ConfigDict | Mapping):
      return to_dataclass(kind, value, path)
  elif origin in (Union, types.UnionType):
    if value is None and type(None) in args:
      return None
    arms = [a for a in args if a is not type(None)]
    if len(arms) == 1:  # the arm's own message is the more exact one
      return _coerce(arms[0], value, path)
    for arm in arms:
      try:
        return _coerce(arm, value, path)
      except UserError:
        continue
  elif origin is Literal:
    if value in args:
      return value
  elif origin is tuple:
    if isinstance(value, list | tuple):
      inner = args[:1] * len(value) if args[-1] is Ellipsis else args
      if len(inner) == len(value):
        pairs = enumerate(zip(inner, value))
        return tuple(_coerce(k, v, f"{path}[{i}]") for i, (k, v) in pairs)
  elif origin is dict:
    if isinstance(value, ConfigDict | Mapping):
      return {k: _coerce(args[1], v, f"{path}.{k}") for k, v in value.items()}
  elif isinstance(value, bool | np.bool_):  # a bool is no number here
    if kind is bool:
      return bool(value)
  elif kind is float and isinstance(value, int):
    return float(value)
  elif isinstance(value, kind):
    return value
  found = f"{value!r} ({type(value).__name__})"
  raise UserError(f"{path}: expected {_describe(kind)}, found {found}")


def _describe(kind: Any) -> str:
  if typing.get_origin(kind) is Literal:
    return "one of " + ", ".join(repr(a) for a in typing.get_args(kind))
  return kind.__name__ if isinstance(kind, type) else str(kind)


def _unknown(path: str, known: Iterable[str]) -> str:
  """The message for a field that does not exist, with what it may have been."""
  known = sorted(known)
  close = difflib.get_close_matches(path, known, n=1, cutoff=0.8)
  leaf = path.rpartition(".")[2]
  # A right name in a wrong section: config.steps for config.train.steps.
  close = close or [k for k in known if k.rpartition(".")[2] == leaf][:1]
  if close:
    return f"config field {path} does not exist; did you mean {close[0]}?"
  return f"config field {path} does not exist; there are: {', '.join(known)}"


def resolved(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
  """The config as plain dicts, lists and scalars that JSON gives back equal."""

  def plain(value: Any, path: str) -> Any:
    if isinstance(value, ConfigDict | Mapping):
      return {str(k): plain(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
      return [plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, np.generic):
      return value.item()
    if isinstance(value, pathlib.PurePath):
      return str(value)
    if value is None or isinstance(value, bool | int | float | str):
      return value
    raise UserError(
      f"{path}: {type(value).__name__} cannot be stored; use numbers, strings,"
      " booleans, None, tuples and nested configs"
    )

  return plain(config, "config")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """{"train": {"steps": 1}} as {"train.steps": 1}."""
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping) and value:
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def diff(
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  free: Collection[str] = (),
) -> list[str]:
  """Lines such as "train.steps: 100 -> 200" by name, without `free` leaves."""
  a, b = flatten(old), flatten(new)
  return [
    f"{name}: {_show(a.get(name, _ABSENT))} -> {_show(b.get(name, _ABSENT))}"
    for name in sorted((a.keys() | b.keys()).difference(free))
    if a.get(name, _ABSENT) != b.get(name, _ABSENT)
  ]


def _show(value: Any) -> str:
  return "(absent)" if value is _ABSENT else repr(value)


# Leaves that were true or false in an older release.
_FORMER_SWITCHES = {"remat": {False: "none", True: "layers"}}


def with_defaults(
  stored: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """A stored config with the leaves that its sections did not have yet.

  So a run of an older release stays readable: a leaf that came later counts as
  its default, which is what the run was made with, and a switch that has become
  a choice as what it chose.
  """
  filled = dict(stored)
  for name, value in stored.items():
    if isinstance(value, bool) and name in _FORMER_SWITCHES:
      filled[name] = _FORMER_SWITCHES[name][value]
    known = defaults.get(name)
    if isinstance(value, Mapping) and isinstance(known, Mapping):
      filled[name] = {**known, **with_defaults(value, known)}
  return filled


def check_same_config(
  workdir: str | os.PathLike[str],
  config: Mapping[str, Any],
  defaults: Mapping[str, Any] | None = None,
  free: Collection[str] = (),
) -> None:
  """Holds a workdir to one resolved config: writes config.json, or compares.

  Args:
    workdir: with config.json, or where it is written.
    config: resolved.
    defaults: of leaves that an older config.json does not have.
    free: leaves that may differ, "train.log_every".

  Raises:
    UserError: the workdir was made by another config; names the fields.
  """
  path = pathlib.Path(workdir) / "config.json"
  if not path.is_file():
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, config)
    return
  lines = diff(with_defaults(read_json(path), defaults or {}), config, free)
  if lines:
    raise UserError(
      f"{workdir} was made by another config:\n  "
      + "\n  ".join(lines)
      + "\nChoose another --workdir, or delete that one to start again."
    )


def parse_flags(argv: Sequence[str], name: str = "config") -> list[str]:
  """absl's flag parser, which says in one line what is wrong.

  For `app.run(main, flags_parser=parse_flags)`. ml_collections answers an
  override of an unknown field with a traceback that holds only the last part
  of its name, and hides a missing config file until its first use. absl ends
  after a wrong flag as Python does after a crash.

  Raises:
    UserError: there is no config file, or no such field in it, or a flag is
      unknown, missing or has a wrong value.
  """
  argv = list(argv)
  spec, overrides = "", []
  for arg, following in zip(argv[1:], [*argv[2:], ""]):
    if match := re.fullmatch(rf"--?{name}(?:=(.*))?", arg):
      spec = match[1] or following
    elif match := re.match(rf"--?(?:no)?{name}\.([^=\[]+)", arg):
      overrides.append(match[1])
  if spec:
    check_overrides(spec, overrides, name)
  elif overrides:
    raise UserError(
      f"--{name}.{overrides[0]} overrides nothing: give --{name}=FILE.py first"
    )
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    problems = "; ".join(str(error).splitlines())
    raise UserError(f"{problems}; see --help") from None


def check_overrides(spec: str, overrides: Sequence[str], name: str) -> None:
  file = pathlib.Path(spec.partition(":")[0])
  if not file.is_file():
    beside = file.parent if file.parent.is_dir() else pathlib.Path("configs")
    found = ", ".join(str(p) for p in sorted(beside.glob("[!_]*.py"))) or "none"
    raise UserError(f"no config file {file}; in {beside}/ there are: {found}")
  values = flags.FlagValues()  # the file alone, before any override
  config_flags.DEFINE_config_file(name, flag_values=values, sys_argv=[""])
  try:
    values(["", f"--{name}={spec}"])
  except flags.IllegalFlagValueError as error:
    raise _explain_refusal(error, f"--{name}={spec}") from None
  known = flatten(resolved(values[name].value))
  sections = {k[:i] for k in known for i, c in enumerate(k) if c == "."}
  for path in overrides:
    if path not in known and path not in sections:
      fields = [f"{name}.{k}" for k in known]
      raise UserError(_unknown(f"{name}.{path}", fields))


def _explain_refusal(error: Exception, flag: str) -> Exception:
  """What a config file meant by an error; `error` itself if it is a defect.

  ml_collections and absl each wrap it, with the traceback as their message.
  """
  wrapped = error.__context__
  cause = wrapped and wrapped.__context__
  if isinstance(cause, UserError):
    return UserError(f"{flag}: {cause}")
  if isinstance(cause, TypeError) and str(cause).startswith("get_config() "):
    takes = "needs an" if "missing" in str(cause) else "takes no"
    return UserError(f"{flag}: this config file {takes} argument after a colon")
  return error
