"""Connections that do not live for ever, so that new replicas get their share of the requests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from .support.listener import limits_of, listening
from .support.service import connect, exchange, until

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"connection: close\r\n"
SOON = {"max_connection_age_seconds": 0.1}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with its own port."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % scope["server"][1]})


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Ask, and return the head of the response."""
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"0\r\n\r\n")
    return head


async def test_last_request_of_a_connection_closes_it() -> None:
    async with listening(app, limits=limits_of(max_requests_per_connection=3)) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        assert [CLOSE in await respond(reader, writer) for _ in range(3)] == [False, False, True]
        assert await reader.read() == b""
        writer.close()


async def test_connection_of_its_age_is_closed_by_the_next_response_and_not_while_idle() -> None:
    async with listening(app, limits=limits_of(**SOON)) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        assert CLOSE not in await respond(reader, writer)
        (connection,) = listener.state.connections
        await until(lambda: connection.is_expiring)  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        assert not reader.at_eof()
        assert CLOSE in await respond(reader, writer)
        assert await reader.read() == b""
        writer.close()


async def test_age_differs_between_connections() -> None:
    limits = limits_of(max_connection_age_seconds=100)
    async with listening(app, limits=limits) as listener, AsyncExitStack() as stack:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            stack.callback(writer.close)
        await until(lambda: len(listener.state.connections) == 20)
        now = asyncio.get_running_loop().time()
        ages = [connection._timeouts.age_due - now for connection in listener.state.connections]  # type: ignore[attr-defined]
    assert all(80 < age < 111 for age in ages)
    assert max(ages) - min(ages) > 1


async def test_pipelined_requests_get_responses_and_the_last_one_says_close() -> None:
    async with listening(app, limits=limits_of(max_requests_per_connection=2)) as listener:
        response = await exchange(listener.port, GET * 1500)
    assert response.count(b"HTTP/1.1 200 OK") == 1500
    assert response.count(CLOSE) == 1
    assert CLOSE in response[response.rindex(b"HTTP/1.1 200 OK") :]


async def test_client_that_pipelines_without_end_reads_its_last_response() -> None:
    async with listening(app, limits=limits_of(max_requests_per_connection=2)) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)

        async def ask() -> None:
            while True:
                writer.write(GET * 10)
                await writer.drain()
                await asyncio.sleep(0)

        asking = asyncio.create_task(ask())
        response = await asyncio.wait_for(reader.read(), 10)  # no reset, which would lose it
        asking.cancel()
        writer.close()
    assert response.count(CLOSE) == 1
    assert CLOSE in response[response.rindex(b"HTTP/1.1 200 OK") :]


async def test_stream_and_request_in_flight_outlast_the_age() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"part,", "more_body": True})
            await asyncio.sleep(0.02)
        await send({"type": "http.response.body"})

    async with listening(slow, limits=limits_of(max_connection_age_seconds=0.05)) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(GET)
        response = await reader.readuntil(b"0\r\n\r\n")
        assert (response.count(b"part,"), CLOSE in response) == (10, False)
        writer.write(GET)
        response = await reader.read()
        assert (response.count(b"part,"), CLOSE in response) == (10, True)
        writer.close()


@asynccontextmanager
async def balancing(ports: list[int]) -> AsyncIterator[int]:
    """A balancer that gives each new connection to the next of `ports`, as kube-proxy does: it never looks inside."""
    count = 0

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.write_eof()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        backend_reader, backend_writer = await asyncio.open_connection("127.0.0.1", ports[count % len(ports)])
        try:
            await asyncio.gather(pipe(reader, backend_writer), pipe(backend_reader, writer))
        except OSError:
            pass
        finally:
            backend_writer.close()
            writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("limit", [SOON, {"max_requests_per_connection": 20}])
async def test_new_replica_gets_its_share_behind_a_balancer_of_connections(limit: dict[str, float]) -> None:
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(listening(app, limits=limits_of(**limit))) for _ in range(3)]
        ports = [listener.port for listener in listeners]
        used = ports[:2]
        served: Counter[int] = Counter()
        client = await stack.enter_async_context(connect(await stack.enter_async_context(balancing(used))))

        async def ask() -> None:
            while True:
                response: httpx.Response = await client.get("/")
                served[int(response.text)] += 1
                await asyncio.sleep(0.001)

        asking = [asyncio.create_task(ask()) for _ in range(12)]
        await until(lambda: sum(served.values()) > 200)
        used.append(ports[2])  # the new replica is ready
        # Its share of what is asked from now on comes close to a third.
        await until(lambda: served[ports[2]] > 0, 10)
        served.clear()
        await until(lambda: sum(served.values()) > 1500 and served[ports[2]] > 0.2 * sum(served.values()), 20)
        for task in asking:
            task.cancel()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}  # no request failed
