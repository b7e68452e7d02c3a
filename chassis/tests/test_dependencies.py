"""Dependency injection: values that an application provides to handlers, by type."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NewType

import httpx
import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from chassis import App, ChassisSettings, Handler, Problem, ProviderError, Route, SignatureError
from chassis.api.routing import Router
from chassis.testing import serve

from .support.application import TEST_SETTINGS
from .support.service import until

Tenant = NewType("Tenant", str)


class Session:
    """Records how it ends."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    async def __aenter__(self) -> "Session":
        self.events.append("begin")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.events.append("commit" if kind is None else f"rollback {kind.__name__}")


class User:
    """The user of the request."""

    def __init__(self, name: str) -> None:
        self.name = name


class Repository:
    """A class as a provider: the parameters of its `__init__` are provided."""

    def __init__(self, session: Session, user: User) -> None:
        self.session = session
        self.user = user


class Clock:
    """Provided as it is."""

    def __call__(self) -> int:
        return 12


class Item(BaseModel):
    name: str


class Items(Handler):
    """Uses everything."""

    async def get(self, repository: Repository, session: Session, tenant: Tenant, clock: Clock) -> dict[str, Any]:
        same = repository.session is session
        return {"same": same, "user": repository.user.name, "tenant": tenant, "hour": clock()}

    async def post(self, session: Session, body: Item) -> Item:
        session.events.append(f"insert {body.name}")
        if body.name == "bad":
            raise Problem(409, "It exists.")
        if body.name == "broken":
            raise LookupError("no")
        return body

    def put(self, session: Session) -> str:
        session.events.append("in a thread")
        return "done"

    async def patch(self, session: Session) -> Response:
        return PlainTextResponse("text")

    async def delete(self, session: Session) -> None:
        session.events.append("waiting")
        await asyncio.Event().wait()


def authenticate(request: Request) -> User:
    """A function as a provider; it may reject the request."""
    name = request.headers.get("x-user")
    if name is None:
        raise Problem(401, "Who are you?", headers={"www-authenticate": "Bearer"})
    return User(name)


async def tenant_of(request: Request, user: User) -> Tenant:
    await asyncio.sleep(0)
    return Tenant(f"{user.name} of {request.url.hostname}")


def make(events: list[str], **settings: Any) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS | settings), name="test-service", version="1")
    app.add_route("/items", Items())
    app.provide(Session, lambda: Session(events))
    app.provide(User, authenticate)
    app.provide(Tenant, tenant_of)
    app.provide(Repository, Repository)
    app.provide(Clock, Clock())
    return app


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
async def client(events: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(make(events)) as client:
        yield client


async def test_each_type_is_provided_once_a_request(client: httpx.AsyncClient, events: list[str]) -> None:
    response = await client.get("/items", headers={"x-user": "ada"})
    assert response.json() == {"same": True, "user": "ada", "tenant": "ada of 127.0.0.1", "hour": 12}
    assert events == ["begin", "commit"]


@pytest.mark.parametrize(
    ("name", "status", "last"),
    [("good", 200, "commit"), ("bad", 409, "rollback Problem"), ("broken", 500, "rollback LookupError")],
)
async def test_context_manager_exits_with_the_exception_of_the_handler(
    client: httpx.AsyncClient, events: list[str], name: str, status: int, last: str
) -> None:
    response = await client.post("/items", json={"name": name})
    assert response.status_code == status
    assert events == ["begin", f"insert {name}", last]


async def test_transaction_is_rolled_back_for_an_invalid_request(client: httpx.AsyncClient, events: list[str]) -> None:
    assert (await client.post("/items", json={})).status_code == 422
    assert events == ["begin", "rollback Problem"]


async def test_transaction_is_rolled_back_when_the_client_disconnects(
    client: httpx.AsyncClient, events: list[str]
) -> None:
    request = asyncio.create_task(client.delete("/items"))
    await until(lambda: "waiting" in events)
    request.cancel()
    await until(lambda: events == ["begin", "waiting", "rollback CancelledError"])


async def test_transaction_is_rolled_back_at_the_deadline(events: list[str]) -> None:
    async with serve(make(events, deadline_seconds=0.05)) as client:
        assert (await client.delete("/items")).status_code == 504
    assert events == ["begin", "waiting", "rollback CancelledError"]


async def test_handler_in_a_thread_gets_its_dependencies(client: httpx.AsyncClient, events: list[str]) -> None:
    assert (await client.put("/items")).json() == "done"
    assert events == ["begin", "in a thread", "commit"]


async def test_response_is_sent_after_the_end(client: httpx.AsyncClient, events: list[str]) -> None:
    assert (await client.patch("/items")).text == "text"
    assert events == ["begin", "commit"]


async def test_provider_may_reject_the_request(client: httpx.AsyncClient) -> None:
    response = await client.get("/items")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")


async def test_provided_parameters_are_not_in_openapi(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert "parameters" not in document["paths"]["/items"]["get"]


class Failing:
    """Cannot commit."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        raise ConnectionError("lost")


async def test_commit_that_fails_is_500(events: list[str]) -> None:
    app = make(events)
    with app.override(Session, Failing):
        async with serve(app) as client:
            assert (await client.patch("/items")).status_code == 500


@asynccontextmanager
async def swallowing() -> AsyncIterator[list[str]]:
    with suppress(Exception):
        yield []


class Loud(Handler):
    """Fails."""

    async def get(self, items: list[str]) -> None:
        raise LookupError("no")


async def test_provider_cannot_swallow_the_exception_of_the_handler() -> None:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1")
    app.provide(list[str], swallowing)
    app.add_route("/loud", Loud())
    async with serve(app) as client:
        assert (await client.get("/loud")).status_code == 500


async def events_of_a_generator(events: list[str], make_generator: Callable[[list[str]], Callable[[], Any]]) -> None:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1")
    app.provide(Session, make_generator(events))
    app.add_route("/items", type("Small", (Handler,), {"patch": Items.patch, "post": Items.post})())
    async with serve(app) as client:
        assert (await client.patch("/items")).status_code == 200
        assert (await client.post("/items", json={"name": "broken"})).status_code == 500


def async_generator(events: list[str]) -> Callable[[], AsyncIterator[Session]]:
    async def sessions() -> AsyncIterator[Session]:
        events.append("before")
        try:
            yield Session(events)
        except LookupError:
            events.append("failed")
            raise
        finally:
            events.append("after")

    return sessions


def generator(events: list[str]) -> Callable[[], Iterator[Session]]:
    def sessions() -> Iterator[Session]:
        events.append("before")
        try:
            yield Session(events)
        except LookupError:
            events.append("failed")
            raise
        finally:
            events.append("after")

    return sessions


@pytest.mark.parametrize("make_generator", [async_generator, generator])
async def test_generator_resumes_after_the_handler(
    events: list[str], make_generator: Callable[[list[str]], Callable[[], Any]]
) -> None:
    await events_of_a_generator(events, make_generator)
    assert events == ["before", "after", "before", "insert broken", "failed", "after"]


async def test_tests_replace_providers_also_while_the_app_runs(events: list[str]) -> None:
    app = make(events)
    async with serve(app) as client:
        with app.override(User, lambda: User("test")):
            assert (await client.get("/items")).json()["user"] == "test"
        assert (await client.get("/items")).status_code == 401
        app.override(User, User("always"))
        assert (await client.get("/items")).json()["user"] == "always"


# Wiring.


class A: ...


class B: ...


def a_of(b: B) -> A:
    return A()


def b_of(a: A) -> B:
    return B()


def unnamed(thing) -> A:  # type: ignore[no-untyped-def]
    return A()


def build(*provided: tuple[Any, Any], handler: Handler | None = None) -> App:
    app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service", version="1")
    for kind, provider in provided:
        app.provide(kind, provider)
    if handler is not None:
        app.add_route("/items", handler)
    _ = app.public
    return app


class TakesA(Handler):
    async def get(self, a: A) -> None: ...


class DefaultA(Handler):
    async def get(self, a: A = A()) -> None: ...  # noqa: B008


@pytest.mark.parametrize(
    ("provided", "handler", "message"),
    [
        ([(A, a_of), (B, b_of)], None, "circular dependency of providers: A needs B needs A"),
        ([(A, a_of)], None, r"the provider of A needs 'b', but B has no provider; call app\.provide\(B, …\)"),
        ([(A, A), (A, A)], None, r"A is provided already; remove one app\.provide\(A, …\)"),
        ([(A, unnamed)], None, "the provider of A, unnamed: parameter 'thing' cannot be provided; annotate it"),
        ([(Request, A)], None, "Request is provided already"),
    ],
)
def test_wrong_wiring_stops_the_start(provided: list[tuple[Any, Any]], handler: Handler | None, message: str) -> None:
    with pytest.raises(ProviderError, match=message):
        build(*provided, handler=handler)


def test_type_without_a_provider_stops_the_start() -> None:
    with pytest.raises(SignatureError, match=r"TakesA\.get: .*'a'.* If it is a dependency, call app\.provide\(A, …\)"):
        build(handler=TakesA())
    with pytest.raises(SignatureError, match="TakesA"):
        Router([Route("/items", TakesA())])


def test_default_of_a_provided_parameter_is_an_error() -> None:
    with pytest.raises(SignatureError, match="DefaultA"):
        build((A, A), handler=DefaultA())


def test_override_without_a_provider_is_an_error() -> None:
    with pytest.raises(ProviderError, match="A has no provider to override"):
        build().override(A, A)
    with pytest.raises(ProviderError, match="circular"):
        build((A, A), (B, b_of)).override(A, a_of)


def test_providers_are_added_before_the_start() -> None:
    with pytest.raises(RuntimeError, match="has started"):
        build().provide(A, A)


class Hours(Handler):
    """Needs a constant alone, so that nothing is made for a request."""

    async def get(self, clock: Clock, offset: int = 0) -> int:
        return clock() + offset


async def test_constant_is_replaced_by_a_provider_and_restored_while_the_app_runs(events: list[str]) -> None:
    class Morning(Clock):
        def __call__(self) -> int:
            return 7

    def morning() -> Iterator[Clock]:
        yield Morning()
        events.append("end of the request")

    app = make(events)
    app.add_route("/hours", Hours())
    async with serve(app) as client:
        with app.override(Clock, morning):
            assert (await client.get("/hours?offset=1")).json() == 8
        assert (await client.get("/hours?offset=1")).json() == 13
        assert (await client.get("/hours?offset=x")).status_code == 422
    assert events == ["end of the request"]
