"""Explanations over HTTP: those of the bundle, only where asked for."""

import asyncio

import httpx
import pytest
from tiny_bundle import write_thinking_bundle

from holorec_jax.serve.app import make_app
from holorec_jax.serve.service import QueueConfig, Service


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
  path = write_thinking_bundle(tmp_path_factory.mktemp("bundles") / "thinking")
  service = Service(str(path), QueueConfig(deadline=20))
  asyncio.run(service.swap())
  yield service
  asyncio.run(service.close())


def ask(service, **body):
  async def post():
    transport = httpx.ASGITransport(make_app(service))
    async with httpx.AsyncClient(
      transport=transport, base_url="http://test"
    ) as http:
      return await http.post("/recommend", json=body)

  return asyncio.run(post())


def test_they_are_the_bundles_own(thinking):
  history = ["item3", "item9"]
  plain = ask(thinking, history=history, k=3).json()
  assert all(set(item) == {"id", "title", "score"} for item in plain["items"])
  told = ask(thinking, history=history, k=3, explain=True).json()
  why = [item.pop("explanation") for item in told["items"]]
  assert told == plain and len(why) == 3
  bundle = thinking.bundle
  items = [bundle.row_of[item["id"]] for item in plain["items"]]
  rows = [bundle.row_of[item] for item in history]
  assert why == bundle.explain(rows, items)
  assert [len(level["thought"]) for level in why[0]["levels"]] == [3, 3]


def test_the_program_is_called_only_when_asked(thinking, monkeypatch):
  calls = []
  explain = thinking.bundle.explain
  monkeypatch.setattr(
    thinking.bundle, "explain", lambda *a: calls.append(a) or explain(*a)
  )
  ask(thinking, history=["item3"], k=1)
  assert not calls
  popular = ask(thinking, history=[], explain=True).json()
  assert popular["from_prior"] and not calls
  assert not any("explanation" in item for item in popular["items"])
  ask(thinking, history=["item3"], k=1, explain=True)
  assert len(calls) == 1


def test_a_bundle_that_explains_nothing_says_so(service):
  response = ask(service, history=["item3"], explain=True)
  assert response.status_code == 422
  assert response.json()["problems"][0]["field"] == ["explain"]
