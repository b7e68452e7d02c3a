"""The documents of another service compared: changes that break its consumers are named."""

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chassis import App, ChassisSettings, Handler
from chassis.client.contract import ContractBrokenError, check_contract
from chassis.client.contract.check import main
from chassis.client.testing.openapi_document import DocumentError
from chassis.testing import serve

Document = dict[str, Any]
ORDER = "#/components/schemas/Order"


def content(schema: Any, media_type: str = "application/json") -> Document:
    """The body of a request or a response."""
    return {"description": "", "content": {media_type: {"schema": schema}}}


def document(**members: Any) -> Document:
    """The document of a service with two operations."""
    responses = {"200": content({"$ref": ORDER}), "404": {"description": ""}, "default": {"description": ""}}
    path_parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
    return {
        "openapi": "3.1.0",
        "info": {},
        "paths": {
            "/orders": {
                "post": {
                    "parameters": [{"name": "dry", "in": "query", "schema": {"type": "boolean"}}],
                    "requestBody": content({"$ref": ORDER}),
                    "responses": {"201": content({"$ref": ORDER}) | {"headers": {"Location": {}}}},
                }
            },
            "/orders/{id}": {"parameters": [path_parameter], "get": {"responses": responses}},
        },
        "components": {
            "schemas": {
                "Order": {
                    "type": "object",
                    "required": ["id"],
                    "properties": {"id": {"type": "integer"}, "note": {"type": "string"}},
                }
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-key"},
                "login": {"type": "oauth2", "flows": {}},
            },
        },
    } | members


def changes(old: Document, new: Document, uses: list[str] | None = None) -> list[str]:
    """The breaking changes, and the warnings behind a word for them."""
    try:
        warnings = check_contract(old, new, uses=uses or [])
    except ContractBrokenError as error:
        return str(error).splitlines()[1:]
    return [f"warning: {change}" for change in warnings]


def changed(change: Callable[[Document], object], uses: list[str] | None = None) -> list[str]:
    """The changes between the document and a copy that was changed."""
    new = document()
    change(new)
    return changes(document(), new, uses)


def of_request(old: Any, new: Any) -> list[str]:
    """The changes of a request with this schema."""
    documents = [document() | {"paths": {"/": {"put": {"requestBody": content(schema)}}}} for schema in (old, new)]
    return [line.replace("PUT /: ", "") for line in changes(documents[0], documents[1])]


def of_response(old: Any, new: Any) -> list[str]:
    """The changes of a response with this schema."""
    documents = [document() | {"paths": {"/": {"get": {"responses": {"200": content(s)}}}}} for s in (old, new)]
    return [line.replace("GET /: ", "") for line in changes(documents[0], documents[1])]


def post(new: Document) -> Document:
    """An operation with a body."""
    operation: Document = new["paths"]["/orders"]["post"]
    return operation


def get(new: Document) -> Document:
    """An operation with a parameter in its path."""
    operation: Document = new["paths"]["/orders/{id}"]["get"]
    return operation


def test_same_document_has_no_changes() -> None:
    assert changes(document(), document()) == []


def test_additions_and_descriptions_break_nothing() -> None:
    new = document(info={"title": "new"})
    new["paths"] = {
        "/prices": {"get": {"parameters": [{"name": "a", "in": "query", "required": True}], "responses": {}}},
        "/orders/{order_id}": new["paths"].pop("/orders/{id}"),
    } | new["paths"]
    new["paths"]["/orders/{order_id}"]["parameters"][0]["name"] = "order_id"
    new["components"]["schemas"]["Order"]["properties"]["more"] = {"type": "string"}
    post(new)["parameters"].append({"name": "trace", "in": "header", "schema": {"type": "string"}})
    post(new)["description"] = "New."
    new["paths"]["/orders/{order_id}"]["get"]["responses"]["410"] = content({"type": "object"})
    assert changes(document(), new) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda new: new["paths"].pop("/orders"), ["POST /orders was removed."]),
        (lambda new: new["paths"]["/orders/{id}"].pop("get"), ["GET /orders/{id} was removed."]),
        (
            lambda new: post(new)["parameters"].append({"name": "X-Tenant", "in": "header", "required": True}),
            ["POST /orders: the header parameter 'X-Tenant' is new and required."],
        ),
        (
            lambda new: post(new)["parameters"][0].update(required=True, schema={"type": "integer"}),
            [
                "POST /orders: the query parameter 'dry' is required now.",
                "POST /orders: the query parameter 'dry' was boolean and is integer now.",
            ],
        ),
        (
            lambda new: post(new)["parameters"][0].update(style="pipeDelimited"),
            ["POST /orders: the query parameter 'dry' is written in another style now."],
        ),
        (
            lambda new: post(new)["parameters"].clear(),
            ["warning: POST /orders: the query parameter 'dry' is no longer described."],
        ),
        (
            lambda new: new["paths"]["/orders/{id}"]["parameters"][0].update(schema={"type": "string"}),
            ["GET /orders/{id}: the path parameter 'id' was integer and is string now."],
        ),
        (
            lambda new: post(new)["requestBody"].update(required=True),
            ["POST /orders: the body of the request is required now."],
        ),
        (
            lambda new: post(new).pop("requestBody"),
            ["POST /orders: the body of the request is no longer accepted."],
        ),
        (
            lambda new: post(new)["requestBody"].update(content({}, "text/csv")),
            ["POST /orders: the body of the request is no longer accepted as application/json."],
        ),
        (
            lambda new: post(new)["responses"]["201"].update(content({}, "text/csv")),
            ["POST /orders: the response 201 is no longer sent as application/json."],
        ),
        (
            lambda new: post(new)["responses"]["201"].pop("headers"),
            ["POST /orders: the header 'Location' of the response 201 was removed."],
        ),
        (
            lambda new: post(new)["responses"].update({"202": post(new)["responses"].pop("201")}),
            ["POST /orders: the response 201 was removed."],
        ),
        (
            lambda new: post(new)["responses"].update({"202": {"description": ""}}),
            ["warning: POST /orders: the response 202 is new."],
        ),
        (
            lambda new: get(new)["responses"].pop("default"),
            ["warning: GET /orders/{id}: the response default was removed."],
        ),
        (lambda new: get(new)["responses"].pop("404"), []),  # the default describes it
        (
            lambda new: post(new).update(security=[{"token": []}]),
            ["POST /orders: the authentication was none and is HTTP bearer now."],
        ),
        (lambda new: new.update(security=[{"key": []}, {}]), []),
    ],
)
def test_changes_of_operations(change: Callable[[Document], object], expected: list[str]) -> None:
    assert changed(change) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([{"token": []}], [{"token": []}, {"key": []}], []),
        ([{"token": []}, {"key": []}], [{"token": []}], ["was the header 'x-key' and is HTTP bearer now"]),
        (
            [{"token": []}],
            [{"token": [], "key": []}],
            ["was HTTP bearer and is HTTP bearer with the header 'x-key' now"],
        ),
        ([{"login": ["read"]}], [{"login": ["read", "write"]}], ["was oauth2 (read) and is oauth2 (read, write) now"]),
        ([{"login": ["read"]}], [{"login": []}], []),
        ([{"key": []}], [], []),
    ],
)
def test_changes_of_the_authentication(old: Any, new: Any, expected: list[str]) -> None:
    documents = [document(security=security) for security in (old, new)]
    keys = ("POST /orders", "GET /orders/{id}")
    assert changes(documents[0], documents[1]) == [
        f"{key}: the authentication {text}." for key in keys for text in expected
    ]


def test_authentication_with_another_name_is_the_same() -> None:
    old, new = document(security=[{"token": []}]), document(security=[{"jwt": []}])
    new["components"]["securitySchemes"]["jwt"] = new["components"]["securitySchemes"].pop("token")
    assert changes(old, new) == []


INTEGER, STRING, NULL = {"type": "integer"}, {"type": "string"}, {"type": "null"}
NULLABLE = {"anyOf": [STRING, NULL]}
A, AB = {"properties": {"a": STRING}}, {"properties": {"a": STRING, "b": STRING}}
A_NEEDED = A | {"required": ["a"]}
CAT = {"title": "Cat", "properties": {"kind": {"const": "cat"}, "lives": INTEGER}, "required": ["kind"]}
DOG = {"title": "Dog", "properties": {"kind": {"const": "dog"}, "legs": INTEGER}, "required": ["kind"]}
BODY, RESPONSE = "the body of the request", "the response 200"


@pytest.mark.parametrize(
    ("old", "new", "in_request", "in_response"),
    [
        (INTEGER, STRING, "was integer and is string now", "was integer and is string now"),
        (INTEGER, {"type": "number"}, None, "was integer and is number now"),
        ({"type": "number"}, INTEGER, "was number and is integer now", None),
        (STRING, NULLABLE, None, "may be null now"),
        (NULLABLE, STRING, "must not be null now", None),
        (STRING, {"type": ["string", "null"]}, None, "may be null now"),
        ({"type": ["string", "null"]}, NULLABLE, None, None),
        (STRING, {}, None, "was string and is any value now"),
        ({}, STRING, "was any value and is string now", None),
        (STRING, {"anyOf": [STRING, INTEGER]}, None, "may now also be integer"),
        ({"anyOf": [STRING, INTEGER]}, STRING, "is no longer accepted as integer", None),
        ({"enum": ["a", "b"]}, {"enum": ["a"]}, "no longer accepts 'b'", None),
        ({"enum": ["a"]}, {"enum": ["a", "b"]}, None, "warning: may be 'b' now"),
        ({"enum": ["a"]}, {"enum": ["b"]}, "was 'a' and is 'b' now", "was 'a' and is 'b' now"),
        (STRING, {"enum": ["a"]}, "accepts only 'a' now", None),
        ({"enum": ["a"]}, STRING, None, "warning: may have other values now than 'a'"),
        (
            STRING,
            STRING | {"format": "uuid"},
            "had the format none and has uuid now",
            None,
        ),
        (
            STRING | {"format": "date"},
            STRING,
            None,
            "had the format date and has none now",
        ),
        (
            STRING | {"maxLength": 9},
            STRING | {"maxLength": 5},
            "allows less: maxLength was 9 and is 5 now",
            None,
        ),
        (
            INTEGER | {"minimum": 1},
            INTEGER,
            None,
            "warning: allows more: minimum was 1 and is not set now",
        ),
        (
            INTEGER | {"minimum": 1},
            INTEGER | {"exclusiveMinimum": 0},
            None,
            "warning: allows more: minimum was 1 and is not set now",
        ),
        (STRING, STRING | {"minLength": 0}, None, None),
        (
            STRING,
            STRING | {"pattern": "^a"},
            "allows less: pattern was not set and is ^a now",
            None,
        ),
        (
            INTEGER | {"multipleOf": 4},
            INTEGER | {"multipleOf": 2},
            None,
            "warning: allows more: multipleOf was 4 and is 2 now",
        ),
        (A, AB, None, None),
        (AB, A, "warning: the member 'b': is no longer described", "the member 'b': was removed"),
        (
            AB,
            A | {"additionalProperties": False},
            "the member 'b': is no longer accepted",
            "the member 'b': was removed",
        ),
        (A, A_NEEDED, "the member 'a': is required now", None),
        (A_NEEDED, A, None, "the member 'a': may be missing now"),
        (A, AB | {"required": ["b"]}, "the member 'b': is new and required", None),
        (
            {"type": "array", "items": {"properties": {"a": {"type": "array", "items": INTEGER}}}},
            {"type": "array", "items": {"properties": {"a": {"type": "array", "items": STRING}}}},
            "the member '[].a[]': was integer and is string now",
            "the member '[].a[]': was integer and is string now",
        ),
        (
            {"additionalProperties": INTEGER},
            {"additionalProperties": STRING},
            "the member '*': was integer and is string now",
            "the member '*': was integer and is string now",
        ),
        (
            {"additionalProperties": INTEGER},
            {"additionalProperties": False},
            "accepts no other members now",
            "the member '*': was removed",
        ),
        (
            {"additionalProperties": INTEGER},
            A | {"additionalProperties": INTEGER},
            None,
            "the member 'a': was integer and is string now",
        ),
        (
            A,
            {"additionalProperties": INTEGER},
            "the member 'a': was string and is integer now",
            "the member 'a': was removed",
        ),
        (
            {"prefixItems": [INTEGER, STRING]},
            {"prefixItems": [INTEGER, INTEGER]},
            "the member '[1]': was string and is integer now",
            "the member '[1]': was string and is integer now",
        ),
        ({"allOf": [A, {"required": ["a"]}]}, A_NEEDED, None, None),
        ({"oneOf": [CAT, DOG]}, {"oneOf": [DOG, CAT]}, None, None),
        ({"oneOf": [DOG, CAT]}, CAT, "the member 'kind': was 'dog' and is 'cat' now", None),
        (
            STRING | {"not": {"const": "a"}},
            STRING,
            "warning: has another 'not', which is not compared",
            "warning: has another 'not', which is not compared",
        ),
    ],
)
def test_changes_of_schemas(old: Any, new: Any, in_request: str | None, in_response: str | None) -> None:
    def lines(text: str | None, subject: str) -> list[str]:
        if text is None:
            return []
        warning, text = ("warning: ", text[9:]) if text.startswith("warning: ") else ("", text)
        member, _, rest = text.rpartition("': ")
        return [f"{warning}{member}' of {subject} {rest}." if member else f"{warning}{subject} {text}."]

    assert of_request(old, new)[:1] == lines(in_request, BODY)
    assert of_response(old, new)[:1] == lines(in_response, RESPONSE)


def test_warnings_are_not_in_the_way_of_breaking_changes() -> None:
    assert of_response({"properties": {"a": {"enum": ["x"]}, "b": STRING}}, {"properties": {"a": STRING}}) == [
        "the member 'b' of the response 200 was removed."
    ]


def test_schemas_that_contain_themselves_are_compared_to_their_end() -> None:
    def tree(leaf: Any) -> Document:
        described = document()
        node = {"$ref": "#/components/schemas/Node"}
        described["components"]["schemas"]["Order"]["properties"]["tree"] = {"anyOf": [node, NULL]}
        described["components"]["schemas"]["Node"] = {
            "properties": {"children": {"type": "array", "items": node}, "leaf": leaf, "next": {"allOf": [node]}}
        }
        return described

    assert changes(tree(INTEGER), tree(INTEGER)) == []
    lines = changes(tree(INTEGER), tree(STRING), ["GET /orders/{id}"])
    assert lines[0] == "GET /orders/{id}: the member 'tree.leaf' of the response 200 was integer and is string now."
    assert len(lines) < 5


def test_members_of_the_other_direction_do_not_count() -> None:
    old = {"properties": {"id": INTEGER | {"readOnly": True}}}
    assert of_request(old, {"properties": {}, "additionalProperties": False}) == []
    assert of_response({"properties": {"key": STRING | {"writeOnly": True}}}, {"properties": {}}) == []


def test_documents_of_both_versions_are_compared() -> None:
    old, new = document(openapi="3.0.3"), document()
    old["components"]["schemas"]["Order"]["properties"]["note"] = {"type": "string", "nullable": True}
    new["components"]["schemas"]["Order"]["properties"]["note"] = {"type": ["string", "null"]}
    assert changes(old, new) == []


def test_only_the_used_operations_count() -> None:
    new = document()
    del new["paths"]["/orders"]
    assert changes(document(), new, ["GET /orders/{order_id}"]) == []
    assert changes(document(), new, ["POST /orders"]) == ["POST /orders was removed."]
    with pytest.raises(ValueError, match=r"has no operation 'GET /prices'; it has POST /orders, GET /orders/\{id\}"):
        changes(document(), new, ["GET /prices"])


def test_large_recursive_documents_are_compared_in_time() -> None:
    names = [f"Node{number}" for number in range(30)]
    references = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    schemas = {name: {"properties": dict(zip(names, references, strict=True)) | {"x": INTEGER}} for name in names}
    old = document() | {"components": {"schemas": schemas}, "paths": {}}
    old["paths"] = {f"/{name}": {"get": {"responses": {"200": content(references[0])}}} for name in names[:5]}
    new = copy.deepcopy(old)
    assert changes(old, new) == []
    new["components"]["schemas"]["Node29"]["properties"]["x"] = STRING
    assert "GET /Node0: the member 'Node29.x' of the response 200 was integer and is string now." in changes(old, new)


class Orders(Handler):
    """A provider."""

    async def get(self, limit: int = 20) -> list[str]:
        return [str(limit)]


async def test_contract_of_a_running_service_is_kept_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = App(ChassisSettings.from_values(), name="orders")
    app.add_route("/orders", Orders())
    contract = tmp_path / "contracts" / "orders.json"
    async with serve(app) as client:
        newest = f"{client.base_url}/openapi.json"

        async def compare(*options: str) -> tuple[int, list[str]]:
            capsys.readouterr()
            status = await asyncio.to_thread(main, [str(contract), newest, *options])
            lines = capsys.readouterr().out.splitlines()
            return status, [line for line in lines if line.startswith(("breaking", str(contract)))]

        assert await compare("--update") == (0, [f"{contract} is {newest} now"])
        assert await compare() == (0, ["breaking changes: 0, warnings: 0"])
        text = contract.read_text()
        contract.write_text(text.replace('"/orders"', '"/orders/all"'))
        assert await compare() == (1, ["breaking: GET /orders/all was removed.", "breaking changes: 1, warnings: 0"])
        assert (await compare("--update"))[0] == 0
        assert contract.read_text() == text


def test_command_ends_with_the_status(tmp_path: Path) -> None:
    for name, described in {"old": document(), "new": document(paths={})}.items():
        (tmp_path / name).write_text(json.dumps(described))
    command = (sys.executable, "-m", "chassis.client.contract", "old", "new", "--uses", "POST /orders")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("breaking: POST /orders was removed.\n")


def test_what_cannot_be_compared_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = tmp_path / "orders.json"
    contract.write_text(json.dumps(document()))
    other = tmp_path / "other.json"
    other.write_text('{"swagger": "2.0"}')
    assert main([str(contract), str(other)]) == 2
    assert main([str(contract), "http://127.0.0.1:1/openapi.json"]) == 2
    assert main([str(contract), str(contract), "--uses", "GET /prices"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {other} is no OpenAPI 3 document: it needs the members openapi (3.x) and paths"
    assert lines[1].startswith("error: http://127.0.0.1:1/openapi.json cannot be read: ")
    assert lines[2].startswith(f"error: {contract} has no operation 'GET /prices'; it has ")
    with pytest.raises(DocumentError):
        check_contract(contract, {"openapi": "2.0"})
