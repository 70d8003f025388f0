"""What a server does when it is killed under load, misused and swapped at once.

Visitors of many kinds keep asking: users whose answers are compared with what
the bundle that answered recommends itself, slow ones, those that stall, send
too much, no JSON or no HTTP, name items that nobody knows, and an operator who
swaps bundles, some of them damaged. Meanwhile the process is killed and started
again. No connection may break but by a kill, no status come but the kind's own.
"""

import asyncio
import collections
import itertools
import json
import pathlib
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from holorec_jax.export import changes, delta, runtime
from holorec_jax.serve import load
from holorec_jax.serve.app import MAX_BODY
from holorec_jax.serve.child import ServerProcess
from holorec_jax.serve.load_client import FAILED, Client, Request, write_request
from holorec_jax.serve.searching import Question

_LEAVE = 10  # of the items that are recommended most
_REST = 0.1  # seconds; of users only when they were not served
_PIECES = 20  # of a slow request, a tenth of a second apart
_LATER = (429, 503)
Row = dict[str, Any]


class Step(NamedTuple):
  """A request and the statuses that may come of it; 503 may of any."""

  request: Request
  expected: Collection[int]


class Scene(NamedTuple):
  """Folders that the operator swaps to.

  Attributes:
    bundle: the server's own.
    leaving: a delta of it: what is recommended most leaves.
    spoilt: copies of the bundle that must be refused.
  """

  bundle: pathlib.Path
  leaving: pathlib.Path
  spoilt: Sequence[pathlib.Path]


def set_scene(bundle: runtime.Bundle, folder: pathlib.Path) -> Scene:
  """Writes a delta and damaged copies of a bundle into an empty folder."""
  questions = load.draw_questions(bundle)[::8]
  item_UK, _ = bundle.recommend([q.history for q in questions])
  ids, counts = np.unique(item_UK[item_UK >= 0], return_counts=True)
  most = ids[np.argsort(-counts)][: min(_LEAVE, len(bundle.item_ids) // 4)]
  change = changes.Delta(
    [], [], np.zeros((0, 1, 1), np.int32), [bundle.item_ids[i] for i in most]
  )
  sids = bundle.manifest.get("made_from", {}).get("sids")
  delta.write(folder / "leaving", change, sids)
  flipped = shutil.copytree(bundle.path, folder / "flipped") / runtime.WEIGHTS
  content = bytearray(flipped.read_bytes())
  content[len(content) // 2] ^= 1
  flipped.write_bytes(content)
  cut = shutil.copytree(bundle.path, folder / "cut") / runtime.ITEMS
  cut.write_bytes(cut.read_bytes()[:-5])
  spoilt = (flipped.parent, cut.parent, folder / "absent")
  return Scene(bundle.path, folder / "leaving", spoilt)


def make_visitors(
  bundle: runtime.Bundle, scene: Scene, token: str
) -> dict[str, list[Step]]:
  """What visitors of each kind ask, again and again."""
  bundle.warm_up()
  bundles = [bundle, bundle.apply_delta(scene.leaving)]
  questions = load.draw_questions(bundle)
  asked = _asked(bundles, questions, token)
  right = asked[0]
  slow = right._replace(pieces=_PIECES)
  nobody = json.dumps({"history": ["\u2205 no item"]}).encode()
  popular = json.loads(nobody) | {"unknown": "ignore"}
  unread = _asked(bundles, [Question([], [], None, bundle.k)], token)[0]
  ignored = write_request(json.dumps(popular).encode(), token)
  half = right.sent[:-10]

  def refused(status: int, *sent: bytes) -> list[Step]:
    return [Step(Request(each, _anything), {status}) for each in sent]

  return {
    "user": [Step(request, {200, *_LATER}) for request in asked],
    # A client that gets no processor may be too slow, too.
    "slow": [Step(slow, {200, 408, *_LATER})],
    "stalled": refused(408, half),
    "oversize": refused(413, write_request(b" " * (MAX_BODY + 1), token)),
    "malformed": refused(
      422, *(write_request(c, token) for c in (b"", b"{", b"\xff", b"[" * 9999))
    ),
    "no_http": refused(400, b"\x16\x03\x01 hello\r\n\r\n"),
    "no_token": refused(401, write_request(nobody)),
    "unknown": [
      *refused(422, write_request(nobody, token)),
      Step(unread._replace(sent=ignored), {200, *_LATER}),
    ],
    "operator": _swaps(scene, token),
  }


def _anything(body: bytes) -> bool:
  return True


def _asked(
  bundles: Sequence[runtime.Bundle], questions: Sequence[Question], token: str
) -> list[Request]:
  """The questions; an answer is right if it is that of the bundle it names."""
  asked = [load.make_requests(each, questions, token) for each in bundles]
  versions = [each.manifest["content"] for each in bundles]
  return [
    both[0]._replace(is_right=_either(dict(zip(versions, both))))
    for both in zip(*asked)
  ]


def _either(requests: Mapping[str, Request]):
  def is_right(body: bytes) -> bool:
    version = json.loads(body)["bundle"]
    return version in requests and requests[version].is_right(body)

  return is_right


def _swaps(scene: Scene, token: str) -> list[Step]:
  """Between the bundle with the delta and without, and refused ones."""

  def swap(status: int, bundle: pathlib.Path, *deltas: pathlib.Path) -> Step:
    body = {"bundle": str(bundle), "deltas": [str(path) for path in deltas]}
    sent = write_request(json.dumps(body).encode(), token, "/admin/swap")
    return Step(Request(sent, _anything), {status})

  first, *others = (swap(422, path) for path in scene.spoilt)
  return [
    swap(200, scene.bundle, scene.leaving),
    first,
    swap(200, scene.bundle),
    *others,
  ]


class FaultTest:
  """Visitors of a server that is killed."""

  def __init__(
    self,
    server: ServerProcess,
    visitors: Mapping[str, Sequence[Step]],
    users: int,
    seed: int = 0,
  ):
    """Starts nothing yet.

    Args:
      server: not yet started.
      visitors: `make_visitors`; one of each kind comes, but of users
      users: so many.
      seed: of the moments of kills.
    """
    self._server, self._visitors, self._users = server, visitors, users
    self._rng = np.random.default_rng(seed)
    self._statuses: dict[str, collections.Counter[str]] = {}
    self._found: collections.Counter[str] = collections.Counter()
    self._lost: collections.Counter[str] = collections.Counter()
    self._unexpected: collections.Counter[str] = collections.Counter()
    self._answered = [0]  # right answers of each life
    self._up = self._done = False

  async def run(self, kills: int, seconds: float) -> Row:
    """Kills so many times, each .5 to 1.5 times `seconds` after it was ready.

    Raises:
      UserError: the server does not start.
    """
    ready = [await self._server.start()]
    self._up = True
    client = Client("127.0.0.1", self._server.port)
    async with asyncio.TaskGroup() as group:
      for name, steps in self._visitors.items():
        shared = itertools.cycle(steps)
        for _ in range(self._users if name == "user" else 1):
          group.create_task(self._visit(client, name, shared))
      try:
        for pause in self._rng.uniform(0.5, 1.5, kills) * seconds:
          await asyncio.sleep(pause)
          self._kill()
          ready.append(await self._server.start())
          self._up = True
        await asyncio.sleep(seconds)
      finally:
        self._done = True
    client.close()
    exit_status = await asyncio.to_thread(self._server.stop)
    return {
      "kills": kills,
      "ready_seconds": [round(each, 1) for each in ready],
      "statuses": {
        name: dict(sorted(counts.items()))
        for name, counts in sorted(self._statuses.items())
      },
      "right_in_each_life": self._answered,
      "wrong": self._found["wrong"],
      "broken_by_kills": self._found["broken"],
      "lost": dict(self._lost),
      "unexpected": dict(self._unexpected),
      "defects": self._server.defects(),
      "exit_status": exit_status,
    }

  def _kill(self) -> None:
    if not self._server.is_alive():
      self._unexpected["ended by itself"] += 1
    # What breaks from here on was broken by the kill.
    self._up = False
    self._answered.append(0)
    self._server.kill()

  async def _visit(self, client: Client, name: str, steps) -> None:
    while not self._done:
      step, up, life = next(steps), self._up, len(self._answered)
      sample = await client.ask(step.request, time.perf_counter())
      same = up and life == len(self._answered)
      self._note(name, step, sample.status, sample.right, same)
      if name != "user" or sample.status in (FAILED, *_LATER):
        await asyncio.sleep(_REST)

  def _note(
    self, name: str, step: Step, status: int, right: bool, same_life: bool
  ) -> None:
    counts = self._statuses.setdefault(name, collections.Counter())
    counts["broken" if status == FAILED else str(status)] += 1
    if status == FAILED and same_life:
      self._lost[name] += 1
    elif status == FAILED:
      self._found["broken"] += 1
    elif status not in step.expected and status != 503:
      self._unexpected[f"{name}: {status}"] += 1
    elif not right:
      self._found["wrong"] += 1
    elif status == 200 and name == "user":
      self._answered[-1] += 1


def is_clean(row: Row) -> bool:
  """Nothing wrong, lost, unforeseen or unanswered for a whole life."""
  bad = ("wrong", "lost", "unexpected", "defects", "exit_status")
  return not any(row[name] for name in bad) and all(row["right_in_each_life"])
