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
# When they start, these return what they were given, too.
_WITH_OPERANDS = ("all-gather", "collective-permute")
# "%x = (f32[8,4]{1,0}, f32[]) all-reduce-start(..": results, then the kind.
_CALL = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(_KINDS)})(-start)?\(")
# "f32[8,4]": bits, dimensions. "pred", without bits in its name, takes a byte.
_ARRAY = re.compile(r"[a-z]+(\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One operation, as often as its loop runs.

  Attributes:
    kind: HLO's name, such as "all-gather".
    shapes: of its results on one device.
    bytes: of its results on one device.
  """

  kind: str
  shapes: tuple[tuple[int, ...], ...]
  bytes: int


def list_collectives(compiled: jax.stages.Compiled) -> list[Collective]:
  """All operations between devices; one in a loop's body counts once."""
  return read_collectives(compiled.as_text() or "")


def read_collectives(hlo: str) -> list[Collective]:
  """Those of a program's HLO text."""
  found = []
  for results, kind, started in _CALL.findall(hlo):
    shapes, size = [], 0
    arrays = _ARRAY.findall(results)
    if started and kind in _WITH_OPERANDS:
      # (operands, results), and of permutations u32[] contexts.
      arrays = _ARRAY.findall(results.replace("u32[]", ""))
      arrays = arrays[len(arrays) // 2 :]
    for bits, dims in arrays:
      shape = tuple(int(dim) for dim in dims.split(",") if dim)
      shapes.append(shape)
      size += math.prod(shape) * max(1, int(bits or 8) // 8)
    found.append(Collective(kind, tuple(shapes), size))
  return found


def collectives(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Kind -> how many a compiled program has, by name."""
  count = collections.Counter(each.kind for each in list_collectives(compiled))
  return dict(sorted(count.items()))
