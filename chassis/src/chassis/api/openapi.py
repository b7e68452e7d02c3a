"""The OpenAPI 3.1 document, generated from the signatures that also bind the requests, and its documentation page."""

import base64
import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any

import orjson
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from ..problem import PROBLEM_JSON, phrase
from .access import Login, Requirement, no_login
from .handler import Handler
from .idempotency import HEADER, MAX_KEY_LENGTH, PROBLEMS, REPLAYED
from .operation import Operation
from .parameters import Parameter
from .routing import Described, Route, operations_of
from .schemas import REF_TEMPLATE, Schemas

OPENAPI_VERSION = "3.1.0"
URL_ENCODED_TYPE = "application/x-www-form-urlencoded"
NO_LOGIN = '<meta name="login" content="null">'  # in docs.html

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
            "description": "For 422: each invalid value, with the reason.",
            "items": {
                "type": "object",
                "properties": {
                    "in": {"enum": ["path", "query", "header", "cookie", "form", "body"]},
                    "name": {"type": "string", "description": "The parameter."},
                    "pointer": {
                        "type": "string",
                        "description": "The JSON Pointer to the value in the body (RFC 6901).",
                    },
                    "detail": {"type": "string"},
                },
                "required": ["in", "detail"],
            },
        },
    },
    "required": ["type", "title", "status"],
}


def openapi_document(
    routes: Sequence[BaseRoute],
    *,
    title: str,
    version: str,
    description: str = "",
    schemes: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the handlers in `routes`. `schemes` are the security schemes of protected ones."""
    operations = operations_of(routes)
    schemas = Schemas([described.operation for described in operations])
    paths: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for place in operations:
        described = _operation(place, schemas, schemes or {})
        # `/order-lines` and `/order/lines` get the same name, so the second one gets a number.
        name = str(described["operationId"])
        seen[name] += 1
        if seen[name] > 1:
            described["operationId"] = f"{name}_{seen[name]}"
        paths.setdefault(place.path, {})[place.method.lower()] = described
    info = {"title": title, "version": version, **({"description": description} if description else {})}
    components: dict[str, Any] = {"schemas": {**schemas.components, "Problem": PROBLEM_SCHEMA}}
    if schemes:
        components["securitySchemes"] = {name: dict(scheme) for name, scheme in schemes.items()}
    return {"openapi": OPENAPI_VERSION, "info": info, "paths": paths, "components": components}


def documented_routes(
    routes: Sequence[BaseRoute], document: dict[str, Any], login: Callable[[], Login | None] = no_login
) -> list[Route]:
    """`/openapi.json` and `/docs`, unless the owner has a route on the same path. `login` is for `/docs`."""
    own = {getattr(route, "path", None) for route in routes}
    return [
        Route(path, handler, in_openapi=False)
        for path, handler in (("/openapi.json", OpenApi(document)), ("/docs", Docs(login)))
        if path not in own
    ]


class OpenApi(Handler):
    """`GET /openapi.json`. The document is encoded once, unless the app has a root path, such as a proxy's prefix."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._content = orjson.dumps(document)

    async def get(self, request: Request) -> Response:
        content = self._content
        root_path = request.scope.get("root_path", "").rstrip("/")
        if root_path:
            # Without it, clients would resolve paths against the root of the host (OpenAPI 3.1, "servers").
            content = orjson.dumps({**self._document, "servers": [{"url": root_path}]})
        return Response(content, media_type="application/json")


class Docs(Handler):
    """`GET /docs`: a page that shows `openapi.json` and sends requests. It loads nothing from other hosts.

    With a `login`, it also gets tokens from the provider: its policy allows requests to the token endpoint. The page is
    put together for the first request.
    """

    def __init__(self, login: Callable[[], Login | None] = no_login) -> None:
        self._login = login

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        """The page, and the hashes of its script and its style."""
        folder = files(__name__.rpartition(".")[0])
        page, css, js = (folder.joinpath(f"docs.{end}").read_text(encoding="utf-8") for end in ("html", "css", "js"))
        # Script and style are inline, so that the policy can allow only their hashes.
        page = page.replace("<style></style>", f"<style>\n{css}</style>")
        page = page.replace("<script></script>", f"<script>\n{js}</script>")
        return page, _inline_hash(page, "script"), _inline_hash(page, "style")

    async def get(self) -> Response:
        login = self._login()
        page, script, style = self._parts
        connect = "'self'"
        if login is not None:
            page = page.replace(NO_LOGIN, NO_LOGIN.replace("null", html.escape(orjson.dumps(login._asdict()).decode())))
            connect = f"'self' {login.token_origin}"
        policy = (
            f"default-src 'none'; script-src {script}; style-src {style}; connect-src {connect}; img-src data:; "
            "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
        )
        headers = {"cache-control": "no-store", "content-security-policy": policy, "referrer-policy": "no-referrer"}
        return HTMLResponse(page, headers=headers)


def extended(document: dict[str, Any], members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`document` with additional members. Objects are merged, and any other value is replaced."""
    for additions in members:
        document = _merged(document, additions)
    return document


def _merged(document: Mapping[str, Any], additions: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(document)
    for key, value in additions.items():
        value_before = merged.get(key)
        both = isinstance(value_before, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(value_before, value) if both else value  # type: ignore[arg-type]
    return merged


def _operation(place: Described, schemas: Schemas, schemes: Mapping[str, object]) -> dict[str, Any]:
    operation = place.operation
    slug = re.sub(r"\W+", "_", place.path).strip("_")
    described: dict[str, Any] = {
        "operationId": f"{place.method.lower()}_{slug or 'root'}",
        "tags": [_tag(place.path)],
    }
    summary, _, description = operation.docstring.partition("\n")
    if summary:
        described["summary"] = summary.rstrip(".")
    if description.strip():
        described["description"] = description.strip()
    if place.requirement is not None:
        described["security"] = _security(place.requirement, schemes)
    described |= operation.documentation.members
    parameters = _parameters(place, schemas)
    if parameters:
        described["parameters"] = parameters
    body = _request_body(operation, schemas)
    if body is not None:
        described["requestBody"] = body
    described["responses"] = _responses(place, bool(parameters), schemas)
    return described


def _security(requirement: Requirement, schemes: Mapping[str, object]) -> list[dict[str, list[str]]]:
    """An alternative for each scheme. OpenAPI 3.1 allows the names of scopes for every type of scheme."""
    return [] if requirement.is_public else [{name: sorted(requirement.scopes)} for name in schemes]


def _parameters(place: Described, schemas: Schemas) -> list[dict[str, Any]]:
    operation = place.operation
    in_path = {
        parameter.name: parameter
        for parameter in operation.parameters
        if parameter.where in ("path", "query") and not parameter.members
    }
    # A path parameter without an argument, which the method reads from the request, is a string.
    parameters = [
        _parameter("path", name, in_path[name], schemas)
        if name in in_path
        else {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in place.names
    ]
    for parameter in operation.parameters:
        if parameter.where not in ("query", "header", "cookie"):
            continue
        if parameter.members:
            parameters += _group(parameter, schemas)
        elif parameter.where != "query" or parameter.name not in place.names:
            parameters.append(_parameter(parameter.where, parameter.name, parameter, schemas))
    names = {str(parameter["name"]).lower() for parameter in parameters}
    if operation.idempotency is not None and HEADER.lower() not in names:
        schema = {
            "type": "string",
            "maxLength": MAX_KEY_LENGTH,
            "description": "A new value for each request, such as a UUID. Retries with the same value run once.",
        }
        parameters.append(_described_parameter("header", HEADER, schema, required=operation.idempotency.required))
    return parameters


def _parameter(where: str, name: str, parameter: Parameter, schemas: Schemas) -> dict[str, Any]:
    schema = dict(schemas.of(parameter.adapter, "validation"))
    if not (where == "path" or parameter.is_required):
        schema["default"] = TypeAdapter(Any).dump_python(parameter.default, mode="json")
    return _described_parameter(where, name, schema, required=where == "path" or parameter.is_required)


def _group(parameter: Parameter, schemas: Schemas) -> list[dict[str, Any]]:
    """A parameter for each field of a group's model."""
    properties = schemas.resolved(parameter.adapter, "validation").get("properties", {})
    return [
        _described_parameter(parameter.where, member.name, dict(properties[member.key]), required=member.is_required)
        for member in parameter.members
    ]


def _described_parameter(where: str, name: str, schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "in": where, "required": required}
    for member in ("description", "deprecated"):
        if member in schema:
            described[member] = schema.pop(member)
    if where == "header" and schema.get("type") == "array":
        described["style"] = "simple"
    described["schema"] = schema
    return described


def _request_body(operation: Operation, schemas: Schemas) -> dict[str, Any] | None:
    content: dict[str, Any]
    if operation.has_form:
        form = _form(operation, schemas)
        types = ["multipart/form-data"] if operation.has_files else [URL_ENCODED_TYPE, "multipart/form-data"]
        content = {media_type: {"schema": form} for media_type in types}
        required = bool(form.get("required"))
    elif operation.body_is_raw or operation.streams_body:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        required = not operation.body_is_optional
    elif operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.body, "validation")}}
        required = not operation.body_is_optional
    else:
        return None
    examples = operation.documentation.request_examples
    if examples:
        for described in content.values():
            described["examples"] = _examples(examples)
    return {"required": required, "content": content}


def _form(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in operation.parameters:
        if parameter.where != "form":
            continue
        if parameter.members:
            fields = schemas.resolved(parameter.adapter, "validation").get("properties", {})
            properties |= {member.name: fields[member.key] for member in parameter.members}
            required += [member.name for member in parameter.members if member.is_required]
            continue
        schema = dict(schemas.of(parameter.adapter, "validation"))
        if parameter.is_required:
            required.append(parameter.name)
        else:
            schema["default"] = TypeAdapter(Any).dump_python(parameter.default, mode="json")
        properties[parameter.name] = schema
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _responses(place: Described, has_parameters: bool, schemas: Schemas) -> dict[str, dict[str, Any]]:
    operation, requirement = place.operation, place.requirement
    results = operation.results
    success: dict[str, Any] = {"description": phrase(results.status)}
    if results.adapter is not None and results.has_content:
        content: dict[str, Any] = {"schema": schemas.of(results.adapter, "serialization")}
        if operation.documentation.response_examples:
            content["examples"] = _examples(operation.documentation.response_examples)
        success["content"] = dict.fromkeys(("application/json", *operation.encoders), content)
    if results.media_types:
        success["content"] = success.get("content", {}) | {name: {} for name in results.media_types}
    if results.headers:
        success["headers"] = {
            name: {"description": description, "schema": {"type": "string"}}
            for name, description in results.headers.items()
        }
    responses = {str(results.status): success}
    for status, model in results.others.items():
        other: dict[str, Any] = {"description": phrase(status)}
        if model is not None:
            other["content"] = {"application/json": {"schema": schemas.of(model, "serialization")}}
        responses[str(status)] = other
    errors: dict[int, str] = dict(results.errors)
    if operation.has_form:
        errors.setdefault(400, "The form is invalid.")
        errors.setdefault(413, "The form is too large.")
        errors.setdefault(415, "Content-Type is not that of a form, or the body is compressed.")
    elif operation.body_is_raw or operation.streams_body:
        errors.setdefault(413, "The body is too large.")
    elif operation.body is not None:
        errors.setdefault(400, "The body is not valid JSON.")
        errors.setdefault(413, "The body is too large.")
        errors.setdefault(415, "Content-Type is not application/json, or the body is compressed.")
    if (operation.body is not None and not operation.body_is_raw) or operation.has_form or has_parameters:
        errors.setdefault(422, "The request has invalid values; `errors` lists them with the reasons.")
    if requirement is not None and not requirement.is_public:
        errors.setdefault(401, "The credentials are missing or invalid.")
        if requirement.scopes or requirement.roles:
            errors[403] = f"{errors.get(403, '')} The credentials need {requirement}.".strip()
    if place.has_rate_limit:
        errors.setdefault(429, "The caller has sent too many requests; `Retry-After` has the seconds to wait.")
    if operation.idempotency is not None:
        replayed = {
            "description": "`true` if this is the stored response to an earlier request.",
            "schema": {"type": "string"},
        }
        success.setdefault("headers", {})[REPLAYED] = replayed
        errors |= {status: f"{errors.get(status, '')} {text}".strip() for status, text in PROBLEMS.items()}
    for status, description in sorted(errors.items()):
        responses.setdefault(str(status), _problem(description))
    responses["default"] = _problem("Any other error.")
    return responses


def _examples(examples: Mapping[str, Any]) -> dict[str, Any]:
    to_json = TypeAdapter(Any).dump_python
    return {name: {"value": to_json(value, mode="json", by_alias=True)} for name, value in examples.items()}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": REF_TEMPLATE.format(model="Problem")}
    return {"description": description, "content": {PROBLEM_JSON.decode(): {"schema": schema}}}


def _tag(path: str) -> str:
    literals = [part for part in path.split("/") if part and "{" not in part]
    return literals[0] if literals else "root"


def _inline_hash(page: str, element: str) -> str:
    """The hash of the page's only `<element>`, as a CSP source (Content Security Policy Level 3, section 2.3.1)."""
    content = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
