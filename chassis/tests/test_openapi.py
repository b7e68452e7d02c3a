"""The OpenAPI document matches the signatures."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel, Field, computed_field
from starlette.requests import Request
from starlette.responses import Response

from chassis import Handler, Reply, Route, responds
from chassis.api.openapi import openapi_document

from .support.service import serve


class Size(StrEnum):
    """How big."""

    SMALL = "small"
    LARGE = "large"


class Line(BaseModel):
    """A line."""

    sku: str = Field(min_length=1)
    quantity: int = 1


class Order(BaseModel):
    """An order."""

    lines: list[Line]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return len(self.lines)


class Orders(Handler):
    """All orders."""

    async def get(
        self,
        size: Size,
        limit: Annotated[int, Field(ge=1, le=100, description="How many.")] = 20,
        tag: list[str] | None = None,
    ) -> list[Order]:
        """List orders.

        The newest first,
        and no more than that.
        """
        return []

    @responds(201, {409: "There is one."})
    async def post(self, body: Order) -> Reply[Order]:
        """Create an order."""
        return Reply(body)

    async def patch(self, body: Line | None = None) -> dict[str, Line]:
        return {}


class OrderItem(Handler):
    """One order."""

    async def get(self, order_id: UUID) -> Order:
        return Order(lines=[])

    async def delete(self, order_id: UUID) -> None: ...

    def put(self, request: Request) -> Response:
        return Response()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    routes = [
        Route("/orders", Orders()),
        Route("/orders/{order_id}", OrderItem()),
        Route("/numbers/{order_id:uuid}", OrderItem(), in_openapi=False),
    ]
    return openapi_document(routes, title="Orders", version="1.0", description="Takes orders.")


def test_document_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_document_names_the_service(document: dict[str, Any]) -> None:
    assert document["info"] == {"title": "Orders", "version": "1.0", "description": "Takes orders."}


def test_every_operation_is_in_it(document: dict[str, Any]) -> None:
    assert {path: set(methods) for path, methods in document["paths"].items()} == {
        "/orders": {"get", "post", "patch"},
        "/orders/{order_id}": {"get", "delete", "put"},
    }


def test_docstring_is_summary_and_description(document: dict[str, Any]) -> None:
    operation = document["paths"]["/orders"]["get"]
    assert operation["summary"] == "List orders"
    assert operation["description"] == "The newest first,\nand no more than that."


def test_query_parameters_have_constraints_defaults_and_descriptions(document: dict[str, Any]) -> None:
    size, limit, tag = document["paths"]["/orders"]["get"]["parameters"]
    assert size == {"name": "size", "in": "query", "required": True, "schema": {"$ref": "#/components/schemas/Size"}}
    assert limit == {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "How many.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    }
    assert tag["schema"]["default"] is None


def test_path_parameters_are_required_and_typed(document: dict[str, Any]) -> None:
    (parameter,) = document["paths"]["/orders/{order_id}"]["get"]["parameters"]
    assert parameter == {
        "name": "order_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    }


def test_path_parameter_without_an_argument_is_text(document: dict[str, Any]) -> None:
    (parameter,) = document["paths"]["/orders/{order_id}"]["put"]["parameters"]
    assert parameter["schema"] == {"type": "string"}


def test_body_is_required_unless_it_has_a_default(document: dict[str, Any]) -> None:
    orders = document["paths"]["/orders"]
    assert orders["post"]["requestBody"]["required"] is True
    assert orders["patch"]["requestBody"]["required"] is False


def test_models_are_shared_components_and_differ_by_direction(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    sent = document["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    got = document["paths"]["/orders"]["post"]["responses"]["201"]["content"]["application/json"]["schema"]["$ref"]
    assert sent != got
    assert "total" not in schemas[sent.rpartition("/")[2]]["properties"]
    assert "total" in schemas[got.rpartition("/")[2]]["required"]
    read = document["paths"]["/orders/{order_id}"]["get"]["responses"]["200"]
    assert read["content"]["application/json"]["schema"]["$ref"] == got


def test_responses_are_the_status_the_declared_errors_and_the_usual_ones(document: dict[str, Any]) -> None:
    responses = document["paths"]["/orders"]["post"]["responses"]
    assert list(responses) == ["201", "400", "409", "413", "415", "422", "default"]
    assert responses["201"]["description"] == "Created"
    assert responses["409"]["description"] == "There is one."
    assert responses["409"]["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }


def test_none_is_204_without_content(document: dict[str, Any]) -> None:
    responses = document["paths"]["/orders/{order_id}"]["delete"]["responses"]
    assert "content" not in responses["204"]
    assert "200" not in responses


def test_operations_without_input_have_no_422() -> None:
    class Plain(Handler):
        async def get(self) -> str:
            return ""

    document = openapi_document([Route("/", Plain())], title="t", version="1")
    OpenAPIV31SpecValidator(document).validate()
    assert list(document["paths"]["/"]["get"]["responses"]) == ["200", "default"]


def test_service_without_handlers_has_a_valid_document() -> None:
    OpenAPIV31SpecValidator(openapi_document([], title="t", version="1")).validate()


def test_operation_ids_are_unique() -> None:
    class Plain(Handler):
        async def get(self) -> str:
            return ""

    routes = [Route(path, Plain()) for path in ("/order.lines", "/order-lines", "/order/lines")]
    OpenAPIV31SpecValidator(openapi_document(routes, title="t", version="1")).validate()


async def test_document_is_served(document: dict[str, Any]) -> None:
    async with serve(Route("/orders", Orders())) as service:
        response = await service.client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json()["paths"]["/orders"] == document["paths"]["/orders"]
    assert list(response.json()["paths"]) == ["/orders"]


ANSWERS: list[tuple[Callable[[httpx.AsyncClient], Any], int]] = [
    (lambda client: client.get("/orders?size=small"), 200),
    (lambda client: client.get("/orders?size=medium"), 422),
    (lambda client: client.post("/orders", json={"lines": []}), 201),
    (lambda client: client.post("/orders", content=b"x", headers={"content-type": "application/json"}), 400),
    (lambda client: client.post("/orders", content=b"{}"), 415),
    (lambda client: client.post("/orders", content=b"x" * 200_000), 413),
]


async def test_every_response_is_in_the_document() -> None:
    async with serve(Route("/orders", Orders())) as service:
        document = (await service.client.get("/openapi.json")).json()
        for ask, status in ANSWERS:
            response = await ask(service.client)
            described = document["paths"]["/orders"][response.request.method.lower()]["responses"][str(status)]
            assert response.status_code == status
            assert response.headers["content-type"] in described["content"]
