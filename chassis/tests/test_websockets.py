"""WebSockets in an app: served by Starlette, observed like requests, and closed when something fails."""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
from starlette.exceptions import HTTPException, WebSocketException
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from .support.service import SAMPLED, TRACE_ID, Line, Service, serve, until


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:  # until the client disconnects; then Starlette raises
        await websocket.send_text(await websocket.receive_text())


async def broken(websocket: WebSocket) -> None:
    await websocket.accept()
    raise RuntimeError("internal detail")


async def broken_handshake(websocket: WebSocket) -> NoReturn:
    raise RuntimeError("internal detail")


async def forbidden(websocket: WebSocket) -> None:
    await websocket.accept()
    raise HTTPException(403, "Not you.")


async def too_big(websocket: WebSocket) -> None:
    await websocket.accept()
    raise WebSocketException(1009, "Too much.")


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    routes = [
        WebSocketRoute("/echo/{name}", echo),
        WebSocketRoute("/broken", broken),
        WebSocketRoute("/broken-handshake", broken_handshake),
        WebSocketRoute("/forbidden", forbidden),
        WebSocketRoute("/too-big", too_big),
    ]
    async with serve(*routes) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    return await running.fresh()


def dial(service: Service, path: str, headers: dict[str, str] | None = None) -> connect:
    """A connection to a WebSocket of the service."""
    return connect(f"ws://127.0.0.1:{service.server.port}{path}", additional_headers=headers, proxy=None)


async def close_code(connection: ClientConnection) -> tuple[int, str]:
    """How the server closes."""
    with pytest.raises(ConnectionClosed) as caught:
        await connection.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def tracebacks(service: Service) -> list[Line]:
    """The log lines that have one."""
    return [line for line in service.seen.lines if "exception" in line]


async def test_websocket_is_served(service: Service) -> None:
    async with dial(service, "/echo/x") as connection:
        await connection.send("hello")
        assert await connection.recv() == "hello"


async def test_websocket_has_one_access_line_at_its_end(service: Service) -> None:
    async with dial(service, "/echo/x", {**SAMPLED, "x-request-id": "mine"}) as connection:
        assert connection.response is not None
        assert connection.response.headers["x-request-id"] == "mine"
        await connection.send("hello")
        await connection.recv()
        assert service.seen.events("request") == []
    line = await service.access_line()
    assert (line["method"], line["route"], line["path"], line["status"]) == ("GET", "/echo/{name}", "/echo/x", 101)
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE_ID)


async def test_client_that_disconnects_is_not_an_error(service: Service) -> None:
    async with dial(service, "/echo/x"):
        pass
    assert (await service.access_line())["level"] == "info"
    assert tracebacks(service) == []


async def test_unmatched_websocket_is_rejected(service: Service) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await dial(service, "/nowhere")
    assert caught.value.response.status_code == 403
    line = await service.access_line()
    assert (line["route"], line["status"]) == ("unmatched", 403)


async def test_unhandled_exception_closes_with_1011_and_is_logged_once(service: Service) -> None:
    async with dial(service, "/broken", {"x-request-id": "mine"}) as connection:
        assert await close_code(connection) == (1011, "")
    await service.access_line()
    (line,) = tracebacks(service)
    assert "internal detail" in line["exception"]
    assert line["request_id"] == "mine"


async def test_unhandled_exception_before_the_handshake_rejects_it(service: Service) -> None:
    with pytest.raises(InvalidStatus):
        await dial(service, "/broken-handshake")
    await service.access_line()
    assert len(tracebacks(service)) == 1


async def test_problem_closes_with_1008_and_its_reason(service: Service) -> None:
    async with dial(service, "/forbidden") as connection:
        assert await close_code(connection) == (1008, "Not you.")
    await service.access_line()
    assert tracebacks(service) == []


async def test_websocket_exception_closes_with_its_own_code(service: Service) -> None:
    async with dial(service, "/too-big") as connection:
        assert await close_code(connection) == (1009, "Too much.")
    await service.access_line()
    assert tracebacks(service) == []


async def test_websocket_is_counted_and_active_until_it_ends(service: Service) -> None:
    async with dial(service, "/echo/x"):
        await service.under_way(1)
        before = await service.sample("http_server_request_duration_seconds_count", http_route="/echo/{name}")
    await service.under_way(0)
    after = await service.sample("http_server_request_duration_seconds_count", http_route="/echo/{name}")
    assert after == before + 1


async def test_websocket_has_a_span(service: Service) -> None:
    async with dial(service, "/echo/x", SAMPLED):
        pass
    (span,) = await service.spans()
    assert span.name == "GET /echo/{name}"


async def test_shutdown_closes_with_1012_and_does_not_wait() -> None:
    async with asyncio.timeout(10):
        async with serve(WebSocketRoute("/echo", echo), shutdown_seconds=60.0) as service:
            async with dial(service, "/echo") as connection:
                await connection.send("hello")
                assert await connection.recv() == "hello"
                service.server.stop()
                # RFC 6455's registry: "Service Restart"; clients may come back.
                assert (await close_code(connection))[0] == 1012
            await until(lambda: service.seen.events("stopped"))
            line = await service.access_line()
            assert (line["status"], line["level"]) == (101, "info")
            assert tracebacks(service) == []


async def test_exception_after_the_close_is_logged_once() -> None:
    async def close_and_fail(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()
        raise RuntimeError("internal detail")

    async with serve(WebSocketRoute("/closed", close_and_fail)) as service:
        async with dial(service, "/closed") as connection:
            assert (await close_code(connection))[0] == 1000
        await service.access_line()
        assert len(tracebacks(service)) == 1


async def test_shutdown_during_a_handshake_is_503_and_no_error_of_the_application() -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def accept_late(websocket: WebSocket) -> None:
        begun.set()
        await stopped.wait()
        await websocket.accept()

    async with serve(WebSocketRoute("/late", accept_late), shutdown_seconds=5.0) as service:
        dialling = asyncio.ensure_future(dial(service, "/late"))
        await begun.wait()
        service.server.stop(drain=False)
        with pytest.raises(InvalidStatus) as caught:
            await dialling
        assert caught.value.response.status_code == 503
        stopped.set()
        await service.access_line()
        assert tracebacks(service) == []


async def test_upgrade_to_a_service_without_websockets_is_an_ordinary_request() -> None:
    async with serve() as service:
        with pytest.raises(InvalidStatus) as caught:
            await dial(service, "/nowhere")
        assert caught.value.response.status_code == 404
        await until(lambda: service.seen.events("request"))
