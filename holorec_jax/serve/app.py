"""The HTTP interface: endpoints and refusals."""

import contextlib
import hmac
import math

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from holorec_jax.errors import UserError
from holorec_jax.serve import openapi
from holorec_jax.serve.batching import DeadlineError, QueueFullError
from holorec_jax.serve.edge import MOST_OPEN, PATIENCE, Edge
from holorec_jax.serve.openapi import Endpoint
from holorec_jax.serve.schemas import (
  AvailabilityRequest,
  AvailabilityResponse,
  DeltaRequest,
  Health,
  Problem,
  RecommendRequest,
  RecommendResponse,
  Refusal,
  SwapRequest,
  SwapResponse,
)
from holorec_jax.serve.searching import InvalidRequestError
from holorec_jax.serve.service import NotReadyError, Service, SwapRunningError

MAX_BODY = 1 << 20
# A million ids, of those who have the token alone.
MAX_AVAILABILITY = 1 << 26
AVAILABILITY = "/admin/availability"
_SENT = (408, 413, 422)  # what any body may bring about


def make_app(
  service: Service,
  token: str | None = None,
  max_body: int = MAX_BODY,
  patience: float = PATIENCE,
  most_open: int = MOST_OPEN,
) -> ASGIApp:
  """The ASGI application.

  Args:
    service: that answers; who makes the app loads its bundle and closes it.
    token: what callers have to bear; None: anyone may ask, nobody may change
      anything.
    max_body: bytes of a request; availability may take MAX_AVAILABILITY.
    patience: seconds for a client to send a request.
    most_open: requests at the same time.
  """
  endpoints = [
    *_watching(service),
    _recommending(service, token is not None),
    *_changing(service),
  ]
  schema = openapi.describe(endpoints)
  page = openapi.page(schema)

  async def show_schema(_: Request) -> Response:
    return JSONResponse(schema)

  async def show_page(_: Request) -> Response:
    return HTMLResponse(page)

  routes = [_route(endpoint, token) for endpoint in endpoints]
  routes += [Route("/openapi.json", show_schema), Route("/docs", show_page)]
  app = Starlette(
    routes=routes,
    exception_handlers={
      HTTPException: _refuse_http,
      ValidationError: _refuse_malformed,
      InvalidRequestError: _refuse_invalid,
      QueueFullError: _refuse_to_wait,
      DeadlineError: _later(503, "no answer before the deadline"),
      NotReadyError: _later(503, "the bundle is being loaded"),
      SwapRunningError: _later(409, "another bundle is being loaded"),
    },
  )

  def most_bytes(scope: Scope) -> int:
    if scope["path"] == AVAILABILITY:
      with contextlib.suppress(HTTPException):
        _check_token(Request(scope), token)
        return MAX_AVAILABILITY
    return max_body

  return Edge(app, service.metrics, most_bytes, patience, most_open)


def _watching(service: Service) -> list[Endpoint]:
  async def health() -> Health:
    """Status 200 for as long as the process lives."""
    return Health(ready=service.version is not None, bundle=service.version)

  async def ready() -> Health:
    """Status 503 until a bundle is loaded and compiled."""
    if service.version is None:
      raise NotReadyError
    return await health()

  async def metrics() -> Response:
    """For Prometheus."""
    return Response(
      service.metrics.text(), media_type="text/plain; version=0.0.4"
    )

  return [
    Endpoint("GET", "/health", health, None, Health),
    Endpoint("GET", "/health/ready", ready, None, Health, (503,)),
    Endpoint("GET", "/metrics", metrics, None, None),
  ]


def _recommending(service: Service, guarded: bool) -> Endpoint:
  async def recommend(request: RecommendRequest) -> RecommendResponse:
    """The best items for one user, of whom only the history counts."""
    return await service.recommend(request)

  return Endpoint(
    "POST",
    "/recommend",
    recommend,
    RecommendRequest,
    RecommendResponse,
    (401, *_SENT, 429, 503),
    guarded,
  )


def _changing(service: Service) -> list[Endpoint]:
  async def swap(request: SwapRequest) -> SwapResponse:
    """Answers from another bundle from now on.

    It is verified, compiled and asked its golden request first; if anything
    fails the present one goes on answering, and status 422 says why.
    """
    if service.version is None:
      raise NotReadyError
    try:
      bundle, previous = await service.swap(request.bundle, request.deltas)
    except UserError as error:
      raise InvalidRequestError([(("bundle",), str(error))]) from error
    return SwapResponse(bundle=bundle, previous=str(previous))

  async def apply_delta(request: DeltaRequest) -> SwapResponse:
    """Lets items join the present bundle's catalogue, or leave it.

    What the golden request found, and what is new, must be found then; if
    anything fails all stays as it is, and status 422 says why. A later swap
    applies the deltas that it names.
    """
    try:
      bundle, previous = await service.apply_delta(request.delta)
    except UserError as error:
      raise InvalidRequestError([(("delta",), str(error))]) from error
    return SwapResponse(bundle=bundle, previous=str(previous))

  async def set_unavailable(
    request: AvailabilityRequest,
  ) -> AvailabilityResponse:
    """Recommends some items to nobody from now on, such as sold-out ones."""
    known, unknown = await service.set_unavailable(request.unavailable)
    return AvailabilityResponse(unavailable=known, unknown_items=unknown)

  refusals = (401, 403, *_SENT, 409, 503)
  return [
    Endpoint(
      "POST", "/admin/swap", swap, SwapRequest, SwapResponse, refusals, True
    ),
    Endpoint(
      "POST",
      "/admin/delta",
      apply_delta,
      DeltaRequest,
      SwapResponse,
      refusals,
      True,
    ),
    Endpoint(
      "POST",
      AVAILABILITY,
      set_unavailable,
      AvailabilityRequest,
      AvailabilityResponse,
      refusals,
      True,
    ),
  ]


def _route(endpoint: Endpoint, token: str | None) -> Route:
  async def answer(request: Request) -> Response:
    if endpoint.guarded:
      _check_token(request, token)
    if endpoint.takes:
      asked = endpoint.takes.model_validate_json(await request.body())
      given = await endpoint.answer(asked)
    else:
      given = await endpoint.answer()
    if isinstance(given, Response):
      return given
    # What is absent unless asked for was never set.
    content = given.model_dump_json(exclude_unset=True)
    return Response(content, media_type="application/json")

  return Route(endpoint.path, answer, methods=[endpoint.method])


def _check_token(request: Request, token: str | None) -> None:
  if token is None:
    raise HTTPException(403, "the server was started without a token")
  scheme, _, given = request.headers.get("authorization", "").partition(" ")
  # Takes as long however much of it is right.
  right = hmac.compare_digest(given.strip().encode(), token.encode())
  if scheme.lower() != "bearer" or not right:
    raise HTTPException(
      401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"}
    )


def _refuse(status: int, refusal: Refusal, headers=None) -> Response:
  return Response(
    refusal.model_dump_json(), status, headers, media_type="application/json"
  )


def _refuse_http(_: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  refusal = Refusal(detail=error.detail)
  return _refuse(error.status_code, refusal, error.headers)


def _refuse_malformed(_: Request, error: Exception) -> Response:
  assert isinstance(error, ValidationError)
  found = error.errors(include_url=False, include_input=False)
  problems = [(each["loc"], each["msg"]) for each in found]
  return _refuse_invalid(_, InvalidRequestError(problems))


def _refuse_invalid(_: Request, error: Exception) -> Response:
  assert isinstance(error, InvalidRequestError)
  problems = [
    Problem(field=list(field), problem=problem)
    for field, problem in error.problems
  ]
  detail = "the request is not valid, see `problems`"
  return _refuse(422, Refusal(detail=detail, problems=problems))


def _refuse_to_wait(_: Request, error: Exception) -> Response:
  assert isinstance(error, QueueFullError)
  seconds = max(1, math.ceil(error.retry_after))
  return _refuse(429, Refusal(detail=str(error)), {"Retry-After": str(seconds)})


def _later(status: int, detail: str):
  def refuse(_: Request, error: Exception) -> Response:
    return _refuse(status, Refusal(detail=detail), {"Retry-After": "1"})

  return refuse
