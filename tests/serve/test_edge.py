"""Over real connections: slow clients, clients that leave, what is too long."""

import asyncio
import json
import threading

import pytest
from running import serving

from holorec_jax.serve import edge

PATIENCE = 0.5
BODY = json.dumps({"history": ["item1"], "k": 2}).encode()


def head(length, path="/recommend", extra=""):
  return (
    f"POST {path} HTTP/1.1\r\nhost: test\r\n{extra}"
    f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
  ).encode()


def run(service, use, **options):
  """Runs `await use(port)` against a server."""
  options = {"max_body": 1000, "patience": PATIENCE} | options

  async def main():
    async with (
      serving(service, **options) as port,
      asyncio.timeout(20),
    ):
      return await use(port)

  return asyncio.run(main())


async def read_answer(reader):
  """Status, headers and body."""
  top = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
  length = int(top.partition("content-length: ")[2].split("\r\n")[0])
  return int(top[9:12]), top, json.loads(await reader.readexactly(length))


def test_a_body_that_does_not_come_is_answered_408(service):
  async def use(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(len(BODY)) + BODY[:5])
    status, top, answer = await read_answer(reader)
    assert await reader.read() == b""  # closed
    return status, top, answer

  status, top, answer = run(service, use)
  assert status == 408 and "connection: close" in top
  assert "0.5 s" in answer["detail"]


@pytest.mark.parametrize("sent", [b"", b"POST /recomm", head(9)[:-2]])
def test_headers_that_do_not_come_end_the_connection(
  service, monkeypatch, sent
):
  monkeypatch.setattr(edge, "PATIENCE", PATIENCE)

  async def use(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    return await reader.read()

  assert run(service, use) == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_long_is_refused_and_the_connection_goes_on(
  service, chunked
):
  async def use(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    long = b"x" * 200_000
    if chunked:
      start = head(0).replace(
        b"content-length: 0", b"transfer-encoding: chunked"
      )
      writer.write(start + b"%x\r\n%b\r\n0\r\n\r\n" % (len(long), long))
    else:
      writer.write(head(len(long)) + long)
    refused = await read_answer(reader)
    writer.write(head(len(BODY)) + BODY)
    return refused, await read_answer(reader)

  (refused, _, why), (status, _, answer) = run(service, use)
  assert refused == 413 and "200000 bytes" in why["detail"]
  assert status == 200 and len(answer["items"]) == 2


def test_whoever_leaves_is_not_searched_for(service, monkeypatch):
  gate, entered = threading.Event(), threading.Event()
  search, searched = service.bundle.search, []

  def wait_and_search(*rows):
    searched.append((rows[0] >= 0).any(axis=1).sum())
    entered.set()
    assert gate.wait(20)
    return search(*rows)

  monkeypatch.setattr(service.bundle, "search", wait_and_search)
  status = {"route": "/recommend", "status": "499"}

  def gone():
    return service.metrics.requests.labels(**status)._value.get()

  async def use(port):
    before = gone()
    pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
    for number, (_, writer) in enumerate(pairs):
      writer.write(head(len(BODY)) + BODY)
      if not number:
        await asyncio.to_thread(entered.wait, 10)
    while service._queue_length() < 3:
      await asyncio.sleep(0.01)
    for _, writer in pairs[1:3]:
      writer.close()
    while gone() < before + 2:
      await asyncio.sleep(0.01)
    assert service._queue_length() == 1
    gate.set()
    return [await read_answer(pairs[i][0]) for i in (0, 3)]

  answers = run(service, use)
  assert [status for status, _, _ in answers] == [200, 200]
  assert searched == [1, 1]


def test_too_many_open_requests_are_refused_but_health_is_told(service):
  async def use(port):
    _, slow = await asyncio.open_connection("127.0.0.1", port)
    slow.write(head(len(BODY)) + BODY[:5])
    answers = []
    for sent in (b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", head(9)):
      reader, writer = await asyncio.open_connection("127.0.0.1", port)
      writer.write(sent)
      answers.append(await read_answer(reader))
    return answers

  health, refused = run(service, use, most_open=1, patience=5)
  assert health[0] == 200 and health[2]["ready"]
  assert refused[0] == 503 and "retry-after: 1" in refused[1]


def test_requests_behind_each_other_on_one_connection(service):
  async def use(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write((head(len(BODY)) + BODY) * 3)
    return [await read_answer(reader) for _ in range(3)]

  answers = run(service, use)
  assert [status for status, _, _ in answers] == [200] * 3
  assert answers[0][2] == answers[2][2]


def test_what_is_no_http(service):
  async def use(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    return await reader.read()

  assert run(service, use).startswith(b"HTTP/1.1 400 ")
