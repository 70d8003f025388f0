"""docs/: what the pages name is there, and their examples run.

A page has blocks of four kinds, each of which is held to something:

  bash                       scripts, flags, config files, leaves and their
                             values are looked up
  bash, after <!-- run -->   runs as well, in a copy of the checkout
  python                     runs there; after <!-- file: PATH --> it is written
                             to that file instead, which some block then uses
  diff                       "--- PATH", then hunks behind "@@" lines, each of
                             which must fit the file at one place; they are
                             applied before the page's blocks run

All runs of a page are one script of one shell, pages follow each other in the
order of READING, as a reader goes through them. Inline code is looked up, too.
"""

import ast
import dataclasses
import functools
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags
from quick_xla import xla_flags

from configs.systems import VARIANTS
from holorec_jax import config_fields
from holorec_jax.errors import UserError
from holorec_jax.experiment.config import Config, as_config_dict

ROOT = pathlib.Path(__file__).resolve().parent.parent
READING = ("own_data", "data", "configs", "serving", "pods", "extending")
LEAVES = set(
  config_fields.flatten(config_fields.resolved(as_config_dict(Config())))
)
SECTIONS = {k[:i] for k in LEAVES for i, c in enumerate(k) if c == "."}
COPIED = ("holorec_jax", "launch", "configs")
PORT = "8000"  # of the server in the docs; here a free one takes its place
SECONDS = 300.0  # of a page, on a busy machine


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block.

  Attributes:
    place: page and line.
    language: behind the fence.
    mark: of the HTML comment on the line before, or "".
    text: inside.
  """

  place: str
  language: str
  mark: str
  text: str


def parse(name: str, page: str) -> list[Block]:
  """The blocks of a page."""
  blocks, before, opened, inside = [], "", 0, []
  for number, line in enumerate(page.splitlines(), 1):
    if not opened:
      if line.startswith("```"):
        opened, language, inside = number, line[3:], []
      elif line:
        before = line
    elif line == "```":
      mark = re.fullmatch(r"<!-- (.*) -->", before)
      text = "\n".join([*inside, ""])
      place = f"docs/{name}.md, line {opened}"
      blocks.append(Block(place, language, mark[1] if mark else "", text))
      opened, before = 0, ""
    else:
      inside.append(line)
  assert not opened, f"docs/{name}.md, line {opened}: a block without an end"
  return blocks


PAGES = {
  path.stem: path.read_text("utf-8")
  for path in sorted((ROOT / "docs").glob("*.md"))
}
BLOCKS = {name: parse(name, page) for name, page in PAGES.items()}
MADE = {
  block.mark.removeprefix("file: ")
  for blocks in BLOCKS.values()
  for block in blocks
  if block.mark.startswith("file: ")
}


@functools.cache
def flags_of(script: str) -> frozenset[str]:
  """Names of a launch script's flags, read from its source."""
  text = (ROOT / script).read_text("utf-8")
  if script.endswith(".sh"):
    passed_on = re.search(r"launch/run\.py .*\\\n.*\"\$@\"", text)
    own = re.findall(r"--(\w+)=\*\)", text)
    return frozenset(own) | (
      flags_of("launch/run.py") if passed_on else frozenset()
    )
  found = {"help"}
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import) and node.names[0].name == "stage":
      found |= flags_of("launch/stage.py")
    if not isinstance(node, ast.Call):
      continue
    called = getattr(node.func, "attr", "")
    if called.startswith("DEFINE_") or called == "add_argument":
      name = ast.literal_eval(node.args[0]).lstrip("-")
      found |= {name, f"no{name}"} if called == "DEFINE_bool" else {name}
  return frozenset(found)


EVERY_FLAG = frozenset().union(
  *(
    flags_of(path.relative_to(ROOT).as_posix())
    for folder in ("launch", "launch/clusters", "tests/launch")
    for path in (ROOT / folder).glob("*.[ps][yh]")
  )
)


def calls_of(text: str) -> list[tuple[str, list[str]]]:
  """Our scripts that a bash block calls, with their options."""
  text = re.sub(r"<<'?(\w+)'?(.*)\n(?s:.*?)\n\1\n", r"\2\n", text)
  calls: list[tuple[str, list[str]]] = []
  operators = "();<>|&\n"
  lexer = shlex.shlex(
    text.replace("\\\n", " "), posix=True, punctuation_chars=operators
  )
  lexer.whitespace, lexer.whitespace_split = " \t", True
  called = None
  for token in lexer:
    if re.fullmatch(r"(launch|tests)/[\w/]+\.(py|sh)", token):
      called = (token, [])
      calls.append(called)
    elif token == "--" or set(token) <= set(operators):
      called = None  # what follows is another program's
    elif called and token.startswith("-"):
      called[1].append(token.lstrip("-"))
  return calls


def wrong_leaves(names: list[str]) -> list[str]:
  return [f"there is no config.{name}" for name in names if name not in LEAVES]


def wrong_values(spec: str, overrides: list[str]) -> list[str]:
  """What the config says of itself, after these overrides."""
  if spec.partition(":")[0] in MADE:
    return []
  values = flags.FlagValues()
  path = f"{ROOT / spec}"
  args = ["", f"--config={path}", *(f"--config.{each}" for each in overrides)]
  try:
    config_fields.check_overrides(path, [], "config")
    config_flags.DEFINE_config_file(
      "config", flag_values=values, sys_argv=args, lock_config=True
    )
    values(args)
    config_fields.to_dataclass(Config, values["config"].value)
  except (UserError, flags.Error) as error:
    return [f"{spec}: {error}"]
  return []


def problems_of(block: Block) -> list[str]:
  """What a bash block names and is not there."""
  found = []
  for script, options in calls_of(block.text):
    if not (ROOT / script).is_file():
      found.append(f"there is no {script}")
      continue
    known, specs, overrides = flags_of(script), [], []
    for option in options:
      name, _, value = option.partition("=")
      if name.split(".")[0] not in known:
        found.append(f"{script} has no flag --{name}")
      if name in ("config", "configs"):
        specs += re.split(r",\s*", value)
      elif name.startswith("config."):
        overrides.append(option.removeprefix("config."))
      elif name == "overrides":
        overrides += re.split(r",(?=[a-z_.]+=)", value)
    leaves = wrong_leaves([each.partition("=")[0] for each in overrides])
    found += leaves
    if not leaves and block.mark != "run":  # else running them tells more
      found += [p for spec in specs for p in wrong_values(spec, overrides)]
  return [f"{block.place}: {problem}" for problem in found]


def problems_of_prose(
  name: str, page: str, folder: pathlib.Path = ROOT / "docs"
) -> list[str]:
  """What inline code and links name and is not there; links from `folder`."""
  prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
  found = []
  for code in re.findall(r"`([^`\n]+)`", prose):
    bare = code.partition("=")[0]
    if match := re.fullmatch(r"(?:--)?config\.([\w.]+)", bare):
      leaf = match[1]
      if leaf not in LEAVES | SECTIONS | {"py", "json"}:
        found.append(f"there is no config.{leaf}")
    elif match := re.fullmatch(r"--(\w+)", bare):
      if match[1] not in EVERY_FLAG:
        found.append(f"no script has a flag --{match[1]}")
    elif (
      re.fullmatch(r"(launch|configs|holorec_jax|tests)/[a-z0-9_./]*", code)
      and not (ROOT / code).exists()
      and code not in MADE
    ):
      found.append(f"there is no {code}")
  for variant in re.findall(r"(?:configs/[\w/]+\.py:|`:)([a-z]\w*)", page):
    if variant not in VARIANTS:
      found.append(f"there is no variant {variant}")
  for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", prose):
    if not (folder / target).exists():
      found.append(f"a link leads to {target}, which is not there")
  return [f"{name}.md: {problem}" for problem in found]


def problems_of_indented(name: str, page: str) -> list[str]:
  """Of commands that are indented; some stand for several: configs/..:X."""
  return [
    problem
    for text in re.findall(r"(?:^    .*\n)+", page, flags=re.MULTILINE)
    for problem in problems_of(Block(f"{name}.md", "bash", "run", text))
  ]


class Reader:
  """Goes through the pages in a copy of the checkout, each once."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._read: dict[str, str] = {}
    for name in COPIED:
      shutil.copytree(ROOT / name, folder / name)
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      self._port = str(free.getsockname()[1])

  def read(self, name: str) -> str:
    """Runs a page, after those before it; returns what went wrong."""
    for page in READING[: READING.index(name) + 1]:
      if page not in self._read:
        self._read[page] = self._run(page)
    return self._read[name]

  def _run(self, name: str) -> str:
    for block in BLOCKS[name]:
      if block.language == "diff":
        self._edit(block)
      elif block.mark.startswith("file: "):
        path = self._folder / block.mark.removeprefix("file: ")
        path.write_text(block.text, "utf-8")
    # What still runs at the end, such as a server, was started here.
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n"
    for number, block in enumerate(BLOCKS[name]):
      run = block.text.replace(PORT, self._port)
      if block.language == "python" and not block.mark:
        path = self._folder / f"{name}_{number}.py"
        path.write_text(run, "utf-8")
        run = f"python {path.name}\n"
      elif block.mark != "run":
        continue
      script += f"echo {shlex.quote(f'== {block.place}')} >&2\n{run}"
    return self._shell(name, script)

  def _edit(self, block: Block) -> None:
    """Applies a diff, whose hunks have no line numbers."""
    first, *hunks = re.split(r"^@@.*\n", block.text, flags=re.MULTILINE)
    path = self._folder / first.removeprefix("---").strip()
    text = path.read_text("utf-8")
    for hunk in hunks:
      # A line without anything is one of context.
      lines = [line or " " for line in hunk.splitlines()]
      old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
      new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
      assert text.count(old) == 1, f"{block.place}: not once there:\n{old}"
      text = text.replace(old, new)
    path.write_text(text, "utf-8")

  def _shell(self, name: str, script: str) -> str:
    """The last words of a script that failed; else ""."""
    environment = os.environ | {
      "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
      "XLA_FLAGS": xla_flags(1),
      "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    log = self._folder / f"{name}.log"
    with open(log, "wb") as file:
      process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=self._folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
      try:
        status = process.wait(SECONDS)
      except subprocess.TimeoutExpired:
        status = -1
      finally:
        if process.poll() is None:
          os.killpg(process.pid, signal.SIGKILL)
    if status == 0:
      return ""
    return f"status {status}\n{log.read_text(errors='replace')[-6000:]}"


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
  return Reader(tmp_path_factory.mktemp("clone"))


def test_every_block_is_held_to_something():
  assert set(READING) <= set(PAGES)
  for name, block in (
    (name, block) for name, blocks in BLOCKS.items() for block in blocks
  ):
    if name not in READING:
      held = (block.language, block.mark) == ("bash", "")
      assert held, f"{block.place}: what runs belongs to a page of READING"
    kinds = {"bash": r"|run", "python": r"|file: [\w/]+\.py", "diff": ""}
    assert block.language in kinds, block.place
    assert re.fullmatch(kinds[block.language], block.mark), block.place
    if block.language == "bash" and not block.mark:
      assert calls_of(block.text), f"{block.place}: mark it with <!-- run -->"


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_is_there(name):
  problems = problems_of_prose(name, PAGES[name])
  for block in BLOCKS[name]:
    if block.language == "bash":
      problems += problems_of(block)
  if name not in READING:
    problems += problems_of_indented(name, PAGES[name])
  assert problems == []


def test_what_the_readme_names_is_there():
  page = (ROOT / "README.md").read_text("utf-8")
  problems = problems_of_prose("README", page, ROOT)
  problems += problems_of_indented("README", page)
  assert problems == []


@pytest.mark.parametrize(
  ("command", "problem"),
  [
    ("launch/trian.py --workdir=D", "no launch/trian.py"),
    ("launch/train.py --epochs=3", "has no flag --epochs"),
    ("launch/supervise.sh --retries=3 python", "has no flag --retries"),
    ("launch/serve.py --config=configs/toys.py", "has no flag --config"),
    ("launch/run.py --config.train.epoch=3", "no config.train.epoch"),
    ("launch/compare.py --overrides=data.path=P,a.b=1", "no config.a.b"),
    ("launch/run.py --config=configs/toy.py", "configs/toy.py; in "),
    ("launch/run.py --config=configs/toys.py:x", "no variant 'x'"),
    (
      "launch/run.py --config=configs/toys.py \\\n  --config.train.epochs=0",
      "config.train.epochs is 0",
    ),
  ],
)
def test_what_is_not_there_is_found(command, problem):
  block = Block("here", "bash", "", f"FOO=1 python {command} | tee log\n")
  (found,) = problems_of(block)
  assert problem in found


def test_what_is_not_there_is_found_in_prose():
  page = "`config.train.epoch`, `--retries=3`, `launch/trian.py`, [a](b.md)\n"
  page += "`:tigre`, `configs/toys.py:pasue`, `:pause`\n"
  assert len(problems_of_prose("here", page)) == 6


@pytest.mark.parametrize("name", READING)
def test_a_page_runs(reader, name):
  wrong = reader.read(name)
  assert not wrong, wrong
