"""The page and what it asks for, over HTTP.

GET / is the page; it needs nothing from elsewhere. GET /api/run, /api/items,
/api/users, /api/history and /api/tree take query parameters, POST
/api/recommend takes JSON. What is refused is answered by {"what", "where",
"how"}: status 400 for a malformed request or an unknown item in a history, 404
for a user, a prefix or a path that is not there.
"""

import pathlib
from collections.abc import Callable
from importlib import resources
from typing import Annotated, Any

from pydantic import (
  BaseModel,
  BeforeValidator,
  ConfigDict,
  Field,
  ValidationError,
)
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from holorec_jax.explore.explorer import Explorer, RefusedError
from holorec_jax.tree import MAX_CODES

# A page elsewhere on the web may point its own name at this machine.
HOSTS = ("127.0.0.1", "localhost")
_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
  # Were a title ever taken for HTML, it could still run nothing.
  "Content-Security-Policy": "default-src 'self'; img-src data:",
  "X-Content-Type-Options": "nosniff",
  "Cache-Control": "no-store",
}


class Nothing(BaseModel):
  """No parameter."""

  model_config = ConfigDict(extra="forbid")


class Search(Nothing):
  """What somebody types."""

  query: str = Field("", max_length=200)
  limit: int = Field(12, ge=1, le=100)


class OfUser(Nothing):
  """One user."""

  user: str


class OfNode(Nothing):
  """Codes from the root, such as 17,4; "" is the root."""

  prefix: Annotated[
    list[Annotated[int, Field(ge=0, lt=MAX_CODES)]],
    BeforeValidator(lambda text: text.split(",") if text else []),
  ] = []


class Ask(Nothing):
  """A history to go on from."""

  history: list[str] = Field(max_length=10_000)
  k: int = Field(10, ge=1, le=50)
  exclude_seen: bool = False


def make_app(explorer: Explorer) -> Starlette:
  """The ASGI application."""
  return Starlette(
    routes=[
      *_page_routes(),
      _route("GET", "/api/run", Nothing, explorer.about),
      _route("GET", "/api/items", Search, explorer.find_items),
      _route("GET", "/api/users", Search, explorer.find_users),
      _route("GET", "/api/history", OfUser, explorer.history),
      _route("GET", "/api/tree", OfNode, explorer.node),
      _route("POST", "/api/recommend", Ask, explorer.recommend),
    ],
    middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))],
    exception_handlers={
      HTTPException: _refuse_http,
      RefusedError: _refuse,
      ValidationError: _refuse_malformed,
    },
  )


def _page_routes() -> list[Route]:
  folder = resources.files("holorec_jax.explore") / "page"
  return [
    _page_route(file.name, file.read_text("utf-8"))
    for file in folder.iterdir()
    if pathlib.PurePath(file.name).suffix in _MEDIA
  ]


def _page_route(name: str, text: str) -> Route:
  media_type = _MEDIA[pathlib.PurePath(name).suffix]

  async def show(_: Request) -> Response:
    return Response(text, headers=_HEADERS, media_type=media_type)

  return Route("/" if name == "index.html" else f"/{name}", show)


def _route(
  method: str, path: str, takes: type[Nothing], answer: Callable[..., Any]
) -> Route:
  """An endpoint that hands the fields of what it takes to `answer`."""

  async def respond(request: Request) -> Response:
    if method == "POST":
      asked = takes.model_validate_json(await request.body())
    else:
      asked = takes.model_validate(dict(request.query_params))
    return JSONResponse(await run_in_threadpool(answer, **dict(asked)))

  return Route(path, respond, methods=[method])


def _refuse(_: Request, error: Exception) -> Response:
  assert isinstance(error, RefusedError)
  body = {"what": error.what, "where": error.where, "how": error.how}
  return JSONResponse(body, error.status)


def _refuse_malformed(_: Request, error: Exception) -> Response:
  assert isinstance(error, ValidationError)
  first = error.errors(include_url=False, include_input=False)[0]
  where = ".".join(map(str, first["loc"])) or "body"
  what = f"{where} is not what is expected"
  return _refuse(_, RefusedError(400, what, where, f"{first['msg']}."))


def _refuse_http(request: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  how = "The paths are / for the page and /api/.. for what it asks."
  where = f"{request.method} {request.url.path}"
  return _refuse(
    request, RefusedError(error.status_code, error.detail, where, how)
  )
