"""Item deltas: applied while requests are answered, refused, at the start."""

import asyncio

import httpx
import numpy as np
import pytest
from tiny_bundle import ITEMS

from holorec_jax.errors import UserError
from holorec_jax.export import changes, delta
from holorec_jax.serve import self_check
from holorec_jax.serve.app import make_app
from holorec_jax.serve.service import (
  NotReadyError,
  QueueConfig,
  Service,
  SwapRunningError,
)

HISTORY = {"history": ["item3", "item9"]}


@pytest.fixture(scope="module")
def leaving(service, tmp_path_factory):
  """Two of what is recommended first leave; and one more that is nobody."""
  row = service.bundle.row_of
  item_UK, _ = service.bundle.recommend([[row["item3"], row["item9"]]])
  ids = [service.bundle.item_ids[item] for item in item_UK[0, :3]]
  folder = tmp_path_factory.mktemp("deltas")
  codes = np.zeros((0, 1, 1), np.int32)
  for name, gone in (("good", ids[:2]), ("bad", ["nobody"]), ("next", ids[2:])):
    changed = changes.Delta([], [], codes, gone)
    delta.write(folder / name, changed, None)
  return folder, ids


def run(service, use):
  """Runs `await use(http)` against the service, then reads the bundle again."""

  async def main():
    transport = httpx.ASGITransport(make_app(service, "t"))
    async with httpx.AsyncClient(
      transport=transport,
      base_url="http://test",
      headers={"authorization": "Bearer t"},
    ) as http:
      try:
        return await use(http)
      finally:
        await service.swap()

  return asyncio.run(main())


async def recommend(http):
  response = await http.post("/recommend", json=HISTORY)
  assert response.status_code == 200, response.text
  answer = response.json()
  return answer["bundle"], [item["id"] for item in answer["items"]]


def test_no_request_fails_while_items_leave(service, leaving):
  folder, ids = leaving

  async def use(http):
    answers, busy = [], True

    async def keep_asking():
      while busy:
        answers.append(await recommend(http))

    users = [asyncio.create_task(keep_asking()) for _ in range(6)]
    versions = [service.version]
    for name, gone in (("good", ids[:2]), ("next", ids)):
      body = {"delta": str(folder / name)}
      response = await http.post("/admin/delta", json=body)
      assert response.status_code == 200, response.text
      assert response.json() == {
        "bundle": service.version,
        "previous": versions[-1],
      }
      versions.append(service.version)
      assert not set(gone) & set((await recommend(http))[1])
    busy = False
    await asyncio.gather(*users)
    return versions, answers

  versions, answers = run(service, use)
  assert len(set(versions)) == 3
  for version, items in answers:
    turn = versions.index(version)
    assert not set(ids[: (0, 2, 3)[turn]]) & set(items)
  assert service.version == versions[0]


def test_a_delta_that_fails_changes_nothing(service, bundle, leaving):
  folder, _ = leaving

  async def use(http):
    before = await recommend(http)
    for path, words in (
      (folder / "bad", "'nobody' are to leave, but are not"),
      (folder / "none", "is missing"),
      (bundle, "is no item delta"),
    ):
      response = await http.post("/admin/delta", json={"delta": str(path)})
      assert response.status_code == 422
      assert words in response.json()["problems"][0]["problem"]
      assert await recommend(http) == before

  run(service, use)


def test_what_is_sold_out_stays_so_and_one_change_at_a_time(service, leaving):
  folder, ids = leaving

  async def use(http):
    await service.set_unavailable(ids[2:])
    first = asyncio.create_task(service.apply_delta(str(folder / "good")))
    await asyncio.sleep(0)
    with pytest.raises(SwapRunningError):
      await service.apply_delta(str(folder / "good"))
    await first
    assert not set(ids) & set((await recommend(http))[1])
    await service.set_unavailable([])

  run(service, use)


def test_deltas_of_a_swap_and_of_the_start(service, bundle, leaving):
  folder, ids = leaving
  good, next_ = str(folder / "good"), str(folder / "next")

  async def use(http):
    body = {"bundle": str(bundle), "deltas": [good, next_]}
    response = await http.post("/admin/swap", json=body)
    assert response.status_code == 200, response.text
    assert not set(ids) & set((await recommend(http))[1])
    return service.version

  version = run(service, use)

  async def start():
    service = Service(str(bundle), QueueConfig(), [good])
    with pytest.raises(NotReadyError):
      await service.apply_delta(next_)
    await service.swap()
    await service.apply_delta(next_)
    both = service.version
    await service.swap()
    again = len(service.bundle.manifest["deltas"])
    await service.close()
    return both, again

  assert asyncio.run(start()) == (version, 1)
  said = []
  self_check.check(str(bundle), said.append, [good])
  assert len(said) == 2 and len(service.bundle.item_ids) == ITEMS
  with pytest.raises(UserError, match="nobody"):
    self_check.check(str(bundle), said.append, [str(folder / "bad")])
