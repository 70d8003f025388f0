"""The HTTP interface in process: answers as the bundle's, refusals, limits."""

import asyncio
import logging
import threading

import httpx
import numpy as np
import pytest
from tiny_bundle import ITEMS, LIST_WIDTH, WIDTH, K

from holorec_jax.serve import app as serve_app
from holorec_jax.serve.service import QueueConfig, Service

TOKEN = "correct horse"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def ids(*numbers):
  return [f"item{number}" for number in numbers]


def client(service, **options):
  transport = httpx.ASGITransport(
    serve_app.make_app(service, **options), raise_app_exceptions=False
  )
  return httpx.AsyncClient(transport=transport, base_url="http://test")


def post(service, body=None, path="/recommend", options=(), **request):
  """One request's response."""

  async def ask():
    async with client(service, **dict(options)) as http:
      return await http.post(path, json=body, **request)

  return asyncio.run(ask())


def get(service, path):
  async def ask():
    async with client(service) as http:
      return await http.get(path)

  return asyncio.run(ask())


def places(response):
  return [problem["field"] for problem in response.json()["problems"]]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_answers_are_the_bundles_own(service, exclude_seen):
  bundle = service.bundle
  history = [3, 9, 4, 7, 8, 5]  # longer than the model reads
  assert len(history) > WIDTH
  deny, allow = [1, 2, 2], [*range(1, 9), 3]
  item_UK, score_UK = bundle.recommend(
    [history], deny=[deny], allow=[allow], exclude_seen=exclude_seen, k=6
  )
  body = {
    "history": ids(*history),
    "deny": ids(*deny),
    "allow": ids(*allow),
    "exclude_seen": exclude_seen,
    "k": 6,
  }
  response = post(service, body)
  assert response.status_code == 200
  answer = response.json()
  want = item_UK[0][item_UK[0] >= 0].tolist()
  assert [item["id"] for item in answer["items"]] == ids(*want)
  assert len(want) == (1 if exclude_seen else 6)
  assert answer["items"][0]["title"] == f"Title {want[0]}"
  np.testing.assert_allclose(
    [item["score"] for item in answer["items"]],
    score_UK[0, : len(want)],
    atol=1e-5,
  )
  assert answer["bundle"] == bundle.manifest["content"]
  assert not answer["from_prior"] and answer["unknown_items"] == []


def test_many_at_once_each_get_their_own(service):
  rng = np.random.default_rng(0)
  lengths = [*rng.integers(0, WIDTH + 2, 6), 0, 0]
  histories = [rng.integers(0, ITEMS, n).tolist() for n in lengths]
  item_UK, _ = service.bundle.recommend(histories)

  async def ask():
    async with client(service) as http:
      bodies = [{"history": ids(*history)} for history in histories]
      return await asyncio.gather(
        *(http.post("/recommend", json=body) for body in bodies)
      )

  for response, history, item_K in zip(asyncio.run(ask()), histories, item_UK):
    assert response.status_code == 200
    answer = response.json()
    assert [item["id"] for item in answer["items"]] == ids(*item_K)
    assert answer["from_prior"] == (not history)


def test_the_most_popular_pass_the_filters_too(service):
  best = post(service, {"history": []}).json()["items"]
  deny = [item["id"] for item in best[:2]]
  allow = [item["id"] for item in best[1:5]]
  body = {"history": [], "deny": deny, "allow": allow}
  rest = post(service, body).json()
  assert rest["from_prior"] and rest["items"] == best[2:5]


def test_unknown_items_are_named_or_ignored(service):
  body = {"history": [*ids(1), "what"], "deny": ["?"], "allow": ["?", *ids(4)]}
  response = post(service, body)
  assert response.status_code == 422
  assert places(response) == [["history", 1], ["deny", 0], ["allow", 0]]
  assert "'what'" in response.json()["problems"][0]["problem"]
  response = post(service, body | {"unknown": "ignore"})
  assert response.status_code == 200
  answer = response.json()
  assert answer["unknown_items"] == ["what", "?"]
  assert [item["id"] for item in answer["items"]] == ids(4)
  nobody = {"history": ["what"], "unknown": "ignore"}
  assert post(service, nobody).json()["from_prior"]


@pytest.mark.parametrize(
  ("body", "place"),
  [
    ({}, ["history"]),
    ({"history": None}, ["history"]),
    ({"history": "item1"}, ["history"]),
    ({"history": [1]}, ["history", 0]),
    ({"history": [""]}, ["history", 0]),
    ({"history": ["x" * 257]}, ["history", 0]),
    ({"history": ["item1"] * 4097}, ["history"]),
    ({"history": [], "k": 0}, ["k"]),
    ({"history": [], "k": True}, ["k"]),
    ({"history": [], "k": 1.5}, ["k"]),
    ({"history": [], "k": K + 1}, ["k"]),
    ({"history": [], "exclude_seen": "yes"}, ["exclude_seen"]),
    ({"history": [], "exlude_seen": True}, ["exlude_seen"]),
    ({"history": [], "deny": ids(*range(LIST_WIDTH + 1))}, ["deny"]),
    ({"history": [], "allow": ids(*range(LIST_WIDTH + 1))}, ["allow"]),
    ({"history": ids(*range(LIST_WIDTH + 1)), "exclude_seen": True}, ["deny"]),
    ([], []),
  ],
)
def test_malformed_requests_name_the_field(service, body, place):
  response = post(service, body)
  assert response.status_code == 422
  assert places(response) == [place]


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b'{"history": [], "k": NaN}',
    b'{"history": ["\\ud800"]}',
    b'{"history": [], "\\ud800": 1}',
    b'{"history": [], "k": 1' + b"0" * 5000 + b"}",
    b"[" * 200_000,
  ],
)
def test_bytes_that_are_no_request(service, content):
  headers = {"content-type": "application/json"}
  response = post(service, content=content, headers=headers)
  assert response.status_code == 422, response.text
  assert response.json()["problems"]


def test_oversize_bodies(service):
  body = {"history": ids(*range(9))}
  size = len(httpx.Request("POST", "http://test", json=body).content)
  options = {"max_body": size}.items()
  assert post(service, body, options=options).status_code == 200
  body["history"][0] += "0"
  response = post(service, body, options=options)
  assert response.status_code == 413
  assert f"at most {size}" in response.json()["detail"]


def test_who_has_the_token_may_send_long_lists(service, monkeypatch):
  monkeypatch.setattr(serve_app, "MAX_AVAILABILITY", 400)
  options = {"max_body": 100, "token": TOKEN}.items()
  body = {"unavailable": [f"gone{n}" for n in range(20)]}
  path = serve_app.AVAILABILITY
  given = post(service, body, path, options=options, headers=BEARER)
  assert given.status_code == 200
  assert len(given.json()["unknown_items"]) == 20
  assert post(service, body, path, options=options).status_code == 413
  body["unavailable"] *= 3
  given = post(service, body, path, options=options, headers=BEARER)
  assert given.status_code == 413 and "at most 400" in given.json()["detail"]
  empty = {"unavailable": []}
  given = post(service, empty, path, options=options, headers=BEARER)
  assert given.status_code == 200


def test_a_token_where_there_is_one(service):
  body, options = {"history": []}, {"token": TOKEN}.items()
  for headers in (
    {},
    {"authorization": "Bearer wrong"},
    {"authorization": "x"},
  ):
    response = post(service, body, options=options, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
  response = post(service, body, options=options, headers=BEARER)
  assert response.status_code == 200
  for path in ("/admin/swap", "/admin/availability"):
    assert post(service, {}, path, headers=BEARER).status_code == 403
    assert post(service, {}, path, options=options).status_code == 401


def test_before_a_bundle_is_ready():
  service = Service("none", QueueConfig())
  response = get(service, "/health")
  assert response.status_code == 200
  assert response.json() == {"ready": False, "bundle": None}
  assert get(service, "/health/ready").status_code == 503
  response = post(service, {"history": []})
  assert response.status_code == 503
  assert response.headers["retry-after"] == "1"


def test_health_of_a_service_that_is_ready(service):
  ready = {"ready": True, "bundle": service.version}
  for path in ("/health", "/health/ready"):
    response = get(service, path)
    assert (response.status_code, response.json()) == (200, ready)


@pytest.fixture
def gate(service, monkeypatch):
  """Holds searches up until it is set; `entered` tells that one is there."""
  gate, search = threading.Event(), service.bundle.search
  gate.entered = threading.Event()

  def wait_and_search(*rows):
    gate.entered.set()
    assert gate.wait(20)
    return search(*rows)

  monkeypatch.setattr(service.bundle, "search", wait_and_search)
  yield gate
  gate.set()


def test_a_full_queue_sheds_load(service, gate):
  async def ask():
    async with client(service) as http:

      def send():
        body = {"history": ids(1)}
        return asyncio.create_task(http.post("/recommend", json=body))

      tasks = [send()]
      await asyncio.to_thread(gate.entered.wait, 10)
      # Eight may wait: two batches of four.
      tasks += [send() for _ in range(11)]
      done, _ = await asyncio.wait(tasks, timeout=1)
      refused = [task.result() for task in done]
      gate.set()
      return refused, await asyncio.gather(*tasks)

  refused, every = asyncio.run(ask())
  assert [r.status_code for r in refused] == [429] * 3
  assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
  assert sorted(r.status_code for r in every) == [200] * 9 + [429] * 3


def test_the_deadline_is_answered_503(bundle, monkeypatch):
  service = Service(str(bundle), QueueConfig(deadline=0.2))

  async def ask():
    await service.swap()
    gate, search = threading.Event(), service.bundle.search
    monkeypatch.setattr(
      service.bundle, "search", lambda *rows: gate.wait(20) and search(*rows)
    )
    async with client(service) as http:
      response = await http.post("/recommend", json={"history": ids(1)})
    gate.set()
    await service.close()
    return response

  response = asyncio.run(ask())
  assert response.status_code == 503
  assert "deadline" in response.json()["detail"]
  assert response.headers["retry-after"] == "1"


def test_metrics_count_what_happened(bundle):
  service = Service(str(bundle), QueueConfig())
  asyncio.run(service.swap())
  for body in ({"history": ids(1)}, {"history": ["what"]}, {"history": []}):
    post(service, body)
  get(service, "/no/such/page")
  response = get(service, "/metrics")
  assert response.headers["content-type"].startswith("text/plain")
  lines = set(response.text.splitlines())
  assert {
    'holorec_requests_total{route="/recommend",status="200"} 2.0',
    'holorec_requests_total{route="/recommend",status="422"} 1.0',
    'holorec_requests_total{route="none",status="404"} 1.0',
    'holorec_request_seconds_count{route="/recommend"} 3.0',
    'holorec_batches_total{size="1"} 2.0',
    "holorec_batched_users_total 2.0",
    "holorec_search_seconds_count 2.0",
    "holorec_queue_length 0.0",
    f'holorec_bundle_info{{bundle="{service.version}"}} 1.0',
    'holorec_swaps_total{result="done"} 1.0',
  } <= lines
  asyncio.run(service.close())


def test_logs_hold_no_history(service, caplog, monkeypatch):
  monkeypatch.setattr(logging.getLogger("holorec_jax.serve"), "propagate", True)
  with caplog.at_level(logging.DEBUG, "holorec_jax.serve"):
    post(service, {"history": ids(17)})
    post(service, {"history": ["hidden"]})
  fields = [
    record.fields for record in caplog.records if "fields" in vars(record)
  ]
  assert [f["status"] for f in fields] == [200, 422]
  assert fields[0].keys() == {"method", "route", "status", "ms"}
  assert "item17" not in str(fields) and "hidden" not in caplog.text
