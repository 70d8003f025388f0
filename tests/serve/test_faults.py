"""A server that is killed under load and misused: what the test counts."""

import asyncio
import pathlib
import sys

import pytest

from holorec_jax.export import runtime
from holorec_jax.serve import faults
from holorec_jax.serve.child import ServerProcess

SERVE = pathlib.Path(__file__).parents[2] / "launch" / "serve.py"
TOKEN = "secret"


@pytest.fixture(scope="module")
def visitors(bundle, tmp_path_factory):
  opened = runtime.load(bundle, replay=False)
  scene = faults.set_scene(opened, tmp_path_factory.mktemp("scene"))
  return faults.make_visitors(opened, scene, TOKEN)


def make_server(bundle, folder):
  (folder / "token").write_text(TOKEN)
  return ServerProcess(
    [
      *(sys.executable, str(SERVE), f"--bundle={bundle}"),
      *(f"--token_file={folder}/token", f"--compile_cache={folder}/compiled"),
    ]
  )


def test_a_kill_under_load(bundle, visitors, tmp_path):
  server = make_server(bundle, tmp_path)
  # Nobody waits here until what stalls is answered.
  asked = {name: visitors[name] for name in visitors if name != "stalled"}
  # Every tenth answer is held to be wrong.
  lying = visitors["user"][:9]
  lying.append(
    lying[0]._replace(request=lying[0].request._replace(is_right=no))
  )
  try:
    test = faults.FaultTest(server, asked | {"user": lying}, users=4)
    row = asyncio.run(test.run(1, 3.0))
  finally:
    server.stop()
  assert row["wrong"] > 0 and not faults.is_clean(row)
  assert faults.is_clean(row | {"wrong": 0}), row
  assert len(row["ready_seconds"]) == 2 and row["broken_by_kills"] > 0
  statuses = row["statuses"]
  assert statuses.keys() == asked.keys()
  # On a busy machine no swap may come to its end.
  assert {"200", "422"} & statuses["operator"].keys()
  assert "400" in statuses["no_http"] and "413" in statuses["oversize"]


def no(body):
  return False


class BadServer:
  """Breaks every other connection, and answers 500 on the rest."""

  async def start(self):
    self.asked = 0
    server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
    self.port = server.sockets[0].getsockname()[1]
    return 0.0

  async def answer(self, reader, writer):
    while await reader.readuntil(b"]}"):
      self.asked += 1
      if self.asked % 2:
        break
      writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
    writer.close()

  def stop(self):
    return 3

  def defects(self):
    return []


def test_what_no_kill_explains_is_counted(visitors):
  server = BadServer()
  asked = {"user": visitors["unknown"][:1]}
  row = asyncio.run(faults.FaultTest(server, asked, users=1).run(0, 1.0))
  half = server.asked // 2
  assert half > 1 and row["exit_status"] == 3
  assert abs(row["lost"]["user"] - half) <= 1 and row["broken_by_kills"] == 0
  assert abs(row["unexpected"]["user: 500"] - half) <= 1
  assert row["right_in_each_life"] == [0] and not faults.is_clean(row)
