"""The load test: what it sends, whether it sees wrong answers, its numbers."""

import asyncio
import json

import pytest
from running import serving
from tiny_bundle import BUCKETS

from holorec_jax.serve import load
from holorec_jax.serve.load_client import Client, Request, closed_loop


def parts(request):
  head, _, body = request.sent.partition(b"\r\n\r\n")
  return head, json.loads(body)


def test_requests_of_all_kinds_and_answers_that_are_wrong(service):
  bundle = service.bundle
  questions = load.draw_questions(bundle)[:8]
  requests = load.make_requests(bundle, questions)
  bodies = [parts(request)[1] for request in requests]
  assert sum(bool(body["deny"]) for body in bodies) == 4
  assert sum(body["allow"] is not None for body in bodies) == 2
  item_UK, score_UK = bundle.recommend([q.history for q in questions])
  items = [
    {"id": bundle.item_ids[item], "score": score}
    for item, score in zip(item_UK[0].tolist(), score_UK[0].tolist())
  ]

  def is_right(items):
    return requests[0].is_right(json.dumps({"items": items}).encode())

  assert is_right(items)
  assert not is_right(items[:-1])
  assert not is_right([items[1], items[0], *items[2:]])
  assert not is_right([items[0] | {"score": items[0]["score"] + 1e-4}])
  assert not is_right([items[0] | {"id": "other"}, *items[1:]])


def test_all_phases_against_a_server(service):
  async def measure():
    async with serving(service) as port:
      client = Client("127.0.0.1", port)
      test = load.LoadTest(client, service.bundle)
      alone = test.in_process(0.01)
      found = [
        await test.capacity(BUCKETS[-1], 0.5),
        await test.steady(20.0, 0.5),
        await test.overload(2000.0, 0.5),
      ]
      client.close()
      return alone, found

  alone, (capacity, steady, overload) = asyncio.run(measure())
  assert [row["batch"] for row in alone] == list(BUCKETS)
  assert all(row["users_per_second"] > 0 for row in alone)
  for row in (capacity, steady, overload):
    assert row["wrong"] == 0
    assert row["answered_per_second"] > 0
    assert row["p50_seconds"] <= row["p99_seconds"]
    assert sum(row["statuses"].values()) == row["requests"]
  assert set(steady["statuses"]) == {"200"} and steady["requests"] == 10
  assert set(overload["statuses"]) == {"200", "429"}
  assert all(50 < megabytes < 50_000 for megabytes in overload["memory_mb"])
  assert capacity["share_of_in_process"] > 0
  assert capacity["in_process_cpu_ms_per_user"] > 0


def test_a_wrong_answer_and_a_lost_connection_are_counted(service):
  good, *_ = load.make_requests(
    service.bundle, load.draw_questions(service.bundle)[:1]
  )
  wrong = Request(good.sent, lambda body: False)

  async def ask():
    async with serving(service) as port:
      client = Client("127.0.0.1", port)
      samples = await closed_loop(client, [good, wrong], 1, 0.5)
      client.close()
    return samples, await closed_loop(client, [good], 1, 0.05)

  samples, lost = asyncio.run(ask())
  assert len(samples) >= 2
  assert [s.right for s in samples] == [n % 2 == 0 for n in range(len(samples))]
  assert {s.status for s in lost} == {0}
  assert min(s.seconds for s in samples) > 0 and lost


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_answers_come_in_pieces(step):
  answer = (
    b"HTTP/1.1 429 Too Many\r\nContent-Length: 5\r\n"
    b"Connection: close\r\n\r\nhello"
  )

  async def serve(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    for start in range(0, len(answer), step):
      writer.write(answer[start : start + step])
      await writer.drain()
      await asyncio.sleep(0)
    writer.close()

  async def ask():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(*server.sockets[0].getsockname())
    connection = await client.open()
    assert connection.is_open()
    found = await connection.ask(b"GET / HTTP/1.1\r\n\r\n")
    server.close()
    return found, connection.is_open()

  assert asyncio.run(ask()) == ((429, b"hello"), False)
