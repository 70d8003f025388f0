"""A server on a real port, for as long as a test wants it."""

import asyncio
import contextlib
import socket

import uvicorn

from holorec_jax.serve import server
from holorec_jax.serve.app import make_app


@contextlib.asynccontextmanager
async def serving(service, **options):
  """The port of a server of the service, in this process."""
  app = make_app(service, **options)
  listener = socket.create_server(("127.0.0.1", 0))
  running = uvicorn.Server(server.configure(app))
  task = asyncio.create_task(running.serve(sockets=[listener]))
  while not running.started:
    await asyncio.sleep(0.01)
  try:
    yield listener.getsockname()[1]
  finally:
    running.should_exit = True
    await task
