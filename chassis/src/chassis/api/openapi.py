"""OpenAPI 3.1 from the compiled signatures that bind the requests, and a page that shows it."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import orjson
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from ..problem import PROBLEM_JSON, phrase
from .handler import Handler
from .operation import Operation
from .routing import Described, operations_of

OPENAPI_VERSION = "3.1.0"
REF_TEMPLATE = "#/components/schemas/{model}"

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "default": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        "detail": {"type": "string"},
        "trace_id": {"type": "string", "description": "The trace of the request."},
        "errors": {
            "type": "array",
            "description": "For 422: each invalid value, and the reason.",
            "items": {
                "type": "object",
                "properties": {
                    "in": {"enum": ["path", "query", "body"]},
                    "name": {"type": "string", "description": "The parameter."},
                    "pointer": {"type": "string", "description": "The place in the body (RFC 6901)."},
                    "detail": {"type": "string"},
                },
                "required": ["in", "detail"],
            },
        },
    },
    "required": ["type", "title", "status"],
}


def openapi_document(routes: Sequence[BaseRoute], *, title: str, version: str, description: str = "") -> dict[str, Any]:
    """The OpenAPI 3.1 document of the handlers in `routes`."""
    operations = operations_of(routes)
    schemas, components = _schemas([described.operation for described in operations])
    paths: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for place in operations:
        described = _operation(place, schemas)
        # `/order-lines` and `/order/lines` have one name; the second gets a number.
        name = described["operationId"]
        seen[name] += 1
        if seen[name] > 1:
            described["operationId"] = f"{name}_{seen[name]}"
        paths.setdefault(place.path, {})[place.method.lower()] = described
    info = {"title": title, "version": version, **({"description": description} if description else {})}
    return {
        "openapi": OPENAPI_VERSION,
        "info": info,
        "paths": paths,
        "components": {"schemas": {**components, "Problem": PROBLEM_SCHEMA}},
    }


class OpenApi(Handler):
    """`GET /openapi.json`; the document is encoded once, unless the app has a root path, such as a proxy's prefix."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._content = orjson.dumps(document)

    async def get(self, request: Request) -> Response:
        content = self._content
        root_path = request.scope.get("root_path", "").rstrip("/")
        if root_path:
            # Without it, clients would take the root of the host (OpenAPI 3.1, "servers").
            content = orjson.dumps({**self._document, "servers": [{"url": root_path}]})
        return Response(content, media_type="application/json")


class Docs(Handler):
    """`GET /docs`: shows and tries `openapi.json`, without a request to any other host."""

    def __init__(self) -> None:
        folder = files(__name__.rpartition(".")[0])
        page, css, js = (folder.joinpath(f"docs.{end}").read_text(encoding="utf-8") for end in ("html", "css", "js"))
        # One response, so that the policy can name what is inline by its hash, and allow nothing else.
        page = page.replace("<style></style>", f"<style>\n{css}</style>")
        page = page.replace("<script></script>", f"<script>\n{js}</script>")
        script, style = (_inline_hash(page, element) for element in ("script", "style"))
        self._page = page
        policy = (
            f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
            "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        self._headers = {
            "cache-control": "no-store",
            "content-security-policy": policy,
            "referrer-policy": "no-referrer",
        }

    async def get(self) -> Response:
        return HTMLResponse(self._page, headers=self._headers)


def _schemas(operations: Sequence[Operation]) -> tuple[dict[tuple[int, str], Any], dict[str, Any]]:
    """The JSON Schema of each adapter, and the components that they share."""
    adapters: list[tuple[tuple[int, str], Any, TypeAdapter[Any]]] = []
    for operation in operations:
        inputs = [parameter.adapter for parameter in [*operation.path.values(), *operation.query.values()]]
        if operation.body is not None:
            inputs.append(operation.body)
        adapters += [((id(adapter), "validation"), "validation", adapter) for adapter in inputs]
        if operation.result is not None:
            adapters.append(((id(operation.result), "serialization"), "serialization", operation.result))
    if not adapters:
        return {}, {}
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=REF_TEMPLATE)
    return {key: schema for (key, _), schema in schemas.items()}, definitions.get("$defs", {})


def _operation(place: Described, schemas: dict[tuple[int, str], Any]) -> dict[str, Any]:
    operation = place.operation
    slug = re.sub(r"\W+", "_", place.path).strip("_")
    described: dict[str, Any] = {
        "operationId": f"{place.method.lower()}_{slug or 'root'}",
        "tags": [_tag(place.path)],
    }
    summary, _, description = operation.documentation.partition("\n")
    if summary:
        described["summary"] = summary.rstrip(".")
    if description.strip():
        described["description"] = description.strip()
    inputs = {**operation.path, **operation.query}
    # A path parameter that the method reads from the request itself is text.
    parameters = [
        _parameter("path", name, inputs[name], schemas)
        if name in inputs
        else {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in place.names
    ]
    parameters += [
        _parameter("query", name, parameter, schemas)
        for name, parameter in operation.query.items()
        if name not in place.names
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.body_is_optional,
            "content": {"application/json": {"schema": schemas[id(operation.body), "validation"]}},
        }
    described["responses"] = _responses(operation, bool(parameters), schemas)
    return described


def _parameter(where: str, name: str, parameter: Any, schemas: dict[tuple[int, str], Any]) -> dict[str, Any]:
    schema = dict(schemas[id(parameter.adapter), "validation"])
    described: dict[str, Any] = {"name": name, "in": where, "required": where == "path" or parameter.is_required}
    if "description" in schema:
        described["description"] = schema.pop("description")
    if not described["required"]:
        schema["default"] = TypeAdapter(Any).dump_python(parameter.default, mode="json")
    described["schema"] = schema
    return described


def _responses(
    operation: Operation, has_parameters: bool, schemas: dict[tuple[int, str], Any]
) -> dict[str, dict[str, Any]]:
    success: dict[str, Any] = {"description": phrase(operation.status)}
    if operation.result is not None and operation.has_content:
        schema = schemas[id(operation.result), "serialization"]
        success["content"] = {"application/json": {"schema": schema}}
    errors: dict[int, str] = dict(operation.errors)
    if operation.body is not None:
        errors.setdefault(400, "The body is not valid JSON.")
        errors.setdefault(413, "The body is too large.")
        errors.setdefault(415, "Content-Type is not application/json, or the body is compressed.")
    if operation.body is not None or has_parameters:
        errors.setdefault(422, "A value is invalid; `errors` lists each, with the reason.")
    responses = {str(operation.status): success}
    for status, description in sorted(errors.items()):
        responses[str(status)] = _problem(description)
    responses["default"] = _problem("Any other failure.")
    return responses


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": REF_TEMPLATE.format(model="Problem")}
    return {"description": description, "content": {PROBLEM_JSON.decode(): {"schema": schema}}}


def _tag(path: str) -> str:
    literals = [part for part in path.split("/") if part and "{" not in part]
    return literals[0] if literals else "root"


def _inline_hash(page: str, element: str) -> str:
    """The page's one `<element>` as a source of CSP (Content Security Policy Level 3, 2.3.1)."""
    content = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
