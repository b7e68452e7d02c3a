"""`FakeService.from_openapi`: another service in tests, as its document describes it."""

import json
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from chassis.client.testing import FakeResponse, FakeService, FakeServiceError, in_turn
from chassis.client.testing.openapi_document import DocumentError
from chassis.client.testing.schema_validation import MissingLibraryError
from chassis.client.transport import Address, ConnectionLostError, OutboundRequest

PRODUCT = {
    "type": "object",
    "required": ["sku", "price"],
    "properties": {
        "sku": {"type": "string", "examples": ["tea"]},
        "price": {"type": "integer", "minimum": 0},
        "added": {"type": "string", "format": "date-time"},
    },
}
PROBLEM = {"type": "object", "required": ["status"], "properties": {"status": {"type": "integer"}}}
PRODUCT_REF = {"$ref": "#/components/schemas/Product"}


def body(schema: Any, media_type: str = "application/json") -> dict[str, Any]:
    """The content of a request or a response."""
    return {"description": "", "content": {media_type: {"schema": schema}}}


def document(**paths: Any) -> dict[str, Any]:
    """A document with these operations, or with those of a catalogue."""
    schemas = {"Product": PRODUCT, "Problem": PROBLEM}
    return {"openapi": "3.1.0", "info": {}, "paths": paths or CATALOGUE, "components": {"schemas": schemas}}


CATALOGUE = {
    "/products": {
        "get": {
            "parameters": [
                {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}},
                {"name": "sku", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                {"name": "x-tenant", "in": "header", "required": True, "schema": {"type": "string"}},
            ],
            "responses": {"200": body({"type": "array", "items": PRODUCT_REF})},
        },
        "post": {
            "requestBody": {"required": True, **body(PRODUCT_REF)},
            "responses": {"201": body(PRODUCT_REF), "4XX": body({"$ref": "#/components/schemas/Problem"}, "a/b+json")},
        },
    },
    "/products/{sku}": {
        "parameters": [{"name": "sku", "in": "path", "required": True, "schema": {"type": "string", "maxLength": 5}}],
        "get": {"responses": {"200": body(PRODUCT_REF), "404": {"description": ""}}},
        "delete": {"responses": {"204": {"description": ""}}},
    },
}


async def ask(service: FakeService, line: str, value: object = None, **headers: str) -> tuple[int, Any]:
    """The status and the body of the response to a request such as `GET /products/tea`."""
    method, _, target = line.partition(" ")
    sent = {"x-tenant": "acme"} | ({} if value is None else {"content-type": "application/json"})
    content = None if value is None else json.dumps(value).encode()
    response = await service.send(OutboundRequest(method, target, sent | headers, content), Address("192.0.2.1", 80))
    received = await response.read(1_000_000)
    return response.status, orjson.loads(received) if received else None


async def failure(service: FakeService, line: str, value: object = None, **headers: str) -> str:
    """The text with which the test fails."""
    with pytest.raises(FakeServiceError) as caught:
        await ask(service, line, value, **headers)
    return str(caught.value)


async def example(schema: Any, version: str = "3.1.0") -> Any:
    """The response of a service whose responses have this schema."""
    described = document(**{"/": {"get": {"responses": {"200": body(schema)}}}}) | {"openapi": version}
    return (await ask(FakeService.from_openapi(described), "GET /"))[1]


async def test_response_is_made_from_the_schema() -> None:
    service = FakeService.from_openapi(document())
    product = {"sku": "tea", "price": 1, "added": "2026-01-01T00:00:00Z"}
    assert await ask(service, "GET /products/tea") == (200, product)
    assert await ask(service, "GET /products?limit=3&sku=tea&sku=cocoa") == (200, [product])
    assert await ask(service, "POST /products", {"sku": "tea", "price": 3}) == (201, product)
    assert await ask(service, "DELETE /products/tea") == (204, None)
    assert service.operations == ["DELETE /products/{sku}", "GET /products", "GET /products/{sku}", "POST /products"]


async def test_example_of_the_document_is_preferred() -> None:
    content = body(PRODUCT_REF)
    content["content"]["application/json"]["examples"] = {"cheap": {"value": {"sku": "salt", "price": 0}}}
    described = document(**{"/": {"get": {"responses": {"200": content}}}})
    assert await ask(FakeService.from_openapi(described), "GET /") == (200, {"sku": "salt", "price": 0})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("GET /orders", "has no such path; its operations: GET /products, POST /products"),
        ("PUT /products", "has only GET, POST at this path"),
        ("GET /products/chocolate", "the path parameter 'sku': 'chocolate' is too long"),
        ("GET /products?limit=1000", "the query parameter 'limit': 1000 is greater than the maximum of 100"),
        ("GET /products?page=2", "there is no query parameter 'page'"),
        ("POST /products", "the body is missing"),
    ],
)
async def test_request_that_is_not_in_the_document_fails_the_test(line: str, reason: str) -> None:
    text = await failure(FakeService.from_openapi(document()), line)
    assert line in text
    assert reason in text


async def test_missing_header_and_wrong_bodies_fail_the_test() -> None:
    service = FakeService.from_openapi(document())
    missing = OutboundRequest("GET", "/products", {})
    with pytest.raises(FakeServiceError, match="the header parameter 'x-tenant' is missing"):
        await service.send(missing, Address("192.0.2.1", 80))
    assert "the body: /price: 'x' is not of type 'integer'" in await failure(
        service, "POST /products", {"sku": "tea", "price": "x"}
    )
    product = {"sku": "tea", "price": 3}
    assert "'text/plain' is not one of application/json" in await failure(
        service, "POST /products", product, **{"content-type": "text/plain"}
    )
    assert "'added'" not in await failure(service, "POST /products", {"sku": "tea"})
    assert "'monday' is not a 'date-time'" in await failure(service, "POST /products", product | {"added": "monday"})
    assert "a body is not expected" in await failure(service, "DELETE /products/tea", product)


async def test_row_replaces_an_operation() -> None:
    rows = {
        "GET /products/{sku}": lambda request: {"sku": request.path_params["sku"], "price": 7},
        "DELETE /products/{sku}": in_turn(ConnectionLostError, FakeResponse(503), FakeResponse(429), None),
    }
    service = FakeService.from_openapi(document(), rows)
    assert await ask(service, "GET /products/cocoa") == (200, {"sku": "cocoa", "price": 7})
    with pytest.raises(ConnectionLostError):
        await ask(service, "DELETE /products/tea")
    assert [(await ask(service, "DELETE /products/tea"))[0] for _ in range(3)] == [503, 429, 204]


async def test_row_with_a_status_alone_gets_the_body_of_the_document() -> None:
    service = FakeService.from_openapi(document(), {"POST /products": FakeResponse(409), "GET /products": None})
    assert await ask(service, "POST /products", {"sku": "tea", "price": 3}) == (409, {"status": 1})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"sku": "tea"}, "'price' is a required property"),
        (FakeResponse(404, {}), "the content type 'application/json' is not one of none"),
        (FakeResponse(202), "202 is not one of its statuses: 200, 404"),
        (FakeResponse(headers={"content-type": "text/html"}, content=b"<p>"), "'text/html' is not one of"),
    ],
)
async def test_row_that_is_not_as_in_the_document_fails_the_test(row: object, reason: str) -> None:
    service = FakeService.from_openapi(document(), {"GET /products/{sku}": row})
    assert reason in await failure(service, "GET /products/tea")
    with pytest.raises(FakeServiceError):
        service.check()


def test_row_of_no_operation_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the row 'GET /prices' is no operation: .* has no such path"):
        FakeService.from_openapi(document(), {"GET /prices": 3})


async def test_path_of_the_server_may_be_in_the_request() -> None:
    described = document() | {"servers": [{"url": "https://catalogue.example/v1/"}]}
    service = FakeService.from_openapi(described, {"DELETE /products/{sku}": FakeResponse(500)})
    assert (await ask(service, "GET /v1/products/tea"))[0] == 200
    assert (await ask(service, "DELETE /v1/products/tea"))[0] == 500


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "enum": ["small", "large"]}, "small"),
        ({"const": 7}, 7),
        ({"type": ["null", "integer"], "exclusiveMinimum": 7}, 8),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
        ({"type": "number", "exclusiveMaximum": 0}, -0.5),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": "string", "minLength": 8, "maxLength": 9}, "TEXTTEXT"),
        ({"type": "string", "pattern": "^[A-Z]{3}$"}, "EUR"),
        ({"type": "string", "format": "email"}, "name@example.com"),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
        ({"oneOf": [PRODUCT_REF, {"type": "string"}]}, {"sku": "tea", "price": 1, "added": "2026-01-01T00:00:00Z"}),
        (
            {"allOf": [{"required": ["a"], "properties": {"a": {"type": "integer"}}}, {"properties": {"b": {}}}]},
            {"a": 1, "b": "string"},
        ),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [1, 2, 3]),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [1, "string"]),
        ({"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}}, {"name-1": 1}),
    ],
)
async def test_examples_of_schemas(schema: Any, expected: object) -> None:
    assert await example(schema) == expected


async def test_schemas_of_openapi_30_are_understood() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": 3, "exclusiveMinimum": True, "nullable": True},
            "b": {"type": "string", "example": "bee"},
            "nullable": {"type": "boolean"},
        },
    }
    assert await example(schema, "3.0.3") == {"a": 4, "b": "bee", "nullable": True}
    described = document(**{"/": {"get": {"responses": {"200": body(schema)}}}}) | {"openapi": "3.0.3"}
    assert await ask(FakeService.from_openapi(described, {"GET /": {"a": None}}), "GET /") == (200, {"a": None})


async def test_members_of_one_direction_are_not_in_the_other() -> None:
    user = {
        "type": "object",
        "required": ["id", "password"],
        "properties": {"id": {"type": "integer", "readOnly": True}, "password": {"type": "string", "writeOnly": True}},
    }
    post = {"requestBody": body(user), "responses": {"200": body(user)}}
    service = FakeService.from_openapi(document(**{"/": {"post": post}}))
    assert await ask(service, "POST /", {"password": "secret"}) == (200, {"id": 1})


async def test_recursion_ends() -> None:
    node = {"$ref": "#/components/schemas/Node"}
    described = document(**{"/": {"get": {"responses": {"200": body(node)}}}})
    described["components"]["schemas"]["Node"] = {
        "type": "object",
        "required": ["name", "children", "parent"],
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": node},
            "parent": {"anyOf": [node, {"type": "null"}]},
            "next": {"allOf": [node]},
        },
    }
    tree: dict[str, Any] = {"name": "string", "children": [], "parent": None}
    assert await ask(FakeService.from_openapi(described), "GET /") == (200, tree)
    described["components"]["schemas"]["Node"]["properties"]["parent"] = node
    assert "contains itself without an end" in await failure(FakeService.from_openapi(described), "GET /")


async def test_schema_without_an_example_fails_the_test() -> None:
    described = document(**{"/": {"get": {"responses": {"200": body({"type": "string", "pattern": "^x{7}y$"})}}}})
    assert "add an example to the document" in await failure(FakeService.from_openapi(described), "GET /")
    described = document(**{"/": {"get": {"responses": {"200": body({"type": "integer", "not": {}})}}}})
    assert "the example 1 is not valid" in await failure(FakeService.from_openapi(described), "GET /")


def test_document_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps(document()))
    FakeService.from_openapi(path)
    FakeService.from_openapi(str(path))
    path.write_text("{")
    with pytest.raises(DocumentError, match=r"catalogue\.json is not JSON"):
        FakeService.from_openapi(path)
    with pytest.raises(DocumentError, match=r"missing\.json cannot be read"):
        FakeService.from_openapi(tmp_path / "missing.json")


@pytest.mark.parametrize("value", [{"swagger": "2.0", "paths": {}}, {"openapi": "3.1.0"}, {"openapi": 3}])
def test_other_documents_are_an_error(value: Any) -> None:
    with pytest.raises(DocumentError, match=r"it needs the members openapi \(3\.x\) and paths"):
        FakeService.from_openapi(value)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/components/schemas/Nothing"}, "leads to nothing"),
        ({"$ref": "other.json#/Product"}, "leads out of the document"),
        ({"$ref": "#/components/schemas/Loop"}, "leads to itself"),
        ({"$ref": "#/components/schemas/All"}, "are in each other's allOf"),
    ],
)
async def test_references_that_lead_nowhere_are_an_error(schema: Any, reason: str) -> None:
    described = document(**{"/": {"get": {"responses": {"200": body(schema)}}}})
    described["components"]["schemas"] |= {
        "Loop": {"$ref": "#/components/schemas/Loop"},
        "All": {"allOf": [{"$ref": "#/components/schemas/All"}]},
    }
    with pytest.raises(DocumentError, match=reason):
        await ask(FakeService.from_openapi(described), "GET /")


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(MissingLibraryError, match="uv add --dev jsonschema"):
        FakeService.from_openapi(document())
