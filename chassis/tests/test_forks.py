"""Forked children: they inherit no ports, clients, spans, or signal handlers of the service."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from chassis import Handler, Route
from chassis.telemetry.exporter import OtlpExporter

from .support.collector import to_collector
from .support.service import SAMPLED, connect, exchange, observed, serve, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Python 3.12 warns of forks in a process with threads
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]


class Child:
    """A child process that waits until the test ends it."""

    def __init__(self, work: Callable[[], object] = lambda: None) -> None:
        reader, writer = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(writer)
                work()
                os.read(reader, 1)
            finally:
                os._exit(0)
        os.close(reader)
        self._writer = writer

    async def end(self) -> int:
        os.close(self._writer)
        return await asyncio.to_thread(self.wait)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


class Fork(Handler):
    """Forks."""

    def __init__(self) -> None:
        self.children: list[Child] = []

    async def get(self) -> str:
        self.children.append(Child())
        return "forked"

    def put(self) -> str:
        self.children.append(Child())
        return "forked"


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_child_keeps_no_port_in_use_and_no_client_connected(method: str) -> None:
    fork = Fork()
    async with serve(Route("/", fork)) as service:
        request = f"{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        # It would not return while the child has the connection.
        assert (await exchange(service.server.port, request)).endswith(b'"forked"')
        assert (await service.client.get("/readyz")).status_code == 200
        port = service.server.port
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of connections that were closed lately
        again.bind(("127.0.0.1", port))
        again.listen()
    assert [await child.end() for child in fork.children] == [0]


async def test_spans_of_the_parent_are_exported_once_and_those_of_the_child_as_well() -> None:
    received: list[str] = []

    async def take(request: Request) -> Response:
        exported = ExportTraceServiceRequest.FromString(await request.body())
        received.extend(
            span.name for resource in exported.resource_spans for scope in resource.scope_spans for span in scope.spans
        )
        return Response()

    async with serve(StarletteRoute("/v1/traces", take, methods=["POST"])) as collector:
        url = f"http://127.0.0.1:{collector.server.port}/v1/traces"
        with observed() as seen:
            exporter = OtlpExporter(lambda: to_collector(url), url, headers={}, delay_seconds=3600)
            seen.telemetry.tracing.add_processor(exporter)
            tracer = seen.telemetry.tracing.provider.get_tracer("test")
            root = {"attributes": {}, "context": _sampled()}
            tracer.start_span("parent", **root).end()  # type: ignore[arg-type]

            def work() -> None:
                tracer.start_span("child", **root).end()  # type: ignore[arg-type]
                exporter.force_flush()

            child = Child(work)
            await until(lambda: "child" in received, seconds=20)
            await asyncio.to_thread(exporter.force_flush)
            assert sorted(received) == ["child", "parent"]
            assert await child.end() == 0
            await asyncio.to_thread(exporter.shutdown)


def _sampled() -> object:
    from opentelemetry.propagate import extract

    return extract(SAMPLED)


async def test_child_observes_no_requests_of_its_parent() -> None:
    async with serve() as service:
        observer = service.app.telemetry.observer
        await service.client.get("/docs")
        child = Child(observer.observe)
        assert await child.end() == 0
        assert len(await service.access_lines()) == 1


async def test_parent_serves_on_while_a_child_runs_and_after_it_is_killed() -> None:
    fork = Fork()
    async with serve(Route("/", fork)) as service:
        await service.client.get("/")
        os.kill(fork.children[0].process, signal.SIGKILL)
        assert await asyncio.to_thread(fork.children[0].wait) == -signal.SIGKILL
        async with connect(service.server.port) as other:
            assert (await other.get("/readyz")).status_code == 200
        assert (await service.client.get("/readyz")).status_code == 200
