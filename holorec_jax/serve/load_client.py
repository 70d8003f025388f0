"""A cheap HTTP client that keeps a server busy and times its answers.

It shares the machine with the server it measures, so it does no more than it
must: requests are bytes made before, answers are cut at their Content-Length.
"""

import asyncio
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

# Whoever has waited so long is not answered any more.
_GIVE_UP = 60.0
_PAUSE = 0.1  # seconds between the pieces of a request
FAILED = 0


class Request(NamedTuple):
  """A request, and whether an answer to it is right.

  Attributes:
    sent: headers and body.
    is_right: of the body of an answer with status 200.
    pieces: that it is sent in, with pauses.
  """

  sent: bytes
  is_right: Callable[[bytes], bool]
  pieces: int = 1


def write_request(
  content: bytes, token: str = "", path: str = "/recommend"
) -> bytes:
  """Headers and body of a POST, with a bearer token if there is one."""
  bearer = f"authorization: bearer {token}\r\n" if token else ""
  head = (
    f"POST {path} HTTP/1.1\r\nhost: load\r\n{bearer}"
    f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
  )
  return head.encode() + content


@dataclasses.dataclass(frozen=True)
class Sample:
  """What became of a request.

  Attributes:
    status: of HTTP; 0: the connection failed.
    seconds: from when it was due to its answer.
    right: whether the answer is; True where there is none.
  """

  status: int
  seconds: float
  right: bool


class Connection(asyncio.Protocol):
  """One request at a time over a connection that stays open."""

  def __init__(self) -> None:
    self._received = bytearray()
    self._answer: asyncio.Future | None = None

  def connection_made(self, transport) -> None:
    self._transport = transport

  async def ask(self, sent: bytes, pieces: int = 1) -> tuple[int, bytes]:
    """Status and body; ConnectionError if it breaks or takes too long."""
    self._received.clear()
    self._answer = asyncio.get_running_loop().create_future()
    size = math.ceil(len(sent) / pieces)
    self._transport.write(sent[:size])
    for start in range(size, len(sent), size):
      await asyncio.sleep(_PAUSE)
      if self.is_open():
        self._transport.write(sent[start : start + size])
    try:
      async with asyncio.timeout(_GIVE_UP):
        return await self._answer
    except TimeoutError:
      self.close()
      raise ConnectionError("no answer") from None

  def close(self) -> None:
    self._transport.close()

  def is_open(self) -> bool:
    return not self._transport.is_closing()

  def data_received(self, data: bytes) -> None:
    self._received += data
    head, found, body = self._received.partition(b"\r\n\r\n")
    if not found or self._answer is None or self._answer.done():
      return
    head = head.lower()
    length = head.partition(b"content-length:")[2].split(b"\r\n")[0]
    # Without a length it ends with the connection.
    if length and len(body) >= int(length):
      self._answer.set_result((int(head[9:12]), bytes(body)))
      if b"\r\nconnection: close" in head:
        self.close()

  def connection_lost(self, exc) -> None:
    if self._answer is None or self._answer.done():
      return
    head, found, body = self._received.partition(b"\r\n\r\n")
    if found and b"content-length:" not in head.lower():
      self._answer.set_result((int(head[9:12]), bytes(body)))
    else:
      self._answer.set_exception(ConnectionError("the connection was lost"))


class Client:
  """Connections to one server, opened as they are needed."""

  def __init__(self, host: str, port: int):
    self._address = host, port
    self._idle: list[Connection] = []

  async def ask(self, request: Request, due: float) -> Sample:
    """Sends a request that was due at `due` (of time.perf_counter)."""
    try:
      connection = await self._connect()
      status, body = await connection.ask(request.sent, request.pieces)
    except OSError:
      return Sample(FAILED, time.perf_counter() - due, True)
    seconds = time.perf_counter() - due
    self._idle.append(connection)
    return Sample(status, seconds, status != 200 or request.is_right(body))

  def close(self) -> None:
    for connection in self._idle:
      connection.close()

  async def open(self) -> Connection:
    """A connection of its own."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, *self._address)
    return connection

  async def _connect(self) -> Connection:
    while self._idle:
      connection = self._idle.pop()
      if connection.is_open():
        return connection
    return await self.open()


async def closed_loop(
  client: Client, requests: Iterable[Request], users: int, seconds: float
) -> list[Sample]:
  """So many users, each of whom asks again when answered."""
  requests = itertools.cycle(requests)
  end = time.perf_counter() + seconds
  samples: list[Sample] = []

  async def ask_on() -> None:
    while (now := time.perf_counter()) < end:
      samples.append(await client.ask(next(requests), now))

  await asyncio.gather(*(ask_on() for _ in range(users)))
  return samples


async def open_loop(
  client: Client,
  requests: Iterable[Request],
  rate: float,
  seconds: float,
  seed: int = 0,
) -> list[Sample]:
  """Poisson arrivals, `rate` a second, that do not wait for each other.

  A request is timed from when it was due, not from when a busy client came to
  send it.
  """
  rng = np.random.default_rng(seed)
  count = math.ceil(rate * seconds)
  due = time.perf_counter() + np.cumsum(rng.exponential(1 / rate, count))
  samples: list[Sample] = []

  async def ask(request: Request, at: float) -> None:
    samples.append(await client.ask(request, at))

  async with asyncio.TaskGroup() as group:
    for request, at in zip(itertools.cycle(requests), due.tolist()):
      if (ahead := at - time.perf_counter()) > 0:
        await asyncio.sleep(ahead)
      group.create_task(ask(request, at))
  return samples
