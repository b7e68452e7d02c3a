"""Rate limits: the bucket, the callers, the responses, and a store that fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

from chassis import App, ChassisSettings, Handler, Quota, RateLimit, Requirement, SignatureError, public
from chassis.api import rate_limiter
from chassis.api.access import AccessControl
from chassis.api.rate_limit import Networks
from chassis.api.rate_limiter import MemoryRateLimits, RateLimiter
from chassis.testing import connect, record, serve

from .support.application import TEST_SETTINGS
from .test_access import CONTROL, NameGuard

SECOND = 1_000_000_000
TWO = {"rate_limit_requests": 2, "rate_limit_seconds": 60}


class Items(Handler):
    async def get(self, limit: int = 1) -> list[int]:
        return [limit]

    async def post(self) -> str:
        return "made"


class Everybody(Handler):
    @public
    async def get(self) -> str:
        return "everybody"


def make(**settings: Any) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS | settings), name="items", version="1")
    app.add_route("/items", Items())
    return app


async def statuses(client: httpx.AsyncClient, number: int, path: str = "/items", **options: Any) -> list[int]:
    return [(await client.get(path, **options)).status_code for _ in range(number)]


# The bucket.


@given(
    requests=st.integers(1, 50),
    seconds=st.floats(0.001, 1000),
    burst=st.one_of(st.none(), st.integers(1, 50)),
    pauses=st.lists(st.integers(0, 100 * SECOND) | st.integers(0, SECOND // 100), min_size=1, max_size=150),
)
def test_caller_never_gets_more_than_the_burst_and_the_rate_in_any_time(
    requests: int, seconds: float, burst: int | None, pauses: list[int]
) -> None:
    limit = RateLimit(requests, seconds, burst, name="test")
    now = 0
    memory = MemoryRateLimits(clock=lambda: now)
    served: list[int] = []
    for pause in pauses:
        now += pause
        quota = memory.take(limit, "ada")
        if quota.is_allowed:
            served.append(now)
        else:
            # After the wait in the response, the caller gets a token.
            returned = now + int(quota.seconds * SECOND) + 1000
            other = MemoryRateLimits(clock=partial(int, returned))
            other._full_at.update(memory._full_at)
            assert other.take(limit, "ada").is_allowed
    for first, began in enumerate(served):
        for count, ended in enumerate(served[first:], 1):
            assert count <= limit.capacity + requests * ((ended - began) / SECOND) / seconds + 1e-9


def test_caller_who_waits_gets_all_that_the_limit_allows() -> None:
    now = 0
    memory = MemoryRateLimits(clock=lambda: now)
    limit = RateLimit(3, 1, name="test")
    taken = [memory.take(limit, "ada") for _ in range(4)]
    assert [(quota.is_allowed, quota.remaining) for quota in taken] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert taken[3].seconds == pytest.approx(1 / 3, abs=1e-6)
    now = 2 * SECOND
    assert [memory.take(limit, "ada").is_allowed for _ in range(4)] == [True, True, True, False]


def test_memory_holds_a_bounded_number_of_callers_and_keeps_the_busy_one() -> None:
    memory = MemoryRateLimits(max_callers=100)
    limit = RateLimit(20, 3600, name="test")
    allowed = 0
    for number in range(5_000):
        assert memory.take(limit, f"caller {number}").is_allowed  # a flood of callers rejects nobody
        if number % 50 == 0:
            allowed += memory.take(limit, "busy").is_allowed
    assert len(memory) == 100
    assert allowed == 20


@pytest.mark.parametrize(
    ("client", "caller"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::9", 5), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5), "fe80::/64"),
        (("::ffff:192.0.2.1", 5), "192.0.2.1"),
        (("no:address", 5), "unknown"),
        (("", 0), "unknown"),
        (None, "unknown"),
    ],
)
def test_caller_without_a_principal_is_the_address(client: object, caller: str) -> None:
    assert Networks().caller_of({"client": client}) == caller


def test_long_name_of_a_caller_is_kept_as_a_hash() -> None:
    counter = Counter("a", "b", ["policy"], registry=CollectorRegistry())
    memory = MemoryRateLimits()
    limiter = RateLimiter(rejected=counter, store_failures=counter, memory=memory, caller_of=lambda _: "\udcffx" * 9999)
    limiter.take([RateLimit(1, 1, name="test")], {})
    ((_, caller),) = memory._full_at
    assert len(caller) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "requests=0"),
        ((1.5, 1), "requests=1.5"),
        ((1, 0), "seconds=0"),
        ((1, 1, 0), "burst=0"),
        ((1, 1, None, "naïve"), "name='naïve'"),
        ((1, 1, None, "a\nb"), "name='a"),
    ],
)
def test_impossible_limit_is_rejected(arguments: Any, message: str) -> None:
    with pytest.raises(SignatureError, match=message):
        RateLimit(*arguments)


# Over HTTP.


async def test_caller_beyond_the_limit_gets_429_and_the_time_to_wait() -> None:
    app = make(**TWO)
    with record(app) as records:
        async with serve(app) as client:
            first, second, third = [await client.get("/items") for _ in range(3)]
            assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
            for response in (first, second, third):
                assert response.headers["ratelimit-policy"] == '"default";q=2;w=60'
                assert "x-request-id" in response.headers
            assert first.headers["ratelimit"] == '"default";r=1;t=30'
            assert second.headers["ratelimit"] == '"default";r=0;t=30'
            assert third.headers["ratelimit"] == '"default";r=0;t=30'
            assert (third.headers["retry-after"], third.headers["content-type"]) == ("30", "application/problem+json")
            document = third.json()
            assert document["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
            assert document["violated-policies"] == ["default"]
            assert document["detail"] == "The limit default allows 2 requests in 60 seconds; retry later."
            metrics = (await client.get("/metrics")).text
            assert 'http_server_rate_limited_requests_total{policy="default"} 1.0' in metrics
        lines = [line for line in records.lines if line.get("path") == "/items"]
        assert [line["status"] for line in lines] == [200, 200, 429]


async def test_error_of_a_handler_has_the_fields_too() -> None:
    async with serve(make(**TWO)) as client:
        response = await client.get("/items?limit=x")
        assert (response.status_code, response.headers["ratelimit"]) == (422, '"default";r=1;t=30')


async def test_middleware_sees_the_fields_and_the_rejections() -> None:
    seen: list[tuple[int, bool]] = []

    class Seeing:
        def __init__(self, app: Any) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def see(message: Any) -> None:
                if message["type"] == "http.response.start":
                    seen.append((message["status"], b"ratelimit" in dict(message["headers"])))
                await send(message)

            await self._app(scope, receive, see)

    app = make(**TWO)
    app.add_middleware(Seeing)
    async with serve(app) as client:
        await statuses(client, 2)
        await client.get("/items?limit=x")
    assert seen == [(200, True), (200, True), (429, True)]


async def test_endpoints_for_operation_and_the_documentation_are_not_limited() -> None:
    async with serve(make(rate_limit_requests=1)) as client:
        assert await statuses(client, 2) == [200, 429]
        for path in ("/healthz", "/readyz", "/metrics", "/info", "/openapi.json", "/docs"):
            assert await statuses(client, 3, path) == [200] * 3
        assert (await client.options("/items")).status_code == 204
        assert (await client.get("/none")).status_code == 404


async def test_client_behind_a_trusted_proxy_is_its_forwarded_address() -> None:
    async with serve(make(rate_limit_requests=1, trusted_proxies=("127.0.0.1",))) as client:
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            assert await statuses(client, 2, headers={"x-forwarded-for": address}) == [200, 429]
        assert await statuses(client, 1, headers={"x-forwarded-for": "2001:db8::2"}) == [429]
    async with serve(make(rate_limit_requests=1)) as client:
        forged = [{"x-forwarded-for": address} for address in ("192.0.2.1", "192.0.2.2")]
        assert [await statuses(client, 1, headers=headers) for headers in forged] == [[200], [429]]


async def test_route_and_group_have_limits_beside_that_of_the_service() -> None:
    app = make(rate_limit_requests=100)
    app.add_route("/reports/{name}", Reports(), rate_limit=RateLimit(2, 60))
    app.add_route("/orders", Items(), rate_limit={"POST": RateLimit(1, 60), "*": RateLimit(3, 60, name="reads")})
    group = app.group("/v2", rate_limit=RateLimit(4, 60, name="v2"))
    group.add_route("/a", Items())
    group.add_route("/b", Items(), rate_limit=RateLimit(1, 1, burst=2))
    async with serve(app) as client:
        response = await client.get("/reports/1")
        assert response.headers["ratelimit-policy"] == '"/reports/{name}";q=2;w=60, "default";q=100;w=60'
        assert response.headers["ratelimit"] == '"/reports/{name}";r=1;t=30, "default";r=99;t=1'
        assert await statuses(client, 2, "/reports/2") == [200, 429]
        assert [(await client.post("/orders")).status_code for _ in range(2)] == [200, 429]
        assert await statuses(client, 4, "/orders") == [200, 200, 200, 429]
        assert await statuses(client, 2, "/v2/a") == [200, 200]
        response = await client.get("/v2/b")
        assert response.headers["ratelimit-policy"] == '"/v2/b";q=2;w=2, "v2";q=4;w=60, "default";q=100;w=60'
        assert await statuses(client, 2, "/v2/b") == [200, 429]
        assert await statuses(client, 1, "/v2/a") == [429]
        document = (await client.get("/openapi.json")).json()
        assert "429" in document["paths"]["/reports/{name}"]["get"]["responses"]
        assert "429" in document["paths"]["/v2/a"]["get"]["responses"]


class Reports(Handler):
    async def get(self, name: str) -> str:
        return name


async def test_only_limited_operations_document_429() -> None:
    app = make()
    app.add_route("/orders", Items(), rate_limit={"POST": RateLimit(1, 60)})
    async with connect(app) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert "429" in paths["/orders"]["post"]["responses"]
        assert "429" not in paths["/orders"]["get"]["responses"]
        assert "ratelimit" not in (await client.get("/orders")).headers


async def test_routes_with_the_same_limit_share_it() -> None:
    app = make()
    search = RateLimit(2, 60, name="search")
    app.add_route("/a", Items(), rate_limit=search)
    app.add_route("/b", Items(), rate_limit=search)
    async with connect(app) as client:
        assert [await statuses(client, 1, path) for path in ("/a", "/b", "/a", "/b")] == [[200], [200], [429], [429]]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"GETS": RateLimit(1, 1)}, "rate_limit has 'GETS'"),
        ({"DELETE": RateLimit(1, 1)}, "the handler has no such method; use one of GET, POST, or"),
        ({"GET": 5}, "rate_limit has 'GET': 5"),
        (5, "rate_limit is 5"),
        (RateLimit(1, 1, name="default"), "two rate limits have the name 'default'"),
    ],
)
def test_limit_that_cannot_work_stops_the_start(limit: Any, message: str) -> None:
    app = make(rate_limit_requests=7)
    app.add_route("/orders", Items(), rate_limit=limit)
    with pytest.raises(SignatureError, match=message):
        assert app.openapi


def test_limits_of_methods_need_a_handler() -> None:
    app = make()
    app.add_routes(Mount("/files", PlainTextResponse("file")), rate_limit={"GET": RateLimit(1, 1)})
    with pytest.raises(SignatureError, match="/files: rate_limit has methods, but this route is not of a handler"):
        assert app.openapi


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


async def test_mounts_and_websocket_handshakes_are_limited() -> None:
    app = make(rate_limit_requests=2)
    app.add_routes(Mount("/files", PlainTextResponse("file")), WebSocketRoute("/echo", echo))
    async with serve(app) as client:
        assert (await client.get("/files/1")).headers["ratelimit"] == '"default";r=1;t=30'
        url = str(client.base_url).replace("http", "ws") + "/echo"
        async with dial(url, proxy=None) as websocket:
            assert websocket.response is not None
            assert websocket.response.headers["ratelimit"] == '"default";r=0;t=30'
        with pytest.raises(InvalidStatus) as rejected:
            await dial(url, proxy=None)
        assert rejected.value.response.status_code == 429
        assert rejected.value.response.headers["retry-after"]
        assert (await client.get("/files/1")).status_code == 429
        preflight = {"origin": "https://shop.example", "access-control-request-method": "GET"}
        assert (await client.options("/files/1", headers=preflight)).status_code == 200


# Callers who authenticate.


@asynccontextmanager
async def protected(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = make(**settings)
    app.add_route("/everybody", Everybody())
    app.add_routes(Mount("/files", PlainTextResponse("file")))
    app.group("/v2").add_route("/items", Items())
    app.set_access_control(CONTROL)
    async with serve(app) as client:
        yield client


@pytest.mark.parametrize("name", ["ada", "ADA"])  # one in capitals is verified first
@pytest.mark.parametrize("path", ["/items", "/v2/items", "/files/1"])
async def test_principals_of_one_address_have_limits_of_their_own(name: str, path: str) -> None:
    async with protected(**TWO) as client:
        assert await statuses(client, 3, path, headers={"authorization": name}) == [200, 200, 429]
        assert await statuses(client, 1, path, headers={"authorization": "bob"}) == [200]
        assert await statuses(client, 3, "/everybody") == [200, 200, 429]


@pytest.mark.parametrize("path", ["/items", "/v2/items", "/files/1"])
async def test_rejected_credentials_count_for_the_address_and_lock_out_no_principal(path: str) -> None:
    async with protected(**TWO) as client:
        assert await statuses(client, 3, path) == [401, 401, 429]
        assert await statuses(client, 1, path, headers={"authorization": "ada"}) == [200]


async def test_request_without_the_scope_counts_for_the_principal() -> None:
    app = make(**TWO)
    app.set_access_control(AccessControl(NameGuard(), {}))
    app.add_route("/secret", Items(), requires=Requirement(scopes=["secret"]))
    async with connect(app) as client:
        for name in ("ada", "ADA"):
            assert await statuses(client, 3, "/secret", headers={"authorization": name}) == [403, 403, 429]


async def test_service_may_say_who_the_caller_is() -> None:
    app = make(**TWO)
    app.configure_rate_limits(caller_of=lambda scope: dict(scope["headers"]).get(b"x-tenant", b"").decode() or None)
    async with connect(app) as client:
        assert await statuses(client, 3, headers={"x-tenant": "a"}) == [200, 200, 429]
        assert await statuses(client, 3, headers={"x-tenant": "b"}) == [200, 200, 429]
        assert await statuses(client, 3) == [200, 200, 429]


# A shared store.


class SharedStore:
    """A store that several instances use, and that fails when a test wants it."""

    def __init__(self) -> None:
        self.memory = MemoryRateLimits()
        self.fails = False
        self.hangs = False
        self.calls = 0

    async def take(self, limit: RateLimit, caller: str) -> Quota:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise ConnectionError("no store")
        return self.memory.take(limit, caller)


def with_store(store: SharedStore, **settings: Any) -> App:
    app = make(**TWO | settings)
    app.configure_rate_limits(store=store)
    return app


async def test_instances_share_a_store() -> None:
    store = SharedStore()
    async with connect(with_store(store)) as one, connect(with_store(store)) as other:
        first = await one.get("/items")
        assert first.headers["ratelimit"] == '"default";r=1;t=30'
        assert await statuses(other, 2) == [200, 429]
        assert await statuses(one, 1) == [429]


async def test_rejected_credentials_count_in_the_store() -> None:
    store = SharedStore()
    app = with_store(store)
    app.set_access_control(CONTROL)
    async with connect(app) as client:
        assert await statuses(client, 3) == [401, 401, 429]
        assert await statuses(client, 3, headers={"authorization": "ADA nothing"}) == [200, 200, 429]


@pytest.mark.parametrize("way", ["fails", "hangs"])
async def test_instance_counts_alone_while_the_store_fails(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SharedStore()
    setattr(store, way, True)
    app = with_store(store)
    with record(app) as records:
        async with connect(app) as client:
            began = asyncio.get_running_loop().time()
            responses = await asyncio.gather(*[client.get("/items") for _ in range(3)])
            assert sorted(response.status_code for response in responses) == [200, 200, 429]
            assert asyncio.get_running_loop().time() - began < 2
            calls = store.calls
            assert await statuses(client, 3) == [429] * 3
            assert store.calls == calls  # it is left alone for a while
            metrics = (await client.get("/metrics")).text
            assert f"rate_limit_store_failures_total {float(calls)}" in metrics
            setattr(store, way, False)
            monkeypatch.setattr(rate_limiter, "monotonic", lambda: 1e12)
            assert await statuses(client, 1) == [200]
        (line,) = [line for line in records.lines if line["event"] == "rate limit store failed"]
        assert line["reason"] == ("ConnectionError: no store" if way == "fails" else "TimeoutError")


async def test_without_limits_routes_are_not_wrapped() -> None:
    app = make()
    (route,) = [route for route in app.routes if getattr(route, "path", "") == "/items"]
    before = dict(route.resource._by_method)  # type: ignore[attr-defined]
    assert app.openapi
    after = route.resource._by_method  # type: ignore[attr-defined]
    assert {method: type(operation) for method, operation in after.items()} == {
        method: type(operation) for method, operation in before.items()
    }
