"""Test helpers for a service: settings, the application with a client, and its logs, spans and metrics."""

import asyncio
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import structlog

from .app import App
from .configuration.given_settings import PREFIX
from .health import State
from .server import Server
from .telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TEST_PREFIX = f"TEST_{PREFIX}"
WAIT_SECONDS = 5.0
POLL_SECONDS = 0.005


@asynccontextmanager
async def connect(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Start `app` without a server or socket, and yield a client that calls it directly. Faster than `serve`.

    Resources, background tasks, middleware, limits of a request and telemetry work as in production. The client gets a
    response only when it is complete. Use `serve` to test the server's limits (slow clients, sizes of headers,
    connections), WebSockets and endless streams.
    """
    await app.open()
    try:
        # A failure is a response, as over the network, and does not raise in the client.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = app.parts.test_headers()
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
            yield client
    finally:
        await app.stop()


@asynccontextmanager
async def serve(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Run `app` on a free local port, and yield a client whose `base_url` is its address.

    The server, the middleware and the limits of `app.settings` work as in production. Only the drain is skipped at the
    end. Use it if the network matters; otherwise use `connect`, which is faster:

        async def test_stream_ends(app: App) -> None:
            async with serve(app) as client, client.stream("GET", "/ticks") as response:
                ...
    """
    async with (
        Server(app, host="127.0.0.1", port=0) as server,
        # The proxies of the environment are not used for local requests.
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", trust_env=False, headers=app.parts.test_headers()
        ) as client,
    ):
        yield client


async def run_command(app: App, name: str, *words: str) -> int:
    """Run a command of `app` with these arguments, as the command line does, and return its exit status.

    The app is opened without its background tasks, and closed at the end, unless it is open already. Logs and spans are
    those of `record`. Raises `KeyError` for an unknown command, and `UsageError` for wrong arguments.
    """
    from .commands.execution import Execution  # few tests need it

    execution = Execution(app, app.commands[name], words)
    if app.health.state is not State.STARTING:
        return await execution.run()
    await app.open(background=False)
    try:
        return await execution.run()
    finally:
        await app.stop()


class Records:
    """The log lines, spans and metrics of an app; see `record`."""

    def __init__(self, app: App, path: Path, exporter: "InMemorySpanExporter") -> None:
        self._app = app
        self._path = path
        self._exporter = exporter

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log lines so far, access lines included, parsed from JSON.

        Raises `ValueError` if they are not JSON: the setting `log_format` must be `json`.
        """
        self._observe()
        self._app.telemetry.logs.writer.flush()
        lines = self._path.read_text(encoding="utf-8").splitlines()
        try:
            return [json.loads(line) for line in lines]
        except json.JSONDecodeError as error:
            raise ValueError(
                f"the log lines are not JSON: log_format is {self._app.settings.log_format!r}; "
                "set log_format='json' in the settings of the test"
            ) from error

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines so far with this `event`."""
        return [line for line in self.lines if line.get("event") == event]

    async def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for `count` log lines with this `event`, such as those of a background task, and return them.

        Raises `TimeoutError` if there are fewer after 5 seconds.
        """
        async with asyncio.timeout(WAIT_SECONDS):
            while len(lines := self.events(event)) < count:  # noqa: ASYNC110 - a file has no event to wait for
                await asyncio.sleep(POLL_SECONDS)
        return lines

    async def access_lines(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for `count` access lines. With `serve`, a client may get its response before the line is written."""
        return await self.wait_for("request", count)

    @property
    def spans(self) -> "list[ReadableSpan]":
        """The spans that have ended so far, of sampled traces."""
        self._observe()
        return list(self._exporter.get_finished_spans())

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample such as `sold_total`, summed over labels that are not passed; 0 if there is none."""
        self._observe()
        return sum(
            sample.value
            for family in self._app.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _observe(self) -> None:
        # Requests that end in one iteration of the event loop are observed together after it.
        self._app.telemetry.observer.observe()


@contextmanager
def record(app: App) -> Iterator[Records]:
    """Install the telemetry of `app` in the process, as in production, and yield its records. Undone at the end.

    Spans are recorded for sampled traces. If the app was created inside `environment`, all traces are sampled.
    """
    # Imported here and not at the top: these modules raise for invalid `OTEL_*` variables.
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    telemetry = app.telemetry
    exporter = InMemorySpanExporter()
    with tempfile.TemporaryDirectory() as folder, _process_configuration():
        path = Path(folder, "lines")
        with path.open("ab", buffering=0) as file:
            telemetry.install()
            telemetry.tracing.add_processor(SimpleSpanProcessor(exporter))
            # OpenTelemetry accepts one provider per process. So the first app's provider gets the spans of your code.
            provider = trace.get_tracer_provider()
            if isinstance(provider, TracerProvider) and provider is not telemetry.tracing.provider:
                provider.add_span_processor(SimpleSpanProcessor(exporter))
            previous = telemetry.logs.writer.redirect(file.fileno())
            try:
                yield Records(app, path, exporter)
            finally:
                telemetry.observer.observe()
                telemetry.logs.writer.redirect(previous)
                exporter.shutdown()  # it accepts no further spans


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Replace the `APP_*` and `OTEL_*` variables of the environment with settings for tests. Yields the new variables.

    `settings` has values by the names of settings: `{"database_url": "…"}`, or `database__port` for a nested setting.
    A variable such as `TEST_APP_DATABASE_URL` in the environment overrides or adds a setting. All traces are sampled,
    and log lines are JSON. Undone at the end.
    """
    previous = dict(os.environ)
    variables = {f"{PREFIX}LOG_FORMAT": "json"} | {f"{PREFIX}{name.upper()}": text for name, text in settings.items()}
    for name, text in previous.items():
        if name.upper().startswith(TEST_PREFIX):
            variables[name.upper().removeprefix("TEST_")] = text
        elif name.upper().startswith((PREFIX, "OTEL_")):
            del os.environ[name]
    os.environ |= variables | {"OTEL_TRACES_SAMPLER": "always_on"}
    try:
        yield variables
    finally:
        os.environ.clear()
        os.environ.update(previous)


@contextmanager
def _process_configuration() -> Iterator[None]:
    """Restore the process-wide configuration that telemetry changes."""
    structlog_config = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    hook, thread_hook, installed = sys.excepthook, threading.excepthook, Telemetry.installed
    try:
        yield
    finally:
        structlog.configure(**structlog_config)
        root.handlers = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook, Telemetry.installed = hook, thread_hook, installed
