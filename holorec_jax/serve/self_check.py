"""Whether a bundle can be served here: checks that print a line each."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp

from holorec_jax.errors import UserError
from holorec_jax.serve.app import make_app
from holorec_jax.serve.service import QueueConfig, Service


def check(
  path: str,
  say: Callable[[str], None] = print,
  deltas: Sequence[str] = (),
) -> None:
  """Loads a bundle, compiles it and asks it, without opening a port.

  Args:
    path: its folder.
    say: what is done with each line.
    deltas: folders of item deltas for the bundle, in order.

  Raises:
    UserError: something does not work; the message says what.
  """
  asyncio.run(_check(Service(path, QueueConfig(), deltas), say))


async def _check(service: Service, say: Callable[[str], None]) -> None:
  began = time.perf_counter()
  version, _ = await service.swap()
  seconds = time.perf_counter() - began
  say(f"ok  files, golden request and warm-up of {version} ({seconds:.1f} s)")
  try:
    bundle = service.bundle
    assert bundle is not None  # it was loaded above
    history = bundle.item_ids[: bundle.max_history]
    want_K, _ = bundle.recommend([[bundle.row_of[i] for i in history]])
    status, answer = await ask(
      make_app(service), "POST", "/recommend", {"history": history}
    )
    want = [bundle.item_ids[row] for row in want_K[0] if row >= 0]
    got = [item["id"] for item in answer.get("items", [])]
    if status != 200 or got != want:
      raise UserError(
        f"POST /recommend answers {status} with the items {got}, the bundle"
        f" itself recommends {want}: please report this"
      )
    say(f"ok  POST /recommend answers as the bundle does, {len(got)} items")
  finally:
    await service.close()


async def ask(
  app: ASGIApp, method: str, path: str, body: Any
) -> tuple[int, Any]:
  """Status and JSON of one request to an application in this process."""
  parts = [{"type": "http.request", "body": json.dumps(body).encode()}]
  sent = []

  async def receive():
    return parts.pop() if parts else await asyncio.Event().wait()

  async def send(message):
    sent.append(message)

  scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": method,
    "path": path,
    "raw_path": path.encode(),
    "query_string": b"",
    "scheme": "http",
    "headers": [(b"content-type", b"application/json")],
  }
  await app(scope, receive, send)
  answer = b"".join(message.get("body", b"") for message in sent[1:])
  return sent[0]["status"], json.loads(answer)
