"""Conversion, differences and messages for config fields."""

import dataclasses
import json
from typing import Literal

import ml_collections
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from holorec_jax import config_fields
from holorec_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Optim:
  rate: float
  betas: tuple[float, float] = (0.9, 0.999)


@dataclasses.dataclass(frozen=True)
class Train:
  optim: Optim
  steps: int
  buckets: tuple[int, ...] = ()
  mode: Literal["thinking", "plain"] = "plain"
  path: str | None = None
  resume: bool = True
  columns: dict[str, str] = dataclasses.field(default_factory=dict)
  stop: int | float | str | None = None
  derived: int = dataclasses.field(default=0, init=False)


def make(**changes):
  fields = {"optim": {"rate": 1e-3}, "steps": 100} | changes
  return ml_collections.ConfigDict(fields)


def test_a_former_switch_is_read_as_its_choice():
  defaults = {"model": {"remat": "none", "scan_layers": False}}
  for switch, choice in ((False, "none"), (True, "layers")):
    stored = {"model": {"remat": switch, "scan_layers": switch}}
    assert config_fields.with_defaults(stored, defaults) == {
      "model": {"remat": choice, "scan_layers": switch}
    }


def test_conversion_with_defaults():
  train = config_fields.to_dataclass(Train, make())
  assert train == Train(optim=Optim(rate=1e-3), steps=100)


def test_conversion_coerces_tuples_and_integers_only():
  config = make(
    optim={"rate": 1, "betas": [0, 0.5]},
    buckets=[8, 16],
    mode="thinking",
    path="a.csv",
    columns={"user": "uid"},
    stop="never",
  )
  train = config_fields.to_dataclass(Train, config)
  assert train.optim == Optim(1.0, (0.0, 0.5))
  assert isinstance(train.optim.rate, float)
  assert train.buckets == (8, 16)
  assert (train.mode, train.path, train.stop) == ("thinking", "a.csv", "never")
  assert train.columns == {"user": "uid"}


def test_a_plain_dict_or_a_dataclass_inside_is_as_good():
  config = {"optim": Optim(0.5), "steps": 3}
  assert config_fields.to_dataclass(Train, config).optim.rate == 0.5


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"step": 3}, r"config\.step does not exist; did you mean config\.steps"),
    ({"xyz": 3}, r"config\.xyz does not exist; there are: .*config\.steps"),
    ({"optim": {"rte": 3}}, r"config\.optim\.rte .* mean config\.optim\.rate"),
    ({"optim": {}}, r"config\.optim\.rate is missing: set it \(float\)"),
    ({"optim": 3}, r"config\.optim: expected Optim, found 3 \(int\)"),
    ({"steps": 1.5}, r"config\.steps: expected int, found 1\.5 \(float\)"),
    ({"steps": True}, r"config\.steps: expected int, found True"),
    ({"resume": 1}, r"config\.resume: expected bool, found 1"),
    ({"steps": None}, r"config\.steps: expected int, found None"),
    ({"path": 3}, r"config\.path: expected str, found 3"),
    ({"buckets": 8}, r"config\.buckets: expected tuple\[int, \.\.\.\]"),
    ({"buckets": "8"}, r"config\.buckets: expected tuple"),
    ({"buckets": [8, "a"]}, r"config\.buckets\[1\]: expected int, found 'a'"),
    ({"optim": {"rate": 1.0, "betas": [1.0]}}, r"config\.optim\.betas"),
    ({"mode": "deep"}, r"expected one of 'thinking', 'plain', found 'deep'"),
    ({"columns": {"user": 1}}, r"config\.columns\.user: expected str"),
    ({"columns": "user"}, r"config\.columns: expected dict"),
    ({"stop": (1,)}, r"config\.stop: expected int \| float \| str"),
    ({"derived": 1}, r"config\.derived does not exist"),
  ],
)
def test_conversion_names_the_field(changes, message):
  with pytest.raises(UserError, match=message):
    config_fields.to_dataclass(Train, make(**changes))


def test_resolved_is_json_and_back():
  config = make(buckets=(8, np.int64(16)), path=None)
  plain = config_fields.resolved(config)
  assert plain == json.loads(json.dumps(plain))
  assert plain["buckets"] == [8, 16]
  with pytest.raises(UserError, match=r"config\.a\.b\[0\]: object"):
    config_fields.resolved({"a": {"b": [object()]}})


def test_diff_lists_changed_added_and_removed():
  old = {"train": {"steps": 100, "seed": 0}, "data": {"path": "a"}, "x": {}}
  new = {"train": {"steps": 200, "seed": 0, "rate": 0.1}, "data": {}, "x": {}}
  assert config_fields.diff(old, new) == [
    "data: (absent) -> {}",
    "data.path: 'a' -> (absent)",
    "train.rate: (absent) -> 0.1",
    "train.steps: 100 -> 200",
  ]
  assert config_fields.diff(old, old) == []


def test_workdir_holds_to_its_config(tmp_path):
  workdir = tmp_path / "run"
  config = config_fields.resolved(make(buckets=(8, 16)))
  config_fields.check_same_config(workdir, config)
  config_fields.check_same_config(workdir, config)
  with pytest.raises(UserError, match="steps: 100 -> 7") as error:
    config_fields.check_same_config(workdir, config | {"steps": 7})
  assert "another --workdir" in str(error.value)
  config_fields.check_same_config(
    workdir, config | {"steps": 7}, free={"steps"}
  )
  assert json.loads((workdir / "config.json").read_text()) == config


def test_leaves_that_came_later_count_as_their_defaults(tmp_path):
  config_fields.check_same_config(tmp_path, {"train": {"steps": 1}, "x": 2})
  now = {"train": {"steps": 1, "kind": "new"}, "x": 2}
  with pytest.raises(UserError, match=r"train\.kind: \(absent\) -> 'new'"):
    config_fields.check_same_config(tmp_path, now)
  later = {"train": {"steps": 9, "kind": "new"}, "other": {"y": 1}}
  config_fields.check_same_config(tmp_path, now, later)
  now["train"]["kind"] = "old"
  with pytest.raises(UserError, match=r"train\.kind: 'new' -> 'old'"):
    config_fields.check_same_config(tmp_path, now, later)


CONFIG_FILE = """
import ml_collections
from holorec_jax.errors import UserError
def get_config(arg="100"):
  if arg == "huge":
    raise UserError("choose a smaller one")
  return ml_collections.ConfigDict(
    {"train": {"steps": int(arg), "dims": (8, 16), "fast": True}, "seed": 0}
  )
"""


@pytest.fixture
def parse(tmp_path, monkeypatch):
  """Parses one command line as a fresh process would; returns the config."""
  (tmp_path / "tiny.py").write_text(CONFIG_FILE)
  for name, parameters in (("fixed", ""), ("open", "arg")):
    source = f"def get_config({parameters}):\n  return {{}}\n"
    (tmp_path / f"{name}.py").write_text(source)
  monkeypatch.chdir(tmp_path)

  def run(*args):
    argv = ["run.py", *args]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
      "config", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_enum("kind", "a", ["a", "b"], "Any.", flag_values=values)
    monkeypatch.setattr(config_fields.flags, "FLAGS", values)
    assert config_fields.parse_flags(argv)[0] == "run.py"
    return holder.value

  return run


@pytest.mark.parametrize(
  "wrong, message",
  [
    ("--kind=c", r"--kind=c: value should be one of <a\|b>"),
    ("--knid=a", r"Unknown command line flag 'knid'\. Did you mean: kind"),
  ],
)
def test_wrong_flags_are_errors_of_the_user(parse, wrong, message):
  with pytest.raises(UserError, match=message):
    parse("--config=tiny.py", wrong)


def test_right_flags_pass(parse):
  config = parse(
    "--config=tiny.py:50",
    "--config.train.dims=(4,)",
    "--noconfig.train.fast",
    "--config.seed=3",
  )
  assert config.train.to_dict() == {"steps": 50, "dims": (4,), "fast": False}
  assert config.seed == 3
  assert parse("--config", "tiny.py", "--config.train.steps", "7").train.steps
  assert parse() is None


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config=tiny.py", "--config.trian.steps=1"], r"mean config\.train\.st"),
    (["--config=tiny.py", "--config.train.step=1"], r"mean config\.train\.st"),
    (["--config=tiny.py", "--config.steps=1"], r"mean config\.train\.steps"),
    (["--config=tiny.py", "--noconfig.train.fats"], r"config\.train\.fast"),
    (["--config", "tiny.py", "--config.zz", "1"], r"zz does not exist; there"),
    (["--config=nope.py"], r"no config file nope\.py; .* are: fixed.*tiny"),
    (["--config=tiny.py:huge"], r"^--config=tiny\.py:huge: choose a smaller"),
    (["--config=fixed.py:x"], r"fixed\.py:x: .* takes no argument after a"),
    (["--config=open.py"], r"open\.py: .* needs an argument after a colon"),
    (["--config.seed=1"], r"give --config=FILE"),
  ],
)
def test_wrong_flags_are_explained(parse, args, message):
  with pytest.raises(UserError, match=message) as error:
    parse(*args)
  assert "\n" not in str(error.value)


def test_a_defect_of_a_config_file_keeps_its_traceback(parse):
  with pytest.raises(flags.IllegalFlagValueError, match=r"in get_config"):
    parse("--config=tiny.py:many")
