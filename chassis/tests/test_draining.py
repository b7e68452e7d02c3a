"""Streams and consumers of queues learn that the shutdown begins; those that do not listen end quietly."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from chassis import Handler, Route

from .support.service import SAMPLED, Service, exchange, serve, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Events(Handler):
    """Sends events until the service drains, or for ever."""

    def __init__(self, *, listens: bool) -> None:
        self._listens = listens

    async def get(self, request: Request) -> Response:
        return StreamingResponse(self._events(request.app.draining), media_type="text/event-stream")

    async def _events(self, draining: asyncio.Event) -> AsyncIterator[str]:
        yield "data: first\n\n"
        await (draining if self._listens else asyncio.Event()).wait()
        yield "data: last\n\n"


def complaints(service: Service) -> list[str]:
    return [line["event"] for line in service.seen.lines if line["level"] == "error" or "exception" in line]


async def test_stream_that_listens_ends_as_soon_as_the_shutdown_begins() -> None:
    async with serve(Route("/", Events(listens=True)), drain_seconds=2.0) as service:
        asked = asyncio.create_task(exchange(service.server.port, GET))
        await service.under_way(1)
        service.server.stop()
        response = await asked
        assert not service.seen.events("stopped")
        assert response.endswith(b"data: last\n\n\r\n0\r\n\r\n")
        line = await service.access_line()
        assert (line["status"], line.get("shutdown")) == (200, None)


async def test_draining_may_be_set_by_a_test() -> None:
    async with serve(Route("/", Events(listens=True))) as service:
        asked = asyncio.create_task(service.client.get("/"))
        await service.under_way(1)
        service.app.draining.set()
        assert (await asked).text == "data: first\n\ndata: last\n\n"
        assert (await service.client.get("/readyz")).status_code == 200


async def test_stream_that_does_not_listen_ends_quietly_and_incomplete() -> None:
    async with serve(Route("/", Events(listens=False)), shutdown_seconds=0.0, admin_port=0) as service:
        traced = GET.replace(b"\r\n\r\n", f"\r\ntraceparent: {SAMPLED['traceparent']}\r\n\r\n".encode())
        asked = asyncio.create_task(exchange(service.server.port, traced))
        await service.under_way(1)
        service.server.stop()
        response = await asked
        assert b"data: first" in response
        assert not response.endswith(b"0\r\n\r\n")
        line = await service.access_line()
        assert (line["level"], line["status"], line["shutdown"]) == ("info", 200, True)
        await until(lambda: service.seen.events("stopped"))
        assert complaints(service) == []
        assert interrupted(service) == 1
        (span,) = await service.spans()
        assert "error.type" not in (span.attributes or {})


def interrupted(service: Service) -> float | None:
    """As the last scrape sees it."""
    return service.app.telemetry.metrics.registry.get_sample_value("http_server_interrupted_requests_total")


async def test_request_without_a_response_is_counted_as_well() -> None:
    class Endless(Handler):
        async def get(self) -> None:
            await asyncio.Event().wait()

    async with serve(Route("/", Endless()), shutdown_seconds=0.0) as service:
        asked = asyncio.create_task(service.client.get("/"))
        await service.under_way(1)
        service.server.stop()
        assert (await asked).status_code == 503
        assert complaints(service) == []
        assert interrupted(service) == 1


async def test_stream_that_fails_while_it_is_cancelled_is_an_error_all_the_same() -> None:
    class Failing(Handler):
        async def get(self) -> Response:
            return StreamingResponse(self._events())

        async def _events(self) -> AsyncIterator[str]:
            yield "first"
            try:
                await asyncio.Event().wait()
            finally:
                raise RuntimeError("cannot clean up")

    async with serve(Route("/", Failing()), shutdown_seconds=0.0) as service:
        asked = asyncio.create_task(exchange(service.server.port, GET))
        await service.under_way(1)
        service.server.stop()
        await asked
        await until(lambda: complaints(service))


async def test_websocket_that_does_not_listen_ends_quietly() -> None:
    entered = asyncio.Event()

    async def endless(websocket: WebSocket) -> None:
        await websocket.accept()
        entered.set()
        await asyncio.Event().wait()

    async with serve(WebSocketRoute("/", endless), shutdown_seconds=0.0) as service:
        handshake = (
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        asked = asyncio.create_task(exchange(service.server.port, handshake))
        await entered.wait()
        service.server.stop()
        assert b" 101 " in await asked
        await until(lambda: service.seen.events("stopped"))
        assert complaints(service) == []
        assert (await service.access_line())["shutdown"] is True


async def test_consumer_stops_taking_work_and_finishes_the_item_in_hand() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    taken, finished = list[int](), list[int]()

    async with serve(shutdown_seconds=5.0) as service:
        draining = service.app.draining

        async def consume() -> None:
            while not draining.is_set():
                taken.append(await queue.get())
                await asyncio.sleep(0.3)
                finished.append(taken[-1])

        service.app.tasks.start(consume(), name="consumer")
        for number in range(3):
            queue.put_nowait(number)
        await until(lambda: taken)
        service.server.stop()
        await until(lambda: service.seen.events("stopped"))
        assert complaints(service) == []
    assert (taken, finished) == ([0], [0])


async def test_draining_is_set_once_the_shutdown_begins() -> None:
    async with serve() as service:
        assert not service.app.draining.is_set()
        assert (await service.client.get("/readyz")).json()["status"] == "ready"
    assert service.app.draining.is_set()
