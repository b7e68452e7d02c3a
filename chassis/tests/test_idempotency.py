"""Idempotency keys: a request that a client repeats is executed once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable, Mapping
from typing import Annotated, Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from chassis import (
    App,
    ChassisSettings,
    Form,
    Handler,
    IdempotencyStore,
    IdempotentRequest,
    KeyInUseError,
    KeyReusedError,
    MemoryIdempotencyStore,
    Problem,
    ProviderError,
    Reply,
    Route,
    SignatureError,
    StoredResponse,
    idempotent,
    responds,
)
from chassis.api import continuation
from chassis.testing import serve as serve_app

from .support.application import TEST_SETTINGS, make_app
from .support.service import Service, exchange, observed, serve, until

KEY = {"idempotency-key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}


class Order(BaseModel):
    item: str


class Orders(Handler):
    """Counts the orders that it has taken."""

    def __init__(self) -> None:
        self.taken = list[str]()
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self) -> int:
        return len(self.taken)

    @idempotent
    @responds(201)
    async def post(self, body: Order, rush: bool = False) -> Reply[dict[str, int]]:
        self.taken.append(body.item)
        await self.gate.wait()
        number = len(self.taken)
        if body.item == "nothing":
            raise Problem(409, "There is nothing.")
        if body.item == "broken":
            raise LookupError("internal detail")
        headers = {"location": f"/orders/{number}", "set-cookie": "seen=1", "traceparent": "a", "date": "today"}
        return Reply({"number": number}, headers=headers)


class Required(Handler):
    """Does nothing without a key."""

    @idempotent(required=True)
    async def post(self) -> None: ...


class Results(Handler):
    """Returns the requested response."""

    def __init__(self) -> None:
        self.calls = 0

    @idempotent(max_response_bytes=100)
    async def post(self, kind: str) -> Response:
        self.calls += 1
        if kind == "stream":
            return StreamingResponse(self._parts(), 201, media_type="text/plain")
        if kind == "large":
            return JSONResponse("x" * 1000, 201)
        return JSONResponse({"call": self.calls}, int(kind))

    async def _parts(self) -> AsyncIterator[str]:
        yield "one "
        yield "two"


async def post(service: Service, item: str = "tea", path: str = "/orders", **headers: str) -> httpx.Response:
    """Order something."""
    sent = KEY | {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.client.post(path, json={"item": item}, headers=sent)


@pytest.fixture
async def orders() -> Orders:
    return Orders()


@pytest.fixture
async def service(orders: Orders) -> AsyncIterator[Service]:
    async with serve(Route("/orders", orders), Route("/others", orders)) as service:
        yield service


async def test_repeated_request_gets_the_first_response(service: Service, orders: Orders) -> None:
    first, second = await post(service), await post(service)
    assert orders.taken == ["tea"]
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert {name: second.headers[name] for name in ("location", "set-cookie", "content-type", "content-length")} == {
        name: first.headers[name] for name in ("location", "set-cookie", "content-type", "content-length")
    }


async def test_replay_has_the_headers_of_its_own_request(service: Service) -> None:
    first, second = await post(service, x_request_id="one"), await post(service, x_request_id="two")
    assert (first.headers["x-request-id"], second.headers["x-request-id"]) == ("one", "two")
    assert first.headers["traceparent"] == "a"
    assert "traceparent" not in second.headers
    assert second.headers.get("date") != "today"
    assert second.headers["x-content-type-options"] == "nosniff"


async def test_access_line_of_a_replay_says_so(service: Service) -> None:
    await post(service)
    await post(service)
    first, second = await service.access_lines(2)
    assert "idempotency_replayed" not in first
    assert second["idempotency_replayed"] is True


async def test_key_may_be_sent_without_quotes(service: Service, orders: Orders) -> None:
    await post(service)
    response = await post(service, idempotency_key=KEY["idempotency-key"].strip('"'))
    assert response.headers["idempotency-replayed"] == "true"
    await post(service, idempotency_key=f"{KEY['idempotency-key']};version=1")
    assert orders.taken == ["tea"]


async def test_another_key_is_another_request(service: Service, orders: Orders) -> None:
    await post(service)
    await post(service, idempotency_key="another")
    assert orders.taken == ["tea", "tea"]


async def test_same_key_with_another_body_or_query_is_422(service: Service, orders: Orders) -> None:
    await post(service)
    for response in (await post(service, "coffee"), await post(service, path="/orders?rush=true")):
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert "send a new key" in response.json()["detail"]
    assert orders.taken == ["tea"]
    assert (await post(service)).headers["idempotency-replayed"] == "true"


async def test_second_request_at_the_same_time_is_409(service: Service, orders: Orders) -> None:
    orders.gate.clear()
    first = asyncio.create_task(post(service))
    await until(lambda: orders.taken)
    second = await post(service)
    assert (second.status_code, second.headers["retry-after"]) == (409, "1")
    assert (await post(service, "coffee")).status_code == 422
    orders.gate.set()
    assert (await first).status_code == 201
    assert (await post(service)).headers["idempotency-replayed"] == "true"
    assert orders.taken == ["tea"]


async def test_request_without_a_key_is_executed_each_time(service: Service, orders: Orders) -> None:
    for _ in range(2):
        assert (await service.client.post("/orders", json={"item": "tea"})).status_code == 201
    assert orders.taken == ["tea", "tea"]


async def test_missing_key_is_400_where_it_is_required() -> None:
    async with serve(Route("/", Required())) as service:
        response = await service.client.post("/")
        assert response.status_code == 400
        assert "The header Idempotency-Key is required" in response.json()["detail"]
        assert (await service.client.post("/", headers=KEY)).status_code == 204
        assert (await service.client.post("/", headers=KEY)).headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    "value", ['""', "", '"open', "two words", "a,b", '"a" "b"', '"caf\u00e9"', "x" * 256, f'"{"x" * 256}"', "1;2"]
)
async def test_malformed_key_is_400(service: Service, orders: Orders, value: str) -> None:
    response = await service.client.post(
        "/orders", json={"item": "tea"}, headers=[(b"idempotency-key", value.encode("latin-1"))]
    )
    assert (response.status_code, orders.taken) == (400, [])
    assert "visible ASCII characters in quotes" in response.json()["detail"]


async def test_two_keys_are_400(service: Service) -> None:
    headers = [("idempotency-key", "one"), ("idempotency-key", "two")]
    assert (await service.client.post("/orders", json={"item": "tea"}, headers=headers)).status_code == 400


async def test_longest_key_is_accepted(service: Service) -> None:
    assert (await post(service, idempotency_key="x" * 255)).status_code == 201
    assert (await post(service, idempotency_key=r'"\"\\ and a space"')).status_code == 201


async def test_key_is_scoped_to_its_principal(service: Service, orders: Orders) -> None:
    await post(service, authorization="Bearer one")
    response = await post(service, "coffee", authorization="Bearer two")
    assert response.status_code == 201
    assert "idempotency-replayed" not in response.headers
    assert orders.taken == ["tea", "coffee"]
    assert (await post(service, authorization="Bearer one")).headers["idempotency-replayed"] == "true"


async def test_key_is_scoped_to_its_path(service: Service, orders: Orders) -> None:
    for path in ("/orders", "/others"):
        assert "idempotency-replayed" not in (await post(service, path=path)).headers
    assert len(orders.taken) == 2


async def user_of(request: Request) -> str:
    """The principal of the request."""
    return request.cookies.get("user", "")


class OfUsers(Handler):
    """Knows its users by a cookie."""

    @idempotent(principal=user_of)
    async def post(self, request: Request) -> str:
        return request.cookies["user"]

    @idempotent(principal=lambda request: request.headers["user"])
    async def patch(self, request: Request) -> str:
        return request.headers["user"]


async def test_owner_decides_the_principal() -> None:
    async with serve(Route("/", OfUsers())) as service:
        for user in ("ada", "bob"):
            first, second = [
                await service.client.post("/", headers=KEY | {"cookie": f"user={user}; seen={number}"})
                for number in (1, 2)
            ]
            assert (first.json(), second.json()) == (user, user)
            assert second.headers["idempotency-replayed"] == "true"
            assert (await service.client.patch("/", headers=KEY | {"user": user})).json() == user


async def test_method_that_raises_is_executed_again(service: Service, orders: Orders) -> None:
    for item, status in (("nothing", 409), ("broken", 500)):
        for _ in range(2):
            response = await post(service, item)
            assert response.status_code == status
            assert "retry-after" not in response.headers
    assert orders.taken == ["nothing", "nothing", "broken", "broken"]
    assert (await post(service)).status_code == 201


async def test_invalid_request_does_not_use_up_its_key(service: Service, orders: Orders) -> None:
    response = await service.client.post("/orders", json={"thing": 1}, headers=KEY)
    assert response.json()["errors"][0]["in"] == "body"
    assert (await post(service)).status_code == 201
    assert orders.taken == ["tea"]


@pytest.mark.parametrize(
    ("status", "calls"), [(200, 1), (302, 1), (402, 1), (404, 1), (408, 2), (425, 2), (429, 2), (500, 2), (503, 2)]
)
async def test_returned_responses_are_stored_unless_they_ask_for_a_retry(status: int, calls: int) -> None:
    results = Results()
    async with serve(Route("/", results)) as service:
        for call in (1, 2):
            response = await service.client.post(f"/?kind={status}", headers=KEY)
            assert (response.status_code, response.json()) == (status, {"call": min(call, calls)})
    assert results.calls == calls


@pytest.mark.parametrize(("kind", "length"), [("stream", 7), ("large", 1002)])
async def test_response_that_cannot_be_stored_is_sent_and_not_executed_again(kind: str, length: int) -> None:
    results = Results()
    async with serve(Route("/", results)) as service:
        first = await service.client.post(f"/?kind={kind}", headers=KEY)
        assert (first.status_code, len(first.content)) == (201, length)
        second = await service.client.post(f"/?kind={kind}", headers=KEY)
        assert second.status_code == 409
        assert "completed with status 201, but its response was not stored" in second.json()["detail"]
        assert "retry-after" not in second.headers
    assert results.calls == 1


async def test_request_that_passes_its_deadline_is_executed_again(orders: Orders) -> None:
    async with serve(Route("/orders", orders), deadline_seconds=0.2) as service:
        orders.gate.clear()
        assert (await post(service)).status_code == 504
        orders.gate.set()
        assert (await post(service)).status_code == 201
    assert orders.taken == ["tea", "tea"]


async def test_request_is_executed_to_completion_when_its_client_disconnects(service: Service, orders: Orders) -> None:
    orders.gate.clear()
    first = asyncio.create_task(post(service))
    await until(lambda: orders.taken)
    first.cancel()
    await service.under_way(0)
    assert (await post(service)).status_code == 409
    orders.gate.set()
    responses = [response := await post(service)]
    while response.status_code == 409:
        responses.append(response := await post(service))
    assert (response.status_code, response.headers["idempotency-replayed"]) == (201, "true")
    assert response.json() == {"number": 1}
    assert orders.taken == ["tea"]
    assert service.seen.events("background task failed") == []


@pytest.mark.parametrize(("item", "failures"), [("nothing", 0), ("broken", 1)])
async def test_failure_after_a_disconnect_is_logged_if_it_is_unexpected(
    service: Service, orders: Orders, item: str, failures: int
) -> None:
    orders.gate.clear()
    first = asyncio.create_task(post(service, item))
    await until(lambda: orders.taken)
    first.cancel()
    await service.under_way(0)
    orders.gate.set()
    while (response := await post(service)).status_code == 422:  # the key is in use by the other item
        await asyncio.sleep(0)
    assert (response.status_code, "idempotency-replayed" in response.headers) == (201, False)
    assert len(service.seen.events("background task failed")) == failures


async def test_shutdown_waits_for_a_request_whose_client_has_disconnected(orders: Orders) -> None:
    orders.gate.clear()
    async with serve(Route("/orders", orders), shutdown_seconds=5.0) as service:
        first = asyncio.create_task(post(service))
        await until(lambda: orders.taken)
        first.cancel()
        await service.under_way(0)
        service.server.stop()
        await service.app.draining.wait()
        assert going_on(service) == 1
        orders.gate.set()
        await until(lambda: service.seen.events("stopped"))
        assert service.seen.events("background tasks cancelled at shutdown") == []


def going_on(service: Service) -> float | None:
    """How many requests go on without their clients."""
    registry = service.app.telemetry.metrics.registry
    return registry.get_sample_value("background_tasks", {"task": "idempotent request"})


class InThread(Handler):
    """Blocks."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls = 0

    @idempotent
    def post(self) -> int:
        self.calls += 1
        self.gate.wait(10)
        return self.calls


async def test_thread_that_passes_its_deadline_is_not_begun_a_second_time() -> None:
    handler = InThread()
    async with serve(Route("/", handler), deadline_seconds=0.2) as service:
        assert (await service.client.post("/", headers=KEY)).status_code == 504
        assert (await service.client.post("/", headers=KEY)).status_code == 409
        handler.gate.set()
        while (response := await service.client.post("/", headers=KEY)).status_code == 409:
            await asyncio.sleep(0)
        assert (response.json(), response.headers["idempotency-replayed"]) == (1, "true")
        await until(lambda: going_on(service) == 0)
        assert service.seen.events("background task failed") == []


async def test_more_requests_without_clients_than_allowed_are_cancelled(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuation, "MAX_CONTINUED", 1)
    orders.gate.clear()
    async with serve(Route("/orders", orders)) as service:
        for number in (1, 2):
            request = asyncio.create_task(post(service, idempotency_key=str(number)))
            await until(lambda: len(orders.taken) == number)  # noqa: B023 - awaited at once
            request.cancel()
            await service.under_way(0)
        assert going_on(service) == 1
        assert (await post(service, idempotency_key="1")).status_code == 409
        orders.gate.set()
        response = await post(service, idempotency_key="2")
        assert (response.status_code, "idempotency-replayed" in response.headers) == (201, False)


async def test_stream_ends_when_its_client_disconnects() -> None:
    class Endless(Handler):
        def __init__(self) -> None:
            self.gate = asyncio.Event()
            self.began = asyncio.Event()

        @idempotent
        async def post(self) -> Response:
            self.began.set()
            await self.gate.wait()
            return StreamingResponse(self._parts())

        async def _parts(self) -> AsyncIterator[str]:
            while True:
                yield "more"
                await asyncio.sleep(0)

    handler = Endless()
    async with serve(Route("/", handler)) as service:
        request = asyncio.create_task(service.client.post("/", headers=KEY))
        await handler.began.wait()
        request.cancel()
        await service.under_way(0)
        assert going_on(service) == 1
        handler.gate.set()
        await until(lambda: going_on(service) == 0)
        assert service.seen.events("background task failed") == []


async def test_other_methods_do_not_look_at_the_key(service: Service) -> None:
    await post(service)
    for _ in range(2):
        response = await service.client.get("/orders", headers=KEY)
        assert (response.json(), "idempotency-replayed" in response.headers) == (1, False)
    assert (await service.client.head("/orders", headers=KEY)).status_code == 200


class Sources(Handler):
    """Methods that get their content in other ways."""

    def __init__(self) -> None:
        self.calls = 0

    @idempotent
    def post(self, body: bytes) -> str:
        self.calls += 1
        return body.decode()

    @idempotent
    async def patch(self, name: Annotated[str, Form()]) -> str:
        self.calls += 1
        return name

    @idempotent
    async def put(self, request: Request) -> str:
        self.calls += 1
        return (await request.body()).decode()


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
async def test_body_is_available_for_every_type_of_method(method: str) -> None:
    sources = Sources()
    async with serve(Route("/", sources)) as service:
        content = {"data": {"name": "tea"}} if method == "PATCH" else {"content": b"tea"}
        responses = [await service.client.request(method, "/", headers=KEY, **content) for _ in range(2)]
        assert [response.json() for response in responses] == ["tea", "tea"]
    assert sources.calls == 1


async def test_body_beyond_the_limit_is_413(service: Service, orders: Orders) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    response = await service.client.post("/orders", content=chunks(), headers=KEY)
    assert (response.status_code, orders.taken) == (413, [])


async def test_incomplete_body_executes_nothing(service: Service, orders: Orders) -> None:
    head = b"POST /orders HTTP/1.1\r\nhost: a\r\nidempotency-key: 1\r\ncontent-type: application/json\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(head + b'content-length: 14\r\n\r\n{"item":')
    await writer.drain()
    await service.under_way(1)
    writer.close()
    await service.under_way(0)
    sent = head + b'connection: close\r\ncontent-length: 14\r\n\r\n{"item":"tea"}'
    assert (await exchange(service.server.port, sent)).startswith(b"HTTP/1.1 201")
    assert orders.taken == ["tea"]


def test_methods_that_cannot_be_idempotent_stop_the_start() -> None:
    class Getter(Handler):
        @idempotent
        async def get(self) -> None: ...

    class Uploads(Handler):
        @idempotent
        async def post(self, body: AsyncIterator[bytes]) -> None: ...

    with pytest.raises(SignatureError, match=r"Getter\.get cannot be @idempotent"):
        Route("/", Getter())
    with pytest.raises(SignatureError, match=r"Uploads\.post cannot be @idempotent"):
        Route("/", Uploads())


async def test_openapi_describes_the_key_and_its_problems() -> None:
    class Own(Handler):
        @idempotent(required=True)
        @responds(201, {409: "There is nothing."})
        async def post(self, body: Order) -> Order:
            return body

    async with serve(Route("/orders", Orders()), Route("/own", Own())) as service:
        paths = (await service.client.get("/openapi.json")).json()["paths"]
    operation, own = paths["/orders"]["post"], paths["/own"]["post"]
    keys = [next(one for one in each["parameters"] if one["in"] == "header") for each in (operation, own)]
    assert [(key["name"], key["required"]) for key in keys] == [("Idempotency-Key", False), ("Idempotency-Key", True)]
    assert keys[0]["schema"] == {"type": "string", "maxLength": 255}
    assert "run once" in keys[0]["description"]
    assert "idempotency-replayed" in operation["responses"]["201"]["headers"]
    assert "is still in progress" in operation["responses"]["409"]["description"]
    assert own["responses"]["409"]["description"].startswith("There is nothing. A request with this")
    assert "not valid JSON. The Idempotency-Key is" in operation["responses"]["400"]["description"]
    assert "used for another request" in operation["responses"]["422"]["description"]
    assert "parameters" not in paths["/orders"]["get"]


# Stores.


class Session:
    """A transaction on a table of orders and of responses: both are there, or none."""

    def __init__(self, database: "Database") -> None:
        self._database = database
        self.orders = list[str]()
        self.responses = dict[str, StoredResponse]()

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self._database.fails:
                raise ConnectionResetError("the commit has failed")
            self._database.orders += self.orders
            self._database.responses |= self.responses


class Database:
    """Keeps orders, and is an idempotency store that takes part in their transactions."""

    def __init__(self) -> None:
        self.orders = list[str]()
        self.responses = dict[str, StoredResponse]()
        self.in_use = dict[str, str]()
        self.calls = list[str]()
        self.fails = False

    def session(self) -> Session:
        return Session(self)

    async def begin(self, request: IdempotentRequest, lock_seconds: float) -> StoredResponse | None:
        if request.key not in self.responses:
            if request.key in self.in_use:
                raise KeyInUseError
            self.in_use[request.key] = request.attempt
        return self.responses.get(request.key)

    async def record(
        self,
        request: IdempotentRequest,
        response: StoredResponse,
        keep_seconds: float,
        provided: Mapping[Hashable, Any],
    ) -> None:
        self.calls.append("record")
        session: Session = provided[Session]
        session.responses[request.key] = response

    async def complete(self, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> None:
        self.calls.append("complete")
        assert self.responses[request.key] == response
        del self.in_use[request.key]

    async def abandon(self, request: IdempotentRequest) -> None:
        self.calls.append("abandon")
        if self.in_use.get(request.key) == request.attempt:
            del self.in_use[request.key]


class InTransaction(Handler):
    """Writes in the transaction of its request."""

    @idempotent
    async def post(self, session: Session, body: Order) -> Order:
        session.orders.append(body.item)
        if body.item == "nothing":
            raise Problem(409, "There is nothing.")
        return body


def app_with(database: Database) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1.2.3")
    app.provide(Session, database.session)
    app.provide(IdempotencyStore, database)
    app.add_route("/orders", InTransaction())
    return app


async def test_store_keeps_the_response_in_the_transaction_of_the_method() -> None:
    database = Database()
    async with serve_app(app_with(database)) as client:
        first = await client.post("/orders", json={"item": "tea"}, headers=KEY)
        second = await client.post("/orders", json={"item": "tea"}, headers=KEY)
    assert (first.json(), second.json()) == ({"item": "tea"}, {"item": "tea"})
    assert second.headers["idempotency-replayed"] == "true"
    assert (database.orders, len(database.responses), database.in_use) == (["tea"], 1, {})
    assert database.calls == ["record", "complete"]


async def test_neither_order_nor_response_is_there_when_the_commit_fails() -> None:
    database = Database()
    database.fails = True
    async with serve_app(app_with(database)) as client:
        assert (await client.post("/orders", json={"item": "tea"}, headers=KEY)).status_code == 500
        assert (database.orders, database.responses, database.in_use) == ([], {}, {})
        assert database.calls == ["record", "abandon"]
        database.fails = False
        assert (await client.post("/orders", json={"item": "tea"}, headers=KEY)).status_code == 200
    assert (database.orders, len(database.responses)) == (["tea"], 1)


async def test_rolled_back_transaction_stores_no_response() -> None:
    database = Database()
    async with serve_app(app_with(database)) as client:
        assert (await client.post("/orders", json={"item": "nothing"}, headers=KEY)).status_code == 409
    assert (database.orders, database.responses, database.in_use) == ([], {}, {})
    assert database.calls == ["abandon"]


async def test_store_may_be_replaced_in_a_test() -> None:
    database, other = Database(), MemoryIdempotencyStore()
    app = app_with(database)
    async with serve_app(app) as client:
        with app.override(IdempotencyStore, other):
            for _ in range(2):
                response = await client.post("/orders", json={"item": "tea"}, headers=KEY)
    assert response.headers["idempotency-replayed"] == "true"
    assert database.calls == []


def test_store_must_be_an_object() -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/", Required()))
        app.provide(IdempotencyStore, MemoryIdempotencyStore)
        with pytest.raises(ProviderError, match=r"app\.provide\(IdempotencyStore, store\)"):
            assert app.openapi


class FailingStore(MemoryIdempotencyStore):
    """A store whose database fails at the wrong moment."""

    async def complete(self, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> None:
        raise ConnectionRefusedError("no database")

    async def abandon(self, request: IdempotentRequest) -> None:
        raise ConnectionRefusedError("no database")


async def test_response_is_sent_even_if_it_cannot_be_stored() -> None:
    orders = Orders()
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/orders", orders))
        app.provide(IdempotencyStore, FailingStore())
        async with serve_app(app) as client:
            assert (await client.post("/orders", json={"item": "tea"}, headers=KEY)).status_code == 201
            await until(lambda: seen.events("idempotent response not stored"))
            # It may have been done, so it is not done again.
            assert (await client.post("/orders", json={"item": "tea"}, headers=KEY)).status_code == 409
            response = await client.post("/orders", json={"item": "nothing"}, headers={"idempotency-key": "2"})
            assert response.json()["detail"] == "There is nothing."
            await until(lambda: seen.events("idempotency key not released"))
    assert orders.taken == ["tea", "nothing"]


def request(key: str = "key", fingerprint: str = "body", attempt: str = "1") -> IdempotentRequest:
    return IdempotentRequest(key, fingerprint, attempt)


RESPONSE = StoredResponse(201, ((b"a", b"b"),), b"x" * 998)


async def finish(store: MemoryIdempotencyStore, key: str, keep_seconds: float = 60.0) -> None:
    """Begin and complete a request."""
    assert await store.begin(request(key), 60) is None
    await store.complete(request(key), RESPONSE, keep_seconds)


async def test_memory_drops_expired_responses() -> None:
    now = 0.0
    store = MemoryIdempotencyStore(clock=lambda: now)
    await finish(store, "key", keep_seconds=10)
    now = 9.0
    assert await store.begin(request(attempt="2"), 60) == RESPONSE
    now = 10.0
    assert await store.begin(request(fingerprint="other", attempt="3"), 60) is None


async def test_memory_drops_the_oldest_beyond_its_entries() -> None:
    store = MemoryIdempotencyStore(max_entries=2)
    for key in ("one", "two", "three"):
        await finish(store, key)
    assert await store.begin(request("three"), 60) == RESPONSE
    assert await store.begin(request("two"), 60) == RESPONSE
    assert await store.begin(request("one"), 60) is None


async def test_memory_drops_the_oldest_beyond_its_bytes() -> None:
    store = MemoryIdempotencyStore(max_bytes=3500)  # each takes 1,600
    for key in ("one", "two", "three"):
        await finish(store, key)
    assert await store.begin(request("two"), 60) == RESPONSE
    assert await store.begin(request("one"), 60) is None


async def test_memory_counts_the_bytes_that_it_drops() -> None:
    now = 0.0
    store = MemoryIdempotencyStore(max_bytes=3500, clock=lambda: now)
    for _ in range(10):
        await finish(store, "key", keep_seconds=1)
        now += 2
    await finish(store, "other")
    assert await store.begin(request("other"), 60) == RESPONSE


async def test_attempt_that_is_late_changes_nothing() -> None:
    now = 0.0
    store = MemoryIdempotencyStore(clock=lambda: now)
    assert await store.begin(request(attempt="1"), 10) is None
    with pytest.raises(KeyInUseError):
        await store.begin(request(attempt="2"), 10)
    with pytest.raises(KeyReusedError):
        await store.begin(request(fingerprint="other", attempt="2"), 10)
    now = 10.0
    assert await store.begin(request(attempt="2"), 10) is None
    await store.abandon(request(attempt="1"))
    await store.complete(request(attempt="1"), RESPONSE, 60)
    with pytest.raises(KeyInUseError):
        await store.begin(request(attempt="3"), 10)
    await store.abandon(request(attempt="2"))
    assert await store.begin(request(attempt="3"), 10) is None
