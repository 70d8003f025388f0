"""What stands between the network and the routes.

Reads bodies within bounds of size and time, stops working for clients that
went away, counts every request and logs what went wrong.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from holorec_jax.serve import logs
from holorec_jax.serve.metrics import Metrics

# Seconds for a client to send its headers, and its body.
PATIENCE = 10.0
MOST_OPEN = 1024
# Seconds from request to taken answer; a new bundle may compile for minutes.
_LONGEST = 900.0
CLIENT_GONE = 499
# Statuses that come in any number: metrics tell enough of them.
_COUNTED = (200, 429)


class _ClientGoneError(Exception):
  pass


class Edge:
  """ASGI middleware."""

  def __init__(
    self,
    app: ASGIApp,
    metrics: Metrics,
    max_body: Callable[[Scope], int],
    patience: float = PATIENCE,
    most_open: int = MOST_OPEN,
  ):
    """Wraps `app`.

    Args:
      app: gets whole bodies.
      metrics: counts requests.
      max_body: bytes of a request's body.
      patience: seconds for it to arrive.
      most_open: requests at the same time; of more, those with a body are
        refused unread.
    """
    self._app = app
    self._metrics = metrics
    self._max_body = max_body
    self._patience = patience
    self._most_open = most_open
    self._open = 0

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    began = time.perf_counter()
    status = CLIENT_GONE

    async def note_and_send(message: Message) -> None:
      nonlocal status
      if message["type"] == "http.response.start":
        status = message["status"]
      await send(message)

    self._open += 1
    try:
      if self._open > self._most_open and scope["method"] == "POST":
        raise HTTPException(
          503,
          f"{self._open} requests at the same time are too many",
          {"Retry-After": "1", "Connection": "close"},
        )
      body = await self._read(receive, self._max_body(scope))
      began = time.perf_counter()
      await self._answer(body, scope, receive, note_and_send)
    except _ClientGoneError:
      pass
    except HTTPException as refusal:
      answer = JSONResponse(
        {"detail": refusal.detail}, refusal.status_code, refusal.headers
      )
      await answer(scope, receive, note_and_send)
    except Exception:
      status = 500  # sent by now
      raise
    finally:
      self._open -= 1
      self._note(scope, status, time.perf_counter() - began)

  async def _read(self, receive: Receive, most: int) -> bytes:
    """The body. One too long is read to its end, or nobody reads our no."""
    body = bytearray()
    length = 0
    more = True
    try:
      async with asyncio.timeout(self._patience):
        while more:
          message = await receive()
          if message["type"] == "http.disconnect":
            raise _ClientGoneError
          part = message.get("body", b"")
          length += len(part)
          if length <= most:
            body += part
          more = message.get("more_body", False)
    except TimeoutError:
      raise HTTPException(
        408,
        f"the request took longer than {self._patience:g} s to arrive",
        {"Connection": "close"},
      ) from None
    if length > most:
      raise HTTPException(
        413, f"the body has {length} bytes; at most {most} are taken"
      )
    return bytes(body)

  async def _answer(
    self, body: bytes, scope: Scope, receive: Receive, send: Send
  ) -> None:
    """Runs the routes for as long as the client is there."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.ensure_future(receive())

    async def replay() -> Message:
      return parts.pop() if parts else await asyncio.shield(gone)

    limit = asyncio.timeout(_LONGEST)
    running = True

    def stop(_: asyncio.Future) -> None:
      if running and not limit.expired():
        limit.reschedule(0)

    gone.add_done_callback(stop)
    try:
      async with limit:
        await self._app(scope, replay, send)
    except TimeoutError:
      if not limit.expired():
        raise
      raise _ClientGoneError from None
    finally:
      running = False
      gone.cancel()

  def _note(self, scope: Scope, status: int, seconds: float) -> None:
    # Not the path, of which there are as many as anyone likes to ask for.
    route = scope["route"].path if "route" in scope else "none"
    self._metrics.requests.labels(route, status).inc()
    self._metrics.seconds.labels(route).observe(seconds)
    logs.event(
      "request",
      logging.DEBUG if status in _COUNTED else logging.INFO,
      method=scope["method"],
      route=route,
      status=status,
      ms=round(seconds * 1000, 3),
    )


class ImpatientProtocol(HttpToolsProtocol):
  """Uvicorn's, which would wait for a request's headers for ever."""

  def connection_made(self, transport):
    super().connection_made(transport)
    self._expect_headers()

  def on_message_begin(self):
    super().on_message_begin()
    self._headers_due.cancel()
    self._expect_headers()

  def on_headers_complete(self):
    self._headers_due.cancel()
    super().on_headers_complete()

  def connection_lost(self, exc):
    self._headers_due.cancel()
    super().connection_lost(exc)

  def _expect_headers(self):
    self._headers_due = self.loop.call_later(
      PATIENCE, self.timeout_keep_alive_handler
    )
