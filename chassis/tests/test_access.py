"""Access: requirements of handlers, routes, groups and mounts, and the guard that checks them."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, WebSocketRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

from chassis import (
    PUBLIC,
    App,
    ChassisSettings,
    Handler,
    Problem,
    Reply,
    Requirement,
    Route,
    SignatureError,
    idempotent,
    public,
    read_write,
    repeatable,
    requires,
)
from chassis.api.access import PRINCIPAL, AccessControl
from chassis.testing import connect, serve

from .support.application import TEST_SETTINGS


@dataclass(frozen=True)
class Someone:
    """A principal with scopes."""

    subject: str
    scopes: frozenset[str]
    scheme: str = "bearer"
    issuer: str = "https://login.example"


class NameGuard:
    """Takes `Authorization: ada orders:read` for ada with that scope. It verifies each name that is in capitals."""

    def admit(self, scope: Scope, requirement: Requirement) -> Awaitable[None] | None:
        values = [value.decode() for name, value in scope["headers"] if name == b"authorization"]
        if not values:
            raise Problem(401, "Who are you?", headers={"www-authenticate": "Name"})
        name, *scopes = values[0].split()
        if name.isupper():
            return self._verify(scope, name, scopes, requirement)
        self._let_in(scope, name, scopes, requirement)
        return None

    async def _verify(self, scope: Scope, name: str, scopes: list[str], requirement: Requirement) -> None:
        self._let_in(scope, name, scopes, requirement)

    def _let_in(self, scope: Scope, name: str, scopes: list[str], requirement: Requirement) -> None:
        scope[PRINCIPAL] = Someone(name, frozenset(scopes))
        if not requirement.scopes <= frozenset(scopes):
            raise Problem(403, f"You need {requirement}.")


CONTROL = AccessControl(NameGuard(), {"name": {"type": "http", "scheme": "name"}})
ADA = {"authorization": "ada"}
READER = {"authorization": "ada orders:read"}
WRITER = {"authorization": "ada orders:read orders:write"}


class NewOrder(BaseModel):
    quantity: int


class Orders(Handler):
    """Each method has its own requirement, or none."""

    async def get(self, limit: int = 1) -> str:
        return "orders"

    @requires(scopes=["orders:write"])
    async def post(self, body: NewOrder) -> str:
        return "ordered"

    @public
    async def delete(self) -> str:
        return "everybody"


@requires(scopes=["orders:read"])
class Reports(Handler):
    """The class has a requirement."""

    async def get(self) -> str:
        return "reports"

    @requires()
    async def put(self) -> str:
        return "put"


class Plain(Handler):
    """Without any requirement."""

    async def get(self) -> str:
        return "plain"

    async def post(self) -> str:
        return "plain"


@public
class Open(Handler):
    """Everybody may ask."""

    async def get(self) -> str:
        return "open"


async def function(request: Request) -> Response:
    """An endpoint of Starlette."""
    return JSONResponse({"method": request.method, "path": request.url.path})


@public
async def open_function(request: Request) -> Response:
    """An endpoint of Starlette that is public."""
    return PlainTextResponse("open")


class Endpoint(HTTPEndpoint):
    """An endpoint of Starlette with a requirement on one method."""

    async def get(self, request: Request) -> Response:
        return PlainTextResponse("got")

    @requires(scopes=["orders:write"])
    async def post(self, request: Request) -> Response:
        return PlainTextResponse("posted")


class OtherRoute(StarletteRoute):
    """A route that does not serve requests as Starlette's do."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("other")(scope, receive, send)


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that serves every method alike."""
    await PlainTextResponse("raw")(scope, receive, send)


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.scope[PRINCIPAL].subject if PRINCIPAL in websocket.scope else "nobody")
    await websocket.close()


def make_app(*, control: AccessControl | None = CONTROL, **settings: Any) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS | settings), name="test-service", version="1")
    if control is not None:
        app.set_access_control(control)
    return app


def everything() -> App:
    """An app with every kind of route."""
    app = make_app(log_level="CRITICAL")
    app.add_route("/orders", Orders())
    app.add_route("/reports", Reports())
    app.add_route("/plain", Plain())
    app.add_route("/open", Open())
    app.add_route("/routes-own", Plain(), requires=read_write("orders:read", "orders:write"))
    app.add_route("/class-wins", Open(), requires=Requirement(scopes=["orders:write"]))
    app.add_route("/half-open", Plain(), requires={"GET": PUBLIC})
    app.add_routes(
        StarletteRoute("/function", function, methods=["GET", "POST", "OPTIONS"]),
        StarletteRoute("/open-function", open_function),
        WebSocketRoute("/echo", echo),
        StarletteRoute("/endpoint", Endpoint),
        OtherRoute("/other-route", function),
        Mount("/mounted", routes=[StarletteRoute("/in", function), Route("/handler", Plain())]),
    )
    app.add_routes(WebSocketRoute("/open-echo", echo), requires=PUBLIC)
    app.mount("/raw", raw)
    app.mount("/open-raw", raw, requires=PUBLIC)
    app.mount("/half-raw", raw, requires={"OPTIONS": PUBLIC, "*": Requirement(scopes=["orders:write"])})
    app.mount("/raw-by-method", raw, requires={"GET": Requirement(scopes=["orders:write"])})
    group = app.group("/v2", requires=Requirement(scopes=["orders:read"]))
    group.add_route("/plain", Plain())
    group.add_route("/orders", Orders())
    group.add_routes(StarletteRoute("/function", function))
    return app


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with connect(everything()) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/orders"),
        ("HEAD", "/orders"),
        ("POST", "/orders"),
        ("GET", "/reports"),
        ("PUT", "/reports"),
        ("GET", "/plain"),
        ("HEAD", "/plain"),
        ("GET", "/routes-own"),
        ("POST", "/half-open"),
        ("GET", "/function"),
        ("HEAD", "/function"),
        ("OPTIONS", "/function"),
        ("GET", "/endpoint"),
        ("GET", "/other-route"),
        ("GET", "/mounted/in"),
        ("GET", "/mounted/handler"),
        ("GET", "/mounted/nothing"),
        ("GET", "/raw/"),
        ("GET", "/raw/below"),
        ("OPTIONS", "/raw/below"),
        ("PROPFIND", "/raw/below"),
        ("PROPFIND", "/half-raw/x"),
        ("GET", "/v2/plain"),
        ("GET", "/v2/function"),
    ],
)
async def test_route_without_credentials_is_denied(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert (await client.request(method, path)).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/orders", 200),
        ("GET", "/open", 200),
        ("HEAD", "/open", 200),
        ("GET", "/class-wins", 200),
        ("GET", "/half-open", 200),
        ("HEAD", "/half-open", 200),
        ("GET", "/open-function", 200),
        ("GET", "/open-raw/x", 200),
        ("OPTIONS", "/half-raw/x", 200),
        ("DELETE", "/v2/orders", 200),
        ("OPTIONS", "/orders", 204),
        ("OPTIONS", "/plain", 204),
        ("PATCH", "/orders", 405),
        ("PUT", "/function", 405),
        ("GET", "/nothing", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/info", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 200),
        ("GET", "/v2/openapi.json", 200),
        ("GET", "/v2/docs", 200),
    ],
)
async def test_public_and_unknown_routes_need_no_credentials(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert (await client.request(method, path)).status_code == status


@pytest.mark.parametrize(
    ("headers", "method", "path", "status"),
    [
        (ADA, "GET", "/orders", 200),
        (ADA, "POST", "/orders", 403),
        (WRITER, "POST", "/orders", 200),
        (ADA, "GET", "/reports", 403),
        (READER, "GET", "/reports", 200),
        (ADA, "PUT", "/reports", 200),
        (ADA, "GET", "/routes-own", 403),
        (READER, "GET", "/routes-own", 200),
        (READER, "HEAD", "/routes-own", 200),
        (READER, "POST", "/routes-own", 403),
        (WRITER, "POST", "/routes-own", 200),
        (ADA, "POST", "/half-open", 200),
        (ADA, "GET", "/function", 200),
        (ADA, "GET", "/endpoint", 200),
        (ADA, "POST", "/endpoint", 403),
        (WRITER, "POST", "/endpoint", 200),
        (ADA, "GET", "/other-route", 200),
        (ADA, "GET", "/mounted/in", 200),
        (ADA, "GET", "/mounted/handler", 200),
        (ADA, "GET", "/mounted/nothing", 404),
        (ADA, "GET", "/raw/x", 200),
        (ADA, "PROPFIND", "/half-raw/x", 403),
        (ADA, "GET", "/raw-by-method/x", 403),
        (ADA, "HEAD", "/raw-by-method/x", 403),
        (ADA, "POST", "/raw-by-method/x", 200),
        (WRITER, "GET", "/half-raw/x", 200),
        (ADA, "GET", "/v2/plain", 403),
        (READER, "GET", "/v2/plain", 200),
        (READER, "POST", "/v2/orders", 403),
        (WRITER, "POST", "/v2/orders", 200),
        (ADA, "GET", "/v2/function", 403),
        (READER, "GET", "/v2/function", 200),
        ({"authorization": "ADA"}, "GET", "/orders", 200),
        ({"authorization": "ADA"}, "POST", "/orders", 403),
        ({"authorization": "ADA"}, "GET", "/raw/x", 200),
    ],
)
async def test_requirement_of_method_class_route_and_group_is_checked_in_this_order(
    client: httpx.AsyncClient, headers: dict[str, str], method: str, path: str, status: int
) -> None:
    content = {"quantity": 1} if path.endswith("/orders") and method == "POST" else None
    response = await client.request(method, path, json=content, headers=headers)
    assert response.status_code == status


async def test_guard_is_asked_before_the_parameters_and_the_body_are_read(client: httpx.AsyncClient) -> None:
    assert (await client.get("/orders?limit=x")).status_code == 401
    assert (await client.get("/orders?limit=x", headers=ADA)).status_code == 422
    assert (await client.post("/orders", content=b"{")).status_code == 401
    assert (await client.post("/orders", content=b"{", headers=ADA)).status_code == 403
    assert (await client.post("/orders", content=b"{", headers=WRITER)).status_code == 415


class Payments(Handler):
    """Counts the payments that were executed."""

    def __init__(self) -> None:
        self.count = 0

    @repeatable
    @idempotent
    async def post(self, request: Request) -> str:
        self.count += 1
        return f"{self.count} of {request.scope[PRINCIPAL].subject}"


async def test_rejected_request_does_not_take_its_idempotency_key() -> None:
    app, key = make_app(), {"idempotency-key": "k1"}
    app.add_route("/payments", payments := Payments())
    async with connect(app) as client:
        assert (await client.post("/payments", headers=key)).status_code == 401
        assert payments.count == 0
        response = await client.post("/payments", headers=key | ADA)
    assert response.json() == "1 of ada"
    assert "idempotency-replayed" not in response.headers


async def test_stored_response_is_replayed_to_the_same_principal_only() -> None:
    app, key = make_app(), {"idempotency-key": "k1"}
    app.add_route("/payments", Payments())
    async with connect(app) as client:
        first = await client.post("/payments", headers=key | ADA)
        # The scopes stand for a renewed token: the header differs, and the principal is the same.
        again = await client.post("/payments", headers=key | READER)
        other = await client.post("/payments", headers=key | {"authorization": "bob"})
        anonymous = await client.post("/payments", headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert other.json() == "2 of bob"
    assert anonymous.status_code == 401


class Labelled:
    """Middleware with a `send` of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-label", b"1")]
            await send(message)

        await self._app(scope, receive, labelled)


@public
class Cached(Handler):
    """Responses with and without caching."""

    @requires()
    async def get(self, kind: str) -> Reply[str]:
        headers = {
            "json": {},
            "etag": {"etag": '"1"'},
            "file": {"content-type": "image/png"},
            "kept": {"cache-control": "max-age=60"},
            "shared": {"cache-control": "public, max-age=60"},
            "kept-varied": {"cache-control": "max-age=60", "vary": "accept"},
        }
        return Reply("x", headers[kind])

    async def put(self) -> Reply[str]:
        return Reply("x", {"etag": '"1"'})


@pytest.mark.parametrize(
    ("kind", "cache_control", "vary"),
    [
        ("json", "no-store", None),
        ("etag", "private, no-cache", None),
        ("file", "private, no-cache", None),
        ("kept", "max-age=60", "authorization, x-api-key"),
        ("kept-varied", "max-age=60", "accept, authorization, x-api-key"),
        ("shared", "public, max-age=60", None),
    ],
)
@pytest.mark.parametrize("middleware", [False, True])
async def test_response_is_not_cached_for_another_principal(
    middleware: bool, kind: str, cache_control: str, vary: str | None
) -> None:
    app = make_app()
    if middleware:
        app.add_middleware(Labelled)
    app.add_route("/cached", Cached())
    async with connect(app) as client:
        response = await client.get("/cached", params={"kind": kind}, headers=ADA)
    assert response.headers.get("cache-control") == cache_control
    assert response.headers.get("vary") == vary


async def test_public_response_with_a_validator_may_be_cached() -> None:
    app = make_app()
    app.add_route("/cached", Cached())
    async with connect(app) as client:
        assert "cache-control" not in (await client.put("/cached")).headers


async def test_preflight_request_of_cors_needs_no_credentials() -> None:
    app = make_app()
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_headers=["authorization"])
    app.add_route("/plain", Plain())
    origin = {"origin": "https://shop.example"}
    asked = origin | {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    async with connect(app) as client:
        preflight = await client.options("/plain", headers=asked)
        denied = await client.get("/plain", headers=origin)
    assert preflight.status_code == 200
    assert (denied.status_code, denied.headers["access-control-allow-origin"]) == (401, "https://shop.example")


async def test_websocket_is_rejected_before_it_is_accepted() -> None:
    async with serve(everything()) as client:
        address = str(client.base_url).replace("http", "ws", 1)
        with pytest.raises(InvalidStatus) as caught:
            await dial(f"{address}/echo", proxy=None)
        async with dial(f"{address}/echo", additional_headers=ADA, proxy=None) as accepted:
            subject = await accepted.recv()
        async with dial(f"{address}/open-echo", proxy=None) as opened:
            nobody = await opened.recv()
    response = caught.value.response
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Name")
    assert b"Who are you?" in (response.body or b"")
    assert (subject, nobody) == ("ada", "nobody")


async def test_method_in_lower_case_needs_the_same_below_a_mount() -> None:
    app, sent = everything(), list[Any]()

    async def receive() -> Mapping[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with connect(app):
        scope = {"type": "http", "method": "get", "path": "/raw-by-method/x", "root_path": "", "query_string": b""}
        await app(scope | {"headers": [(b"authorization", b"ada")]}, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 403  # httpx sends methods in upper case


async def test_websocket_is_rejected_by_a_server_without_denial_responses() -> None:
    app, sent = everything(), list[Any]()

    async def receive() -> Mapping[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with connect(app):
        scope = {"type": "websocket", "path": "/echo", "root_path": "", "headers": [], "query_string": b""}
        await app(scope, receive, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("handler", [Orders(), Reports()])
async def test_requirement_without_authentication_stops_the_start(handler: Handler) -> None:
    app = make_app(control=None)
    app.add_route("/orders", handler)
    with pytest.raises(SignatureError, match=r"^(Orders\.post|Reports\.get) needs the scope .*; call add_auth\(app"):
        async with connect(app):
            pass


@pytest.mark.parametrize("kind", ["route", "group", "mount", "function"])
async def test_requirement_of_a_route_without_authentication_stops_the_start(kind: str) -> None:
    app, needed = make_app(control=None), Requirement(roles=["admin"])
    if kind == "route":
        app.add_route("/x", Plain(), requires={"GET": needed})
    elif kind == "group":
        app.group("/x", requires=needed).add_route("/plain", Plain())
    elif kind == "mount":
        app.mount("/x", raw, requires=needed)
    else:
        app.add_routes(StarletteRoute("/x", requires(roles=["admin"])(lambda request: Response())))
    with pytest.raises(SignatureError, match=r"^/x.* needs the role admin, but no authentication protects it"):
        async with connect(app):
            pass


async def test_public_mark_has_no_effect_without_authentication() -> None:
    app = make_app(control=None)
    app.add_route("/open", Open())
    async with connect(app) as client:
        assert (await client.get("/open")).status_code == 200


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            {"scopes": "orders:read"},
            r"^scopes is 'orders:read', a text; pass a list of names, .*scopes=\['orders:read'\]",
        ),
        ({"roles": "admin"}, r"^roles is 'admin', a text"),
        ({"scopes": ["orders:read orders:write"]}, "^scopes has 'orders:read orders:write'; a scope is one word"),
        ({"scopes": [""]}, "^scopes has ''; a scope is one word"),
        ({"scopes": ['a"b']}, "a scope is one word"),
        ({"scopes": [7]}, "^scopes has 7; a scope is one word"),
        ({"roles": [""]}, "^roles has ''; a role is a text"),
    ],
)
def test_invalid_names_are_rejected(names: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        requires(**names)


def test_two_requirements_of_one_method_are_rejected() -> None:
    with pytest.raises(SignatureError, match=r"handler has two requirements; write one @requires"):

        @public
        @requires(scopes=["orders:read"])
        async def handler() -> None: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"FETCH": PUBLIC}, r"^/x: requires has the method 'FETCH'; use one of GET, POST, .*or '\*'"),
        ({"get": PUBLIC}, "has the method 'get'"),
        ({"HEAD": PUBLIC}, "has the method 'HEAD'"),
        ({"GET": "orders:read"}, r"^/x: requires\['GET'\] is 'orders:read'; pass a Requirement"),
        ("orders:read", "^/x: requires is 'orders:read'; pass a Requirement"),
        ({"OPTIONS": PUBLIC}, "^/x: requires has OPTIONS, which handlers answer without credentials"),
    ],
)
async def test_invalid_requirement_of_a_route_stops_the_start(given: Any, message: str) -> None:
    app = make_app()
    app.add_route("/x", Plain(), requires=given)
    with pytest.raises(SignatureError, match=message):
        async with connect(app):
            pass


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (StarletteRoute("/in", open_function), "^/x/in has @requires or @public, which has no effect below the mount"),
        (Route("/in", Open()), "^/x/in: GET is public, but its mount needs valid credentials"),
    ],
)
async def test_mark_below_a_mount_that_has_no_effect_stops_the_start(route: BaseRoute, message: str) -> None:
    app = make_app()
    app.add_routes(Mount("/x", routes=[route]))
    with pytest.raises(SignatureError, match=message):
        async with connect(app):
            pass


async def test_mark_on_a_method_that_serves_no_requests_stops_the_start() -> None:
    class Echo(WebSocketEndpoint):
        @requires(scopes=["orders:read"])
        async def on_connect(self, websocket: WebSocket) -> None: ...

    app = make_app()
    app.add_routes(WebSocketRoute("/x", Echo))
    with pytest.raises(SignatureError, match=r"^/x: Echo.on_connect has @requires or @public, which has no effect"):
        async with connect(app):
            pass


def test_mark_on_a_method_that_is_not_of_http_is_rejected() -> None:
    class Marked(Plain):
        @requires(scopes=["orders:read"])
        async def save(self) -> None: ...

    with pytest.raises(
        SignatureError, match=r"^Marked.save has @requires or @public, which has an effect on get, post"
    ):
        make_app().add_route("/x", Marked())


async def test_group_alone_is_protected() -> None:
    app = make_app(control=None)
    app.add_route("/plain", Plain())
    group = app.group("/v2")
    group.set_access_control(CONTROL)
    group.add_route("/plain", Plain())
    async with connect(app) as client:
        assert (await client.get("/plain")).status_code == 200
        assert (await client.get("/v2/plain")).status_code == 401
        assert (await client.get("/v2/plain", headers=ADA)).status_code == 200
    assert app.openapi["paths"]["/v2/plain"]["get"]["security"] == [{"name": []}]
    assert "security" not in app.openapi["paths"]["/plain"]["get"]


def test_second_authentication_is_rejected() -> None:
    app = make_app()
    with pytest.raises(ValueError, match="the app has authentication already"):
        app.set_access_control(CONTROL)


async def test_route_that_another_app_uses_stays_protected() -> None:
    route, plain = Route("/handler", Plain()), StarletteRoute("/function", function)
    protected, other = make_app(), make_app(control=None)
    protected.add_routes(route, plain)
    other.add_routes(route, plain)
    async with connect(protected) as client, connect(other) as others:
        assert (await client.get("/handler")).status_code == 401
        assert (await client.get("/function")).status_code == 401
        assert (await others.get("/function")).status_code == 200
        # The handler's route is one object, which keeps its guard.
        assert (await others.get("/handler")).status_code == 401


async def test_openapi_document_has_the_requirement_of_each_operation() -> None:
    document = everything()
    await document.open()
    await document.close()
    openapi = document.openapi
    orders = openapi["paths"]["/orders"]
    assert openapi["components"]["securitySchemes"] == {"name": {"type": "http", "scheme": "name"}}
    assert orders["get"]["security"] == [{"name": []}]
    assert orders["post"]["security"] == [{"name": ["orders:write"]}]
    assert orders["delete"]["security"] == []
    assert openapi["paths"]["/mounted/handler"]["get"]["security"] == [{"name": []}]
    assert openapi["paths"]["/v2/plain"]["get"]["security"] == [{"name": ["orders:read"]}]
    assert {"401", "403"} <= set(orders["post"]["responses"])
    assert "403" not in orders["get"]["responses"]
    assert "401" not in orders["delete"]["responses"]
    assert orders["post"]["responses"]["403"]["description"] == "The credentials need the scope orders:write."
