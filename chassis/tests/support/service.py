"""A service under test: handlers in a real server on a free port, with its log lines and its spans."""

import asyncio
import logging
import ssl
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import orjson
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import BaseRoute

from chassis import App, Server, Telemetry
from chassis.telemetry.logs import Logs
from chassis.telemetry.tracing import Tracing

from .application import make_app

Found = TypeVar("Found")
Line = dict[str, Any]

# Nothing here speaks TLS, and a default context would load every certificate authority for each client.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

PATIENCE_SECONDS = 20.0  # on a slow machine that does much else

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}


async def until(condition: Callable[[], Found], seconds: float = PATIENCE_SECONDS) -> Found:
    """The result of `condition`, as soon as it is true; fails when it isn't within `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            if found := condition():
                return found
            await asyncio.sleep(0.002)


class Observed:
    """A telemetry whose log lines and spans can be read."""

    def __init__(self, path: Path, fd: int, logs: dict[str, Any]) -> None:
        self._path = path
        self._forgotten_bytes = 0
        self._exporter = InMemorySpanExporter()
        options: dict[str, Any] = {"format": "json", "fd": fd} | logs
        lines = Logs(**options)
        tracing = Tracing("test-service", version="1.2.3", redactor=lines.redactor)
        tracing.add_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = Telemetry("test-service", version="1.2.3", commit="c0ffee", logs=lines, tracing=tracing)

    @property
    def output(self) -> bytes:
        """Everything that was logged, as it was written."""
        self.telemetry.logs.writer.flush()
        return self._path.read_bytes()[self._forgotten_bytes :]

    @property
    def lines(self) -> list[Line]:
        """Every log line; each must be a JSON object."""
        lines = [orjson.loads(line) for line in self.output.splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        return lines

    def events(self, event: str) -> list[Line]:
        """The log lines that say `event`."""
        return [line for line in self.lines if line.get("event") == event]

    @property
    def spans(self) -> list[ReadableSpan]:
        """Every span that has ended."""
        return list(self._exporter.get_finished_spans())

    def forget(self) -> None:
        """Begin anew: what was seen until now belongs to another test."""
        self._forgotten_bytes += len(self.output)
        self._exporter.clear()


@contextmanager
def observed(**logs: Any) -> Iterator[Observed]:
    """A telemetry that is the process's configuration inside of the block, and gone after it."""
    structlog_config = structlog.get_config()
    root = logging.getLogger()
    root_handlers, root_level = root.handlers, root.level
    hook, thread_hook = sys.excepthook, threading.excepthook
    installed = Telemetry.installed
    with tempfile.NamedTemporaryFile() as file:
        seen = Observed(Path(file.name), file.fileno(), logs)
        seen.telemetry.install()
        try:
            yield seen
        finally:
            seen.telemetry.logs.writer.flush()
            structlog.configure(**structlog_config)
            root.handlers = root_handlers
            root.setLevel(root_level)
            logging.captureWarnings(False)
            Telemetry.installed = installed
            sys.excepthook, threading.excepthook = hook, thread_hook


@dataclass(frozen=True)
class Service:
    """What `serve` gives."""

    app: App
    server: Server
    client: httpx.AsyncClient
    seen: Observed

    async def access_lines(self, count: int = 1) -> list[Line]:
        """The access lines, once there are `count`: they are written after the client has its response."""
        return await until(lambda: lines if len(lines := self.seen.events("request")) >= count else [])

    async def access_line(self) -> Line:
        """The only access line."""
        (line,) = await self.access_lines()
        return line

    async def spans(self, count: int = 1) -> list[ReadableSpan]:
        """The spans, once there are `count`."""
        return await until(lambda: spans if len(spans := self.seen.spans) >= count else [])

    async def sample(self, name: str, **labels: str) -> float:
        """The value of a metric as a scraper sees it, summed up over the labels that aren't given."""
        lines = (await self.client.get("/metrics")).text.splitlines(keepends=True)
        found = "".join(line for line in lines if line.startswith(name))  # parsing everything would take its time
        samples = [sample for family in text_string_to_metric_families(found) for sample in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    async def under_way(self, count: int) -> None:
        """Wait until `count` requests are under way."""

        def is_so() -> bool:
            families = self.app.telemetry.metrics.registry.collect()
            active = next(one for one in families if one.name == "http_server_active_requests")
            return sum(sample.value for sample in active.samples) == count

        await until(is_so)

    async def fresh(self) -> Self:
        """This service, for the next test: idle, and nothing seen."""
        await self.under_way(0)
        self.seen.forget()
        return self


@asynccontextmanager
async def serve(*routes: BaseRoute, logs: dict[str, Any] | None = None, **app: Any) -> AsyncIterator[Service]:
    """Run `routes` in a server on a free port; `app` goes to `make_app`, with any setting, and `logs` to `Logs`."""
    with observed(**(logs or {})) as seen:
        made = make_app(seen.telemetry, *routes, **app)
        async with Server(made) as running, connect(running.port) as client:
            yield Service(made, running, client, seen)


def connect(port: int) -> httpx.AsyncClient:
    """A client for a service on this machine."""
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", verify=NO_TLS, trust_env=False, timeout=PATIENCE_SECONDS
    )


async def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes and return everything that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reader.read()
    finally:
        writer.close()
