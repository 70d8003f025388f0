"""Another bundle takes over: under load, refused, with what is sold out."""

import asyncio
import json
import shutil
import threading
import time

import httpx
import pytest
from tiny_bundle import ITEMS

from holorec_jax.artifacts import hash_file
from holorec_jax.errors import UserError
from holorec_jax.export import runtime
from holorec_jax.serve.app import make_app
from holorec_jax.serve.service import SwapRunningError

BEARER = {"authorization": "Bearer t"}
HISTORIES = [[3], [9, 4], [7, 8, 5], [1, 2, 6, 0]]


def run(service, use):
  """Runs `await use(http)` against the service."""

  async def main():
    transport = httpx.ASGITransport(make_app(service, "t"))
    async with httpx.AsyncClient(
      transport=transport, base_url="http://test", headers=BEARER
    ) as http:
      return await use(http)

  return asyncio.run(main())


async def recommend(http, history):
  body = {"history": [f"item{i}" for i in history]}
  response = await http.post("/recommend", json=body)
  assert response.status_code == 200, response.text
  answer = response.json()
  return answer["bundle"], [item["id"] for item in answer["items"]]


def names(item_K):
  return [f"item{i}" for i in item_K]


def test_no_request_fails_while_bundles_take_turns(service, bundle, other):
  async def use(http):
    right = {}
    answers, busy = [], True

    async def keep_asking(user):
      while busy:
        answers.append((user, *await recommend(http, HISTORIES[user])))

    def note():
      item_UK, _ = service.bundle.recommend(HISTORIES)
      right[service.version] = [names(item_K) for item_K in item_UK]

    note()
    users = [
      asyncio.create_task(keep_asking(user)) for user in (0, 1, 2, 3) * 2
    ]
    for folder in (other, bundle):
      response = await http.post("/admin/swap", json={"bundle": str(folder)})
      assert response.status_code == 200, response.text
      note()
      assert response.json()["bundle"] == service.version
      await asyncio.sleep(0.2)
    busy = False
    await asyncio.gather(*users)
    return right, answers

  right, answers = run(service, use)
  assert len(right) == 2 and len(set(map(str, right.values()))) == 2
  assert {version for _, version, _ in answers} == right.keys()
  for user, version, items in answers:
    assert items == right[version][user]


def damage(folder):
  path = folder / runtime.WEIGHTS
  content = bytearray(path.read_bytes())
  content[-3] ^= 1
  path.write_bytes(content)
  return path.name


def truncate(folder):
  path = folder / runtime.ITEMS
  path.write_bytes(path.read_bytes()[:-5])
  return path.name


def lose(folder):
  shutil.rmtree(folder)
  return runtime.MANIFEST


@pytest.mark.parametrize("spoil", [damage, truncate, lose])
def test_a_bundle_that_fails_changes_nothing(service, bundle, tmp_path, spoil):
  folder = shutil.copytree(bundle, tmp_path / "spoilt")
  named = spoil(folder)

  def refused():
    return service.metrics.swaps.labels("refused")._value.get()

  async def use(http):
    before, before_refused = await recommend(http, HISTORIES[0]), refused()
    response = await http.post("/admin/swap", json={"bundle": str(folder)})
    assert response.status_code == 422
    assert named in response.json()["problems"][0]["problem"]
    assert await recommend(http, HISTORIES[0]) == before
    assert refused() == before_refused + 1
    with pytest.raises(UserError, match=named):
      await service.swap(str(folder))

  run(service, use)


def test_a_bundle_that_answers_otherwise_is_refused(service, bundle, tmp_path):
  """All hashes are right; only the golden request finds it out."""
  folder = shutil.copytree(bundle, tmp_path / "spoilt")
  golden = folder / runtime.GOLDEN
  answers = json.loads(golden.read_text())
  answers["scores"][0][0] += 0.01
  golden.write_text(json.dumps(answers))
  manifest = json.loads((folder / runtime.MANIFEST).read_text())
  manifest["files"][runtime.GOLDEN] = {
    "bytes": golden.stat().st_size,
    "sha256": hash_file(golden),
  }
  manifest["content"] = runtime.seal(manifest)
  (folder / runtime.MANIFEST).write_text(runtime.manifest_text(manifest))

  async def use(http):
    before = service.version
    response = await http.post("/admin/swap", json={"bundle": str(folder)})
    assert response.status_code == 422
    assert "does not come true" in response.json()["problems"][0]["problem"]
    assert service.version == before
    await recommend(http, HISTORIES[0])

  run(service, use)


def test_one_swap_at_a_time(service):
  async def use(http):
    first = asyncio.create_task(service.swap())
    await asyncio.sleep(0)
    response = await http.post("/admin/swap", json={})
    assert response.status_code == 409
    with pytest.raises(SwapRunningError):
      await service.set_unavailable([])
    await first

  run(service, use)


def test_what_is_sold_out_stays_so_in_the_next_bundle(service):
  async def use(http):
    async def everything():
      found = set()
      for history in HISTORIES:
        _, items = await recommend(http, history)
        found |= set(items)
      return found

    sold_out = sorted(await everything())[:3]
    body = {"unavailable": [*sold_out, "later"]}
    response = await http.post("/admin/availability", json=body)
    assert response.json() == {"unavailable": 3, "unknown_items": ["later"]}
    assert not await everything() & set(sold_out)
    before = service.bundle
    await http.post("/admin/swap", json={})
    assert service.bundle is not before
    assert not await everything() & set(sold_out)
    only = [f"item{i}" for i in range(1, ITEMS)]
    await http.post("/admin/availability", json={"unavailable": only})
    assert await recommend(http, [3]) == (service.version, ["item0"])
    await http.post("/admin/availability", json={"unavailable": []})
    assert len(await everything()) > 8

  run(service, use)


def test_a_swap_goes_on_without_who_asked_for_it(service, bundle, other):
  """And no other begins meanwhile."""

  def count_searches():
    return sum(thread.name == "search" for thread in threading.enumerate())

  before = count_searches()

  async def use(http):
    old = service.version
    swap = asyncio.create_task(service.swap(str(other)))
    await asyncio.sleep(0)
    swap.cancel()
    with pytest.raises(asyncio.CancelledError):
      await swap
    with pytest.raises(SwapRunningError):
      await service.swap(str(bundle))
    deadline = time.monotonic() + 60
    while service.version == old and time.monotonic() < deadline:
      await asyncio.sleep(0.05)
    taken = service.version
    await asyncio.wait_for(asyncio.shield(service._changing), 60)
    back, _ = await service.swap(str(bundle))
    return old, taken, back

  old, taken, back = run(service, use)
  assert old == back != taken
  # The threads of bundles that answer no more have ended.
  assert count_searches() == before
