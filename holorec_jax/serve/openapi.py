"""Endpoints, and the pages made of them: the OpenAPI schema and /docs."""

import dataclasses
import html
import http
import inspect
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from holorec_jax.serve.schemas import Refusal

_REFERENCE = "#/components/schemas/{model}"
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>holorec_jax</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 50em; margin: 2em auto;
        padding: 0 1em; }}
pre {{ background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 13px; }}
</style>
<h1>holorec_jax</h1>
<p>For tools: <a href="openapi.json">openapi.json</a>.</p>
{sections}
</html>
"""


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """A path and what answers there.

  Attributes:
    method: GET or POST.
    path: of the URL.
    answer: called with the request; its docstring describes the endpoint.
    takes: model of the body; None: `answer` takes no argument.
    gives: model of the answer; None: text.
    refusals: statuses that a `Refusal` may come with.
    guarded: by the bearer token.
  """

  method: str
  path: str
  answer: Callable[..., Awaitable[Any]]
  takes: type[BaseModel] | None
  gives: type[BaseModel] | None
  refusals: tuple[int, ...] = ()
  guarded: bool = False


def describe(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
  """The OpenAPI schema."""
  models: list[tuple[type[BaseModel], Any]] = [(Refusal, "serialization")]
  for endpoint in endpoints:
    if endpoint.takes:
      models.append((endpoint.takes, "validation"))
    if endpoint.gives:
      models.append((endpoint.gives, "serialization"))
  references, definitions = models_json_schema(
    list(dict.fromkeys(models)), ref_template=_REFERENCE
  )

  def content(model: type[BaseModel], mode: Any) -> dict[str, Any]:
    return {"application/json": {"schema": references[model, mode]}}

  def operation(endpoint: Endpoint) -> dict[str, Any]:
    doc = inspect.getdoc(endpoint.answer) or ""
    given: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if endpoint.gives:
      given = content(endpoint.gives, "serialization")
    described: dict[str, Any] = {
      "summary": doc.partition("\n")[0],
      "description": doc,
      "responses": {"200": {"description": "Answered.", "content": given}},
    }
    for status in endpoint.refusals:
      described["responses"][str(status)] = {
        "description": http.HTTPStatus(status).phrase,
        "content": content(Refusal, "serialization"),
      }
    if endpoint.takes:
      taken = content(endpoint.takes, "validation")
      described["requestBody"] = {"required": True, "content": taken}
    if endpoint.guarded:
      described["security"] = [{"bearer": []}]
    return described

  return {
    "openapi": "3.1.0",
    "info": {"title": "holorec_jax", "version": "1"},
    "paths": {e.path: {e.method.lower(): operation(e)} for e in endpoints},
    "components": {
      "schemas": definitions["$defs"],
      "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
    },
  }


def page(schema: dict[str, Any]) -> str:
  """The schema for people, as HTML that needs nothing else."""

  def show(title: str, text: str, value: Any) -> str:
    shown = html.escape(json.dumps(value, indent=2))
    text = html.escape(text)
    return f"<h2>{html.escape(title)}</h2><p>{text}</p><pre>{shown}</pre>"

  sections = [
    show(f"{method.upper()} {path}", operation.pop("description"), operation)
    for path, methods in json.loads(json.dumps(schema["paths"])).items()
    for method, operation in methods.items()
  ]
  for name, model in schema["components"]["schemas"].items():
    sections.append(show(name, model.get("description", ""), model))
  return _PAGE.format(sections="\n".join(sections))
