"""The process around the application: a socket, signals, an orderly end."""

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence

import jax
import uvicorn
from starlette.types import ASGIApp

from holorec_jax.errors import UserError
from holorec_jax.serve import logs
from holorec_jax.serve.app import make_app
from holorec_jax.serve.edge import ImpatientProtocol
from holorec_jax.serve.service import QueueConfig, Service, SwapRunningError

# Seconds that an idle connection is kept, and that SIGTERM waits for answers.
_KEEP_ALIVE = 30
_DRAIN = 30
# Seconds that a thread may go on while another waits for the interpreter. By
# default it is 5 ms, which the search's thread would wait again and again while
# answers are written, and the device with it.
_SWITCH = 0.0005


def serve(
  path: str,
  host: str,
  port: int,
  token: str | None,
  queue: QueueConfig,
  deltas: Sequence[str] = (),
) -> None:
  """Serves a bundle until SIGTERM or SIGINT; answers what has arrived first.

  SIGHUP reads the bundle's folder again. Until the first bundle is ready,
  requests are answered 503.

  Args:
    path: folder of the bundle.
    host: address to listen on.
    port: to listen on; 0: any free one, which the log names.
    token: what callers have to bear, if anything.
    queue: how long requests wait.
    deltas: folders of item deltas for the bundle, in order.

  Raises:
    UserError: the port cannot be opened, or the bundle not be used.
  """
  sys.setswitchinterval(_SWITCH)
  listener = _listen(host, port)
  address = ipaddress.ip_address(listener.getsockname()[0])
  if token is None and not address.is_loopback:
    logs.event("open_to_all", logging.WARNING, host=host)
  service = Service(path, queue, deltas)
  config = configure(make_app(service, token))
  with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
    runner.run(_serve(service, uvicorn.Server(config), listener))


def keep_compiled(folder: str) -> None:
  """Has jax keep compiled programs in a folder and look for them there."""
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def configure(app: ASGIApp) -> uvicorn.Config:
  """Uvicorn around the application, which is loaded and closed elsewhere."""
  return uvicorn.Config(
    app,
    http=ImpatientProtocol,
    ws="none",
    lifespan="off",
    log_config=None,
    access_log=False,
    server_header=False,
    proxy_headers=False,
    timeout_keep_alive=_KEEP_ALIVE,
    timeout_graceful_shutdown=_DRAIN,
  )


def _listen(host: str, port: int) -> socket.socket:
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    listener = socket.create_server((host, port), family=family, backlog=2048)
  except OSError as error:
    raise UserError(
      f"cannot listen on {host}, port {port} ({error}): choose another --port"
      " or --host"
    ) from None
  logs.event("listening", host=host, port=listener.getsockname()[1])
  return listener


async def _serve(
  service: Service, server: uvicorn.Server, listener: socket.socket
) -> None:
  async def load() -> None:
    began = time.perf_counter()
    try:
      await service.swap()
    except UserError:
      server.should_exit = True
      raise
    logs.event("ready", seconds=round(time.perf_counter() - began, 2))

  async def load_again() -> None:
    try:
      await service.swap()
    except (UserError, SwapRunningError) as error:
      logs.event("not_swapped", reason=str(error))

  loop = asyncio.get_running_loop()
  tasks = [loop.create_task(load())]
  loop.add_signal_handler(
    signal.SIGHUP, lambda: tasks.append(loop.create_task(load_again()))
  )
  for ending in (signal.SIGTERM, signal.SIGINT):
    # Uvicorn raises them again when all is answered; then that is the end.
    signal.signal(ending, lambda *_: None)
  await server.serve(sockets=[listener])
  await service.close()
  logs.event("stopped")
  if tasks[0].done():
    tasks[0].result()
