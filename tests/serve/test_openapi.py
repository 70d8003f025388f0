"""The schema is valid, and the server keeps to it, whatever it is sent."""

import asyncio
import html.parser
import json

import httpx
import pytest

from holorec_jax.serve.app import make_app

TOKEN = "secret"
BEARER = {"authorization": f"Bearer {TOKEN}"}
EXAMPLES = 60  # of each endpoint


@pytest.fixture(scope="module")
def app(service):
  return make_app(service, TOKEN)


def make_client(app):
  transport = httpx.ASGITransport(app)
  return httpx.AsyncClient(transport=transport, base_url="http://test")


def get(app, path):
  async def ask():
    async with make_client(app) as http:
      return await http.get(path)

  return asyncio.run(ask())


@pytest.fixture(scope="module")
def schema(app):
  return get(app, "/openapi.json").json()


def references(value):
  if isinstance(value, dict):
    if "$ref" in value:
      yield value["$ref"]
    for inner in value.values():
      yield from references(inner)
  elif isinstance(value, list):
    for inner in value:
      yield from references(inner)


def test_the_schema_says_what_there_is(schema):
  assert set(schema["paths"]) == {
    "/health",
    "/health/ready",
    "/metrics",
    "/recommend",
    "/admin/swap",
    "/admin/delta",
    "/admin/availability",
  }
  models = schema["components"]["schemas"]
  found = set(references(schema))
  assert found == {f"#/components/schemas/{name}" for name in models}
  recommend = schema["paths"]["/recommend"]["post"]
  assert recommend["security"] == [{"bearer": []}]
  assert set(recommend["responses"]) == set(
    ["200", "401", "408", "413", "422", "429", "503"]
  )
  assert models["RecommendRequest"]["required"] == ["history"]


def test_its_models_are_valid_json_schemas(schema):
  validators = pytest.importorskip("jsonschema_rs")
  for model in schema["components"]["schemas"].values():
    validators.meta.validate(model)


def test_the_page_needs_nothing_from_elsewhere(app):
  class Links(html.parser.HTMLParser):
    found = ()

    def handle_starttag(self, tag, attributes):
      self.found += tuple(v for k, v in attributes if k in ("href", "src"))
      assert tag not in ("script", "link", "img")

  page = get(app, "/docs")
  assert page.headers["content-type"].startswith("text/html")
  links = Links()
  links.feed(page.text)
  assert links.found == ("openapi.json",)
  assert "POST /recommend" in page.text and "exclude_seen" in page.text


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize(
  "path",
  ["/recommend", "/admin/swap", "/admin/delta", "/admin/availability"],
)
def test_generated_requests(app, service, schema, path, mode, monkeypatch):
  schemathesis = pytest.importorskip("schemathesis")
  hypothesis = pytest.importorskip("hypothesis")
  # Loading the same bundle again and again takes long and tells nothing.
  monkeypatch.setattr(service, "_path", "/no/bundle/there")
  asked = json.loads(json.dumps(schema))
  # The token is right: what is wrong shall be the body.
  del asked["paths"][path]["post"]["security"]
  operation = schemathesis.openapi.from_dict(asked)[path]["POST"]
  described = schema["paths"][path]["post"]["responses"]
  known = {f"item{i}" for i in range(len(service.bundle.item_ids))}
  statuses = []

  async def send(content):
    async with make_client(app) as http:
      return await http.post(path, content=content, headers=BEARER)

  @hypothesis.given(
    case=operation.as_strategy(
      generation_mode=schemathesis.GenerationMode(mode)
    )
  )
  @hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )
  def check(case):
    content = case.body
    if not isinstance(content, bytes):
      absent = isinstance(content, schemathesis.core.NotSet)
      content = b"" if absent else json.dumps(content).encode()
    response = runner.run(send(content))
    statuses.append(response.status_code)
    assert str(response.status_code) in described, response.text
    if path == "/recommend" and response.status_code == 200:
      assert {item["id"] for item in response.json()["items"]} <= known

  with asyncio.Runner() as runner:
    check()
  assert len(statuses) >= EXAMPLES / 2
  assert set(statuses) <= ({200, 422} if mode == "positive" else {422})
