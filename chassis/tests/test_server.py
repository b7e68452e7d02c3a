"""The server as an object: its start, its listening ports, and the order of its shutdown."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from chassis import Handler, Route, Server

from .support.application import make_app
from .support.process import run
from .support.service import connect, exchange, observed, serve, until


class Gate(Handler):
    """Responds when the test releases it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    async def get(self) -> str:
        self.entered.set()
        await self.released.wait()
        return "at last"


class Diary:
    """Records the order of events."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    @asynccontextmanager
    async def resource(self, name: str, error: Exception | None = None) -> AsyncIterator[None]:
        self.entries.append(f"enter {name}")
        if error is not None:
            raise error
        try:
            yield
        finally:
            self.entries.append(f"leave {name}")


def is_closed(port: int) -> bool:
    """Whether connections to the port are rejected."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


async def test_port_0_is_any_free_port_until_the_end() -> None:
    async with serve() as service:
        assert service.server.port != 0
        assert not is_closed(service.server.port)
    assert is_closed(service.server.port)


async def test_resources_are_opened_in_order_and_closed_in_reverse_after_the_last_request() -> None:
    diary, gate = Diary(), Gate()
    async with serve(Route("/", gate), resources=[diary.resource("a"), diary.resource("b")]) as service:
        assert diary.entries == ["enter a", "enter b"]
        asked = asyncio.create_task(service.client.get("/"))
        await gate.entered.wait()
        service.server.stop(drain=False)
        await until(lambda: is_closed(service.server.port))
        assert diary.entries == ["enter a", "enter b"]
        gate.released.set()
        assert (await asked).json() == "at last"
    assert diary.entries == ["enter a", "enter b", "leave b", "leave a"]


async def test_resource_that_fails_stops_the_start_and_closes_the_others() -> None:
    diary = Diary()
    with pytest.raises(RuntimeError, match="no database"):
        async with serve(resources=[diary.resource("a"), diary.resource("b", RuntimeError("no database"))]):
            pass
    assert diary.entries == ["enter a", "enter b", "leave a"]


async def test_drain_accepts_connections_and_responds_with_connection_close() -> None:
    async with serve(drain_seconds=0.4) as service:
        assert "connection" not in (await service.client.get("/docs")).headers
        service.server.stop()
        await until(lambda: service.seen.events("draining"))
        async with connect(service.server.port) as newcomer:
            response = await newcomer.get("/docs")
        assert (response.status_code, response.headers["connection"]) == (200, "close")
        await until(lambda: is_closed(service.server.port))


async def test_drain_responds_with_connection_close_to_requests_that_began_before() -> None:
    gate = Gate()
    async with serve(Route("/", gate), drain_seconds=0.4) as service:
        asked = asyncio.create_task(service.client.get("/"))
        await gate.entered.wait()
        # The server renews the fields of every response together with the date.
        date = (await service.client.get("/docs")).headers["date"]
        while (await service.client.get("/docs")).headers["date"] == date:
            await asyncio.sleep(0.05)
        service.server.stop()
        await until(lambda: service.seen.events("draining"))
        gate.released.set()
        assert (await asked).headers["connection"] == "close"


async def test_idle_connection_does_not_delay_the_shutdown() -> None:
    async with asyncio.timeout(5):
        async with serve(shutdown_seconds=60.0) as service:
            reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            silent_reader, silent_writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        assert (await reader.read()).endswith(b"}")
        assert await silent_reader.read() == b""
        writer.close()
        silent_writer.close()


async def test_request_that_outlasts_the_shutdown_gets_503() -> None:
    gate = Gate()
    async with serve(Route("/", gate), shutdown_seconds=0.0) as service:
        asked = asyncio.create_task(service.client.get("/"))
        await gate.entered.wait()
        service.server.stop()
        response = await asked
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "close" in response.headers["connection"]
        assert (await service.access_line())["status"] == 503


async def test_shutdown_seconds_may_be_a_fraction() -> None:
    gate = Gate()
    async with serve(Route("/", gate), shutdown_seconds=1.45) as service:
        asked = asyncio.create_task(service.client.get("/"))
        await gate.entered.wait()
        service.server.stop()
        asyncio.get_running_loop().call_later(1.3, gate.released.set)
        assert (await asked).status_code == 200


async def test_stop_may_be_called_again() -> None:
    async with serve() as service:
        for _ in range(3):
            service.server.stop()


async def test_start_that_is_stopped_closes_its_resources() -> None:
    left = asyncio.Event()

    @asynccontextmanager
    async def hanging() -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.set()

    with observed() as seen:
        server = Server(make_app(seen.telemetry, resources=[hanging()]))
        serving = asyncio.create_task(server.serve())
        await until(lambda: seen.events("listening"))
        server.stop()
        await asyncio.wait_for(serving, 5)
        assert left.is_set()


async def test_port_in_use_is_an_error() -> None:
    async with serve() as service:
        with pytest.raises(OSError, match="in use"):
            async with serve(port=service.server.port):
                pass


async def test_admin_port_in_use_frees_the_public_one() -> None:
    async with serve() as service:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            async with serve(port=port, admin_port=service.server.port):
                pass
        assert is_closed(port)


async def test_admin_endpoints_move_to_the_admin_port() -> None:
    async with serve(admin_port=0) as service:
        assert service.server.admin_port not in (None, 0, service.server.port)
        async with connect(service.server.admin_port or 0) as admin:
            for path in ("/healthz", "/readyz", "/metrics", "/info"):
                assert (await admin.get(path)).status_code == 200
                assert (await service.client.get(path)).status_code == 404
            assert (await admin.get("/docs")).status_code == 404
        assert (await service.client.get("/docs")).status_code == 200


async def test_admin_port_responds_until_the_public_port_has_ended() -> None:
    gate = Gate()
    async with serve(Route("/", gate), admin_port=0) as service:
        asked = asyncio.create_task(service.client.get("/"))
        await gate.entered.wait()
        service.server.stop()
        await until(lambda: is_closed(service.server.port))
        async with connect(service.server.admin_port or 0) as admin:
            assert (await admin.get("/healthz")).status_code == 200
            assert (await admin.get("/readyz")).status_code == 503
        gate.released.set()
        assert (await asked).status_code == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_host_may_be_an_ipv6_address() -> None:
    async with serve(host="::1") as service:
        response = await service.client.get(f"http://[::1]:{service.server.port}/healthz")
    assert response.status_code == 200


async def test_response_does_not_name_the_software() -> None:
    async with serve() as service:
        response = await service.client.get("/healthz")
    assert "server" not in response.headers
    assert "date" in response.headers


async def test_pipelined_requests_get_their_responses_in_order() -> None:
    class Echo(Handler):
        async def get(self, number: int) -> int:
            await asyncio.sleep(0.02 if number == 0 else 0)
            return number

    async with serve(Route("/{number}", Echo())) as service:
        sent = [b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(10)]
        sent.append(b"GET /10 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        responses = await exchange(service.server.port, b"".join(sent))
    bodies = [int(one.rpartition(b"\r\n")[2]) for one in responses.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == list(range(11))


async def test_service_without_proxies_does_not_import_uvicorn() -> None:
    code = "import sys; from tests.support import program; print('uvicorn' in sys.modules, 'websockets' in sys.modules)"
    async with run("-c", code) as process:
        assert await process.end() == (0, "")
    assert process.output == b"False False\n"


async def test_cancelled_server_shuts_down_without_a_drain() -> None:
    diary = Diary()
    with observed() as seen:
        server = Server(make_app(seen.telemetry, resources=[diary.resource("a")], drain_seconds=60.0))
        serving = asyncio.create_task(server.serve())
        await until(lambda: seen.events("ready"))
        serving.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await serving
        assert seen.events("draining")[0]["seconds"] == 0
    assert diary.entries == ["enter a", "leave a"]
    assert is_closed(server.port)


async def test_shutdown_that_is_cancelled_during_the_drain_ends_tasks_before_resources() -> None:
    diary = Diary()

    async def work() -> None:
        async with diary.resource("task"):
            await asyncio.Event().wait()

    with observed() as seen:
        app = make_app(seen.telemetry, resources=[diary.resource("a")], drain_seconds=60.0, shutdown_seconds=0.2)
        server = Server(app)
        serving = asyncio.create_task(server.serve())
        await until(lambda: seen.events("ready"))
        app.tasks.start(work(), name="work")
        server.stop()
        await until(lambda: seen.events("draining"))
        serving.cancel()
        async with asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await serving
    assert diary.entries == ["enter a", "enter task", "leave task", "leave a"]
    assert is_closed(server.port)


async def test_server_that_is_stopped_before_it_starts_enters_no_resource() -> None:
    diary = Diary()
    with observed() as seen:
        server = Server(make_app(seen.telemetry, resources=[diary.resource("a")]))
        server.stop()
        await asyncio.wait_for(server.serve(), 5)
        assert seen.events("stopped while starting")
    assert diary.entries == []
    assert is_closed(server.port)


async def test_resource_that_fails_at_the_end_does_not_keep_the_ports_open() -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[None]:
        yield
        raise RuntimeError("cannot close")

    with observed() as seen:
        server = Server(make_app(seen.telemetry, resources=[failing()], admin_port=0))
        serving = asyncio.create_task(server.serve())
        await until(lambda: seen.events("ready"))
        server.stop()
        with pytest.raises(RuntimeError, match="cannot close"):
            await asyncio.wait_for(serving, 5)
    assert is_closed(server.port)
    assert is_closed(server.admin_port or 0)
