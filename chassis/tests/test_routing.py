"""Which route serves a path, and under which template it is counted."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import Handler, Problem, Route

from .support.service import Service, serve


class Named(Handler):
    """Returns the name of its route."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def get(self, request: Request) -> list[object]:
        return [self._name, request.path_params]

    async def post(self, request: Request) -> None:
        raise Problem(409, "No.")


def function(request: Request) -> PlainTextResponse:
    """A plain Starlette endpoint."""
    return PlainTextResponse(f"function {request.path_params}")


MOUNTED = Starlette(routes=[StarletteRoute("/plain", function), Route("/things/{thing}", Named("mounted"))])

ROUTES: list[BaseRoute] = [
    Route("/", Named("root")),
    Route("/orders/{order_id}", Named("order")),
    Route("/orders/newest", Named("newest")),
    Route("/orders/{order_id}/lines/{line}", Named("line")),
    Route("/{kind}/newest/lines/{line}", Named("any newest line")),
    Route("/items/{item_id:int}", Named("numbered")),
    Route("/items/{name}", Named("named")),
    Route("/files/{path:path}", Named("file")),
    Route("/reports/{year}-{month}.csv", Named("report")),
    StarletteRoute("/function/{name}", function),
    Mount("/mounted", MOUNTED),
    Mount("/group", routes=[Route("/{member}", Named("member"))]),
]


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serve(*ROUTES) as service:
        yield service


@pytest.fixture
def client(service: Service) -> httpx.AsyncClient:
    return service.client


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("/", "root", {}),
        ("/orders/7", "order", {"order_id": "7"}),
        ("/orders/newest", "newest", {}),
        ("/orders/7/lines/1", "line", {"order_id": "7", "line": "1"}),
        ("/orders/newest/lines/1", "line", {"order_id": "newest", "line": "1"}),
        ("/items/newest/lines/1", "any newest line", {"kind": "items", "line": "1"}),
        ("/items/7", "numbered", {"item_id": 7}),
        ("/items/seven", "named", {"name": "seven"}),
        ("/files/a/b/c.txt", "file", {"path": "a/b/c.txt"}),
        ("/files/", "file", {"path": ""}),
        ("/reports/2026-01.csv", "report", {"year": "2026", "month": "01"}),
        ("/mounted/things/x", "mounted", {"thing": "x"}),
        ("/group/x", "member", {"member": "x"}),
    ],
)
async def test_path_finds_its_route(
    client: httpx.AsyncClient, path: str, name: str, parameters: dict[str, object]
) -> None:
    assert (await client.get(path)).json() == [name, parameters]


@pytest.mark.parametrize(
    "path",
    [
        "/none",
        "/orders",
        "/orders/",
        "/orders/7/",
        "/orders//lines/1",
        "/reports/2026",
        "/mounted/none",
        "/group",
    ],
)
async def test_other_paths_are_404(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


async def test_trailing_slash_is_not_redirected(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders/7/")
    assert response.status_code == 404
    assert "location" not in response.headers


async def test_404_is_a_problem_with_the_trace_id(client: httpx.AsyncClient) -> None:
    response = await client.get("/none")
    document = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert {**document, "trace_id": ""} == {"type": "about:blank", "title": "Not Found", "status": 404, "trace_id": ""}
    assert document["trace_id"] == response.headers["x-request-id"]


async def test_function_of_starlette_is_a_route_too(client: httpx.AsyncClient) -> None:
    assert (await client.get("/function/x")).text == "function {'name': 'x'}"


async def test_starlette_application_can_be_mounted(client: httpx.AsyncClient) -> None:
    assert (await client.get("/mounted/plain")).text == "function {}"


async def test_problem_below_a_group_of_routes_is_a_problem(client: httpx.AsyncClient) -> None:
    response = await client.post("/group/x")
    assert (response.status_code, response.json()["detail"]) == (409, "No.")


async def test_problem_in_a_mounted_starlette_application_has_its_status(client: httpx.AsyncClient) -> None:
    assert (await client.post("/mounted/things/x")).status_code == 409


async def test_requests_are_counted_by_template(service: Service) -> None:
    for path in ("/orders/a", "/orders/b", "/files/x", "/group/y", "/mounted/things/z", "/function/f", "/nowhere"):
        await service.client.put(path)
    for template in (
        "/orders/{order_id}",
        "/files/{path}",
        "/group/{member}",
        "/mounted/things/{thing}",
        "/function/{name}",
        "unmatched",
    ):
        counted = await service.sample(
            "http_server_request_duration_seconds_count", http_route=template, http_request_method="PUT"
        )
        assert counted == (2 if template == "/orders/{order_id}" else 1), template


async def test_function_listed_before_a_parameter_wins() -> None:
    async with serve(StarletteRoute("/orders/export", function), Route("/orders/{id}", Named("order"))) as service:
        assert (await service.client.get("/orders/export")).text == "function {}"
        assert (await service.client.get("/orders/7")).json() == ["order", {"id": "7"}]


async def test_mount_listed_before_a_parameter_wins() -> None:
    async with serve(Mount("/files", MOUNTED), Route("/{kind}/{name}", Named("any"))) as service:
        assert (await service.client.get("/files/plain")).text == "function {}"
        assert (await service.client.get("/others/plain")).json() == ["any", {"kind": "others", "name": "plain"}]


async def test_method_that_a_starlette_function_does_not_have_is_405(client: httpx.AsyncClient) -> None:
    response = await client.delete("/function/x")
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert response.headers["content-type"] == "application/problem+json"


async def test_router_finds_each_of_a_thousand_routes() -> None:
    routes = [Route(f"/r{number}/" + "{name}", Named(str(number)), in_openapi=False) for number in range(1000)]
    async with serve(*routes) as service:
        for number in (0, 500, 999):
            assert (await service.client.get(f"/r{number}/x")).json() == [str(number), {"name": "x"}]
        assert (await service.client.get("/r1000/x")).status_code == 404


async def opaque(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with its own type of routes, which changes the path and sets its template, like Litestar."""
    inner = scope["path"].removeprefix(scope["root_path"])
    if inner.startswith("/things/"):
        scope["path_template"] = "/things/{thing}"
    scope["path"] = inner
    scope["path_params"] = {}
    await PlainTextResponse("opaque")(scope, receive, send)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/mounted/none", "/mounted/{path}"),
        ("/group/a/b", "/group/{path}"),
        ("/opaque/a", "/opaque/{path}"),
        ("/opaque/things/1", "/opaque/things/{thing}"),
        ("/tenants/a/things/1", "/tenants/{tenant}/things/{thing}"),
        ("/tenants/a/none", "/tenants/{tenant}/{path}"),
        ("/of/a/opaque/things/1", "/of/{tenant}/opaque/things/{thing}"),
        ("/of/a/opaque/1", "/of/{tenant}/opaque/{path}"),
        ("/deep/x/y/plain", "/deep/{one}/{two}/plain"),
        ("/deep/x/none", "/deep/{one}/{path}"),
    ],
)
async def test_mounted_application_is_counted_by_its_template(path: str, template: str) -> None:
    nested = Mount("/{two}", MOUNTED)
    routes = [
        Mount("/mounted", MOUNTED),
        Mount("/group", routes=[Route("/{member}", Named("member"))]),
        Mount("/opaque", opaque),
        Mount("/tenants/{tenant}", MOUNTED),
        Mount("/of/{tenant}/opaque", opaque),
        Mount("/deep/{one}", routes=[nested]),
    ]
    async with serve(*routes) as service:
        await service.client.get(path)
        (line,) = await service.access_lines(1)
    assert (line["route"], line["path"]) == (template, path)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/numbers/007/things/1", "/numbers/{number}/things/{thing}"),
        ("/numbers/007/none", "/numbers/{number}/{path}"),
        ("/t/t/things/t", "/t/{t}/things/{thing}"),
        ("/t/t/plain", "/t/{t}/plain"),
        ("/t/a%2Fb/plain", "/t/{t}/{path}"),
        ("/t/%7Bx%7D/things/1", "/t/{t}/things/{thing}"),
        ("/files/any/where/plain", "/files/{rest}/plain"),
    ],
)
async def test_template_never_holds_what_the_client_sent(path: str, template: str) -> None:
    routes = [
        Mount("/numbers/{number:int}", MOUNTED),
        Mount("/t/{t}", MOUNTED),
        Mount("/files/{rest:path}", routes=[StarletteRoute("/plain", function)]),
    ]
    async with serve(*routes) as service:
        await service.client.get(path)
        (line,) = await service.access_lines(1)
    assert line["route"] == template


class Rejecting:
    """Responds in place of the app, as authentication, rate limits and CORS do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("no", status_code=401)(scope, receive, send)


class Copying:
    """Hands on a copy of the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(dict(scope), receive, send)


class Foreign:
    """An application with another type of routes."""

    def __init__(self, routes: object) -> None:
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("foreign")(scope, receive, send)


class Linked(Handler):
    """Has the URL of another route."""

    async def get(self, request: Request) -> str:
        return request.url_for("order", order_id="7").path


@pytest.mark.parametrize("foreign", [[object()], {"/": 1}, 5])
async def test_routes_of_another_framework_are_not_changed(foreign: object) -> None:
    routes = [
        Mount("/foreign/{name}", Foreign(foreign)),
        Route("/linked", Linked()),
        Route("/orders/{order_id}", Named("order"), name="order"),
    ]
    async with serve(*routes) as service:
        assert (await service.client.get("/foreign/x/y")).text == "foreign"
        assert (await service.client.get("/linked")).json() == "/orders/7"
        assert set((await service.client.get("/openapi.json")).json()["paths"]) == {"/linked", "/orders/{order_id}"}
        lines = await service.access_lines(3)
    assert lines[0]["route"] == "/foreign/{name}/{path}"


@pytest.mark.parametrize("middleware", [Rejecting, Copying])
@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/orders/7", "/orders/{order_id}"),
        ("/orders/newest", "/orders/newest"),
        ("/items/7", "/items/{item_id}"),
        ("/function/x", "/function/{name}"),
        ("/mounted/things/x", "/mounted/things/{thing}"),
        ("/mounted/none", "/mounted/{path}"),
        ("/group/x", "/group/{member}"),
        ("/none", "unmatched"),
    ],
)
async def test_request_that_middleware_responds_to_has_its_template(
    middleware: Callable[[ASGIApp], ASGIApp], path: str, template: str
) -> None:
    async with serve(*ROUTES, middleware=[Middleware(middleware)]) as service:
        for method in ("GET", "DELETE"):
            await service.client.request(method, path)
        lines = await service.access_lines(2)
        assert [line["route"] for line in lines] == [template] * 2
        count = await service.sample("http_server_request_duration_seconds_count", http_route=template)
        assert count == 2


async def test_preflight_has_the_template_of_its_route() -> None:
    middleware = [Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])]
    async with serve(*ROUTES, middleware=middleware) as service:
        headers = {"origin": "https://shop.example", "access-control-request-method": "POST"}
        assert (await service.client.options("/orders/7", headers=headers)).status_code == 200
        assert (await service.access_line())["route"] == "/orders/{order_id}"
