"""The way data takes is the way imports point back: held by parsing them."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "holorec_jax"
# From the ground up: a layer imports itself and those above it in this list.
LAYERS = (
  (
    "errors",
    "types",
    "ranges",
    "artifacts",
    "config_fields",
    "manifest",
    "sharding",
    "processes",
    "precision",
  ),
  ("data",),
  ("vectors",),
  ("quantize",),
  ("tree", "tree_files", "set_index", "neighbours", "catalog", "codes"),
  ("nn",),
  ("models",),
  ("decode",),
  ("train",),
  ("evaluate",),
  ("experiment",),
  ("export",),
  ("serve",),
  ("explore",),
)
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}
# What has to run where there is no JAX: preparation and index building.
WITHOUT_JAX = (
  "errors",
  "artifacts",
  "config_fields",
  "manifest",
  "data",
  "tree",
  "tree_files",
  "set_index",
)
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}
VAGUE = {"utils", "util", "common", "base", "helpers", "helper", "misc"}
MAX_LINES = 400

FILES = sorted(
  path
  for folder in ("holorec_jax", "launch", "configs", "tests", "third_party")
  for path in (ROOT / folder).rglob("*.py")
)
MODULES = {
  ".".join(path.relative_to(ROOT).with_suffix("").parts): path
  for path in FILES
  if path.is_relative_to(PACKAGE)
}
MODULES = {m.removesuffix(".__init__"): path for m, path in MODULES.items()}


@functools.cache
def imports(path: pathlib.Path) -> frozenset[str]:
  """Full names of what a file imports; a submodule, where it is one of ours."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text("utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute here"
      for alias in node.names:
        full = f"{node.module}.{alias.name}"
        found.add(full if full in MODULES else str(node.module))
  return frozenset(found)


def layer_of(module: str) -> str:
  """ "data" of holorec_jax.data.schema, "" of the package itself."""
  return module.partition(".")[2].partition(".")[0]


@functools.cache
def reach(module: str) -> frozenset[str]:
  """Everything that importing one of our modules imports, ours followed."""
  found: set[str] = set()
  open_ = [module]
  while open_:
    for name in imports(MODULES[open_.pop()]) - found:
      found.add(name)
      if name in MODULES:
        open_.append(name)
  return frozenset(found)


def test_every_module_has_its_layer():
  known = set(RANK) | {""}
  strangers = {m for m in MODULES if layer_of(m) not in known}
  assert not strangers, "give these a place in LAYERS, or in a layer"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_back(module):
  path = MODULES[module]
  for name in imports(path):
    top = name.split(".")[0]
    assert top not in {"launch", "configs", "tests", "third_party"}, (
      f"{path} imports {name}: the library knows nothing of what stands on it"
    )
    if top == "holorec_jax" and layer_of(name):
      assert RANK[layer_of(name)] <= RANK.get(layer_of(module), -1), (
        f"{path} imports {name}, which is further down the way of the data"
      )


@pytest.mark.parametrize(
  "module", [m for m in MODULES if layer_of(m) in WITHOUT_JAX]
)
def test_no_jax(module):
  for name in reach(module):
    assert name.split(".")[0] not in JAX, (
      f"{module} reaches {name}: this part has to run without JAX"
    )


def test_only_the_wiring_sees_a_config_dict():
  seen = {
    layer_of(module)
    for module, path in MODULES.items()
    if any(name.startswith("ml_collections") for name in imports(path))
  }
  assert seen <= {"config_fields", "experiment"}, (
    "the library takes dataclasses: convert in experiment"
  )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_small_rooms(path):
  lines = len(path.read_text("utf-8").splitlines())
  assert lines <= MAX_LINES, f"{lines} lines: split it by concept"
  named = {part.strip("_") for part in path.relative_to(ROOT).parts}
  named.add(path.stem.strip("_"))
  assert not named & VAGUE, "name it after what it holds"


def test_files_of_tests_have_names_of_their_own():
  """pytest imports them by these names, whatever folder they are in."""
  names = [path.stem for path in FILES if path.is_relative_to(ROOT / "tests")]
  twice = {name for name in names if names.count(name) > 1}
  assert twice <= {"conftest"}
