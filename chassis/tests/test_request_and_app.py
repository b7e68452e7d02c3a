"""Features of a request that users of Starlette expect: its app, URLs of named routes, mounts, a root path."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import Handler, Route
from chassis.api.routing import Router
from chassis.health import State

from .support.application import make_app
from .support.service import Service, observed, serve


class Item(Handler):
    """An item, and where it is."""

    async def get(self, item_id: int, request: Request) -> str:
        return str(request.url_for("Item", item_id=item_id + 1))

    async def post(self, item_id: int, request: Request) -> list[str]:
        names = [request.url_for("things:Thing", tenant="a", thing="b"), request.url_for("plain:function")]
        return [str(name) for name in names]

    async def put(self, item_id: int, request: Request) -> Any:
        return [request.app.state.answer, request.app.url_path_for("Item", item_id=7)]


class Thing(Handler):
    """Is below a mount that has a parameter."""

    async def get(self, tenant: int, thing: str, limit: int = 1) -> list[Any]:
        return [tenant, thing, limit]

    async def post(self, request: Request) -> dict[str, Any]:
        return dict(request.path_params)


class Listing(Handler):
    """Has no parameter of its own."""

    async def get(self, tenant: str) -> str:
        return tenant


def function(request: Request) -> Response:
    """An endpoint of Starlette."""
    return PlainTextResponse(str(request.url_for("Item", item_id=1)))


class Naming(BaseHTTPMiddleware):
    """Uses the app before the router has seen the request."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-answer"] = str(request.app.state.answer)
        return response


THINGS = [Route("/things/{thing}", Thing()), Route("/list", Listing())]
ROUTES = [
    Route("/items/{item_id}", Item()),
    Mount("/t/{tenant}", routes=THINGS, name="things"),
    Mount("/r/{tenant}", app=Router(THINGS)),
    Mount("/plain", app=Starlette(routes=[StarletteRoute("/function", function)]), name="plain"),
]


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serve(*ROUTES, middleware=[Middleware(Naming)]) as service:
        service.app.state.answer = 42
        yield service


@pytest.fixture
def client(service: Service) -> httpx.AsyncClient:
    return service.client


async def test_urls_of_named_routes_can_be_made(client: httpx.AsyncClient) -> None:
    base = str(client.base_url).rstrip("/")
    assert (await client.get("/items/1")).json() == f"{base}/items/2"
    assert (await client.post("/items/1")).json() == [f"{base}/t/a/things/b", f"{base}/plain/function"]


async def test_state_of_the_app_is_found_by_handlers_and_middleware(client: httpx.AsyncClient) -> None:
    response = await client.put("/items/1")
    assert response.json() == [42, "/items/7"]
    assert response.headers["x-answer"] == "42"


@pytest.mark.parametrize("prefix", ["/t", "/r"])
async def test_parameters_of_a_mount_are_parameters_of_its_handlers(client: httpx.AsyncClient, prefix: str) -> None:
    assert (await client.get(f"{prefix}/7/things/x?limit=2")).json() == [7, "x", 2]
    assert (await client.post(f"{prefix}/7/things/x")).json() == {"tenant": "7", "thing": "x"}
    assert (await client.get(f"{prefix}/7/list")).json() == "7"


async def test_query_cannot_replace_a_parameter_of_a_mount(client: httpx.AsyncClient) -> None:
    assert (await client.get("/t/7/list?tenant=8")).json() == "7"


async def test_wrong_parameter_of_a_mount_is_in_the_path(client: httpx.AsyncClient) -> None:
    (error,) = (await client.get("/t/seven/things/x")).json()["errors"]
    assert (error["in"], error["name"]) == ("path", "tenant")


async def test_mounted_handlers_are_in_the_document_with_their_prefix(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(document).validate()
    paths = document["paths"]
    assert set(paths) == {
        "/items/{item_id}",
        "/t/{tenant}/things/{thing}",
        "/t/{tenant}/list",
        "/r/{tenant}/things/{thing}",
        "/r/{tenant}/list",
    }
    parameters = paths["/t/{tenant}/things/{thing}"]["get"]["parameters"]
    assert [(one["in"], one["name"], one["required"]) for one in parameters] == [
        ("path", "tenant", True),
        ("path", "thing", True),
        ("query", "limit", False),
    ]
    assert parameters[0]["schema"] == {"type": "integer"}


class Prefixed:
    """Like a server with a root path: the request's path may include the prefix or not."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "root_path": "/api"}, receive, send)


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_root_path_is_in_urls_and_in_the_document(prefix: str) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, *ROUTES, Route("/apiary", Listing(), name="other"), middleware=[])
        app.health.state = State.READY
        transport = httpx.ASGITransport(app=Prefixed(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get(f"{prefix}/items/1")).json() == "http://test/api/items/2"
            assert (await client.get(f"{prefix}/t/7/list")).json() == "7"
            assert (await client.get("/apiary?tenant=a")).json() == "a"
            document = (await client.get(f"{prefix}/openapi.json")).json()
            assert document["servers"] == [{"url": "/api"}]
            assert (await client.get(f"{prefix}/docs")).status_code == 200


async def test_document_without_a_root_path_names_no_server(client: httpx.AsyncClient) -> None:
    assert "servers" not in (await client.get("/openapi.json")).json()
