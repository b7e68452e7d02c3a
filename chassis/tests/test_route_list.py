"""The list of an app's routes: handlers, other routes, mounts and groups, with what they need and allow."""

from typing import Annotated

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Router, WebSocketRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from chassis import App, ChassisSettings, Handler, Query, RateLimit, Requirement, public
from chassis.api.access import PUBLIC, AccessControl
from chassis.api.errors import SignatureError
from chassis.api.route_list import ListedRoute, routes_of

from .support.application import TEST_SETTINGS

SETTINGS = ChassisSettings.from_values(**TEST_SETTINGS)


class Orders(Handler):
    """Orders."""

    async def get(self, limit: int = 3) -> int:
        return limit

    async def post(self) -> None: ...


class Prices(Handler):
    """Prices."""

    @public
    async def get(self) -> int:
        return 1

    async def put(self) -> None: ...


class Door:
    """Lets everybody in."""

    def admit(self, scope: Scope, requirement: Requirement) -> None: ...


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def talk(websocket: WebSocket) -> None: ...


async def anything(scope: Scope, receive: Receive, send: Send) -> None: ...


def listed(app: App) -> dict[tuple[str, str], ListedRoute]:
    """The routes by method and path, without the documentation."""
    routes = routes_of(app)
    return {(one.method, one.path): one for one in routes if not one.path.endswith(("/docs", "/openapi.json"))}


def test_each_method_of_a_handler_is_listed_with_its_limits() -> None:
    app = App(SETTINGS)
    limits = {"POST": RateLimit(10, 60)}
    app.add_route("/orders", Orders(), deadline_seconds=5, max_body_bytes=7, sheds_load=False, rate_limit=limits)
    assert routes_of(app)[:2] == [
        ListedRoute("GET", "/orders", "Orders", f"{__name__}.Orders.get", None, (), 5, 7, False),
        ListedRoute(
            "POST", "/orders", "Orders", f"{__name__}.Orders.post", None, ("POST /orders: 10 in 60 s",), 5, 7, False
        ),
    ]


def test_documentation_is_listed() -> None:
    assert [route.path for route in routes_of(App(SETTINGS))] == ["/openapi.json", "/docs"]


def test_routes_of_starlette_and_websockets_are_listed() -> None:
    app = App(SETTINGS)
    app.add_routes(StarletteRoute("/hello", hello, methods=["GET", "POST"], name="greet"), WebSocketRoute("/ws", talk))
    routes = listed(app)
    assert [*routes] == [("GET", "/hello"), ("POST", "/hello"), ("WEBSOCKET", "/ws")]
    assert (routes["GET", "/hello"].name, routes["GET", "/hello"].handler) == ("greet", f"{__name__}.hello")


def test_routes_below_mounts_and_hosts_have_their_whole_path() -> None:
    app = App(SETTINGS)
    inner = Router([StarletteRoute("/hello", hello), Mount("/deep", routes=[StarletteRoute("/{name}", hello)])])
    app.mount("/theirs", Starlette(routes=inner.routes))
    app.mount("/opaque", anything)
    app.add_routes(Host("api.example", inner))
    assert [*listed(app)] == [
        ("GET", "/theirs/hello"),
        ("GET", "/theirs/deep/{name}"),
        ("*", "/opaque/*"),
        ("GET", "//api.example/hello"),
        ("GET", "//api.example/deep/{name}"),
    ]


def test_routes_of_a_group_are_listed_once_with_its_limit() -> None:
    app = App(SETTINGS)
    group = app.group("/v2", rate_limit=RateLimit(5, 1, burst=9))
    group.add_route("/orders", Orders(), rate_limit=RateLimit(1, 1))
    group.add_routes(StarletteRoute("/hello", hello))
    routes = listed(app)
    assert [*routes] == [("GET", "/v2/orders"), ("POST", "/v2/orders"), ("GET", "/v2/hello")]
    assert routes["GET", "/v2/orders"].rate_limits == ("/v2/orders: 1 in 1 s", "/v2/*: 5 in 1 s, 9 at once")
    assert routes["GET", "/v2/hello"].rate_limits == ("/v2/*: 5 in 1 s, 9 at once",)


def test_requirements_are_those_that_the_guard_asks() -> None:
    app = App(SETTINGS)
    app.set_access_control(AccessControl(Door(), {}))
    app.add_route("/orders", Orders(), requires={"POST": Requirement(scopes=["orders:write"])})
    app.add_route("/prices", Prices(), requires=Requirement(roles=["seller"]))
    app.add_routes(StarletteRoute("/hello", hello), requires=PUBLIC)
    app.mount("/opaque", anything, requires={"GET": PUBLIC})
    app.mount("/theirs", Starlette(routes=[StarletteRoute("/hello", hello)]), requires=Requirement(roles=["guest"]))
    app.group("/v2", requires=Requirement(roles=["tester"])).add_routes(WebSocketRoute("/ws", talk))
    assert {place: route.requires for place, route in listed(app).items()} == {
        ("GET", "/orders"): "valid credentials",
        ("POST", "/orders"): "the scope orders:write",
        ("GET", "/prices"): "no credentials",
        ("PUT", "/prices"): "the role seller",
        ("GET", "/hello"): "no credentials",
        ("GET", "/opaque/*"): "no credentials",
        ("*", "/opaque/*"): "valid credentials",
        ("GET", "/theirs/hello"): "the role guest",
        ("WEBSOCKET", "/v2/ws"): "the role tester",
    }


def test_route_is_a_json_document() -> None:
    app = App(SETTINGS)
    app.add_route("/orders", Orders(), rate_limit=RateLimit(10, 60))
    assert routes_of(app)[0].document() == {
        "method": "GET",
        "path": "/orders",
        "name": "Orders",
        "handler": f"{__name__}.Orders.get",
        "requires": None,
        "rate_limits": ("/orders: 10 in 60 s",),
        "deadline_seconds": None,
        "max_body_bytes": None,
        "sheds_load": True,
    }


def test_handler_without_a_provider_is_rejected() -> None:
    class Store:
        """It is not provided."""

    class Items(Handler):
        """Items."""

        async def get(self, store: Store, limit: Annotated[int, Query()] = 1) -> None: ...

    app = App(SETTINGS)
    app.add_route("/items", Items())
    with pytest.raises(SignatureError, match="Store"):
        routes_of(app)
