"""What a compiled program sends between devices, read from its HLO."""

import collections
import dataclasses
import math
import re

import jax

_KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
  "collective-broadcast",
)
# When they start, these return what they were given, too; others may, as a
# tuple within one.
_WITH_OPERANDS = ("all-gather", "collective-permute")
# "%x = (f32[8,4]{1,0}, f32[]) all-reduce-start(..": results, then the kind.
_CALL = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(_KINDS)})(-start)?\(")
# "%body (p: f32[]) -> f32[] {" opens a computation; what a line of it runs.
_OPENS = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_RUNS = re.compile(
  r"(?:body|condition|calls|to_apply)=%?([\w.-]+)"
  r"|branch_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# "f32[8,4]": bits, dimensions. "pred", without bits in its name, takes a byte.
_ARRAY = re.compile(r"[a-z]+(\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One operation.

  Attributes:
    kind: HLO's name, such as "all-gather".
    shapes: of its results on one device.
    bytes: of its results on one device.
    times: that the program runs it, as far as XLA knows how often loops turn.
  """

  kind: str
  shapes: tuple[tuple[int, ...], ...]
  bytes: int
  times: int = 1


def list_collectives(compiled: jax.stages.Compiled) -> list[Collective]:
  """All operations between devices; one in a loop's body is one."""
  return read_collectives(compiled.as_text() or "")


def read_collectives(hlo: str) -> list[Collective]:
  """Those of a program's HLO text."""
  found, within, times = [], "", _count_runs(hlo)
  for line in hlo.splitlines():
    if opened := _OPENS.match(line):
      within = opened[2]
    called = _CALL.search(line)
    if not called:
      continue
    results, kind, started = called.groups()
    shapes, size = [], 0
    arrays = _ARRAY.findall(results)
    if started and (kind in _WITH_OPERANDS or results.startswith("((")):
      # (operands, results), and of permutations u32[] contexts.
      arrays = _ARRAY.findall(results.replace("u32[]", ""))
      arrays = arrays[len(arrays) // 2 :]
    for bits, dims in arrays:
      shape = tuple(int(dim) for dim in dims.split(",") if dim)
      shapes.append(shape)
      size += math.prod(shape) * max(1, int(bits or 8) // 8)
    found.append(Collective(kind, tuple(shapes), size, times.get(within) or 1))
  return found


def _count_runs(hlo: str) -> dict[str, int]:
  """Computation -> how often the program runs it."""
  times: collections.Counter[str] = collections.Counter()
  runs: dict[str, list[tuple[str, int]]] = {}
  within = ""
  for line in hlo.splitlines():
    if opened := _OPENS.match(line):
      within = opened[2]
      runs[within] = []
      times[within] += bool(opened[1])
    elif within:
      trips = _TRIPS.search(line)
      turns = int(trips[1]) if trips else 1
      for one, several in _RUNS.findall(line):
        names = [one] if one else re.findall(r"[\w.-]+", several)
        runs[within] += [(name, turns) for name in names]
  # A computation stands behind all that it runs.
  for caller in reversed(runs):
    for name, turns in runs[caller]:
      times[name] += times[caller] * turns
  return times


def collectives(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Kind -> how many a compiled program has, by name."""
  count = collections.Counter(each.kind for each in list_collectives(compiled))
  return dict(sorted(count.items()))
