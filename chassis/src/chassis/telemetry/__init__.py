"""Logs, metrics and traces of one service, configured together and shut down together."""

import asyncio
import atexit
import threading
from contextlib import suppress
from typing import ClassVar

import structlog

from ..version import __version__
from . import environment  # noqa: F401 - first, since it imports modules of OpenTelemetry that would raise later
from .client_spans import ClientTelemetry
from .exposition import Exposition
from .logs import Logs
from .metrics import Metrics, Tally
from .observer import Observer
from .recent_spans import RecentSpans
from .tracing import Tracing


class Telemetry:
    """The logs, metrics and traces that the chassis and your code write to.

    `telemetry.metrics.registry` takes your metrics. Logs come from `structlog.get_logger()` and spans
    from `opentelemetry.trace.get_tracer(__name__)`, anywhere; both belong to the current request.
    """

    installed: ClassVar["Telemetry | None"] = None
    """The telemetry of the process: the last one that was installed."""

    def __init__(
        self,
        service: str,
        *,
        version: str,
        commit: str,
        logs: Logs,
        tracing: Tracing,
        recent_spans: RecentSpans | None = None,
    ) -> None:
        self.service: str = service
        self.version: str = version
        self.commit: str = commit
        self.logs: Logs = logs
        self.tracing: Tracing = tracing
        self.recent_spans: RecentSpans | None = recent_spans
        """The spans that the console shows; None unless the service runs in development."""
        if recent_spans is not None:
            tracing.add_processor(recent_spans)
        self.metrics: Metrics = Metrics(service, version=version, commit=commit, chassis_version=__version__)
        self.exposition: Exposition = Exposition(self.metrics.registry)
        logs.writer.on_drop = self.metrics.dropped_log_lines.inc
        drops = Tally("spans_dropped", "Spans that were not exported.", "reason", lambda: tracing.dropped_spans)
        self.metrics.registry.register(drops)
        self.known_methods: frozenset[str] = tracing.known_methods
        """The methods that metrics and spans name; all others are one."""
        self.observer: Observer = Observer(logs, self.metrics.requests)
        self.client: ClientTelemetry = ClientTelemetry(tracing)
        """Observes the calls of `http_client`."""
        self.metrics.registry.register(self.client.metrics)
        self._is_installed = False

    def install(self) -> None:
        """Make these the logs and traces of the whole process."""
        self.logs.install()
        self.tracing.install()
        Telemetry.installed = self
        if not self._is_installed:
            self._is_installed = True
            atexit.register(self.observer.observe)

    def on_interrupt(self, count: int) -> None:
        """Count requests that are cancelled at the end of the graceful shutdown."""
        self.metrics.interrupted_requests.inc(count)
        self.observer.is_stopping = True

    def begin_flush(self) -> None:
        """Export the spans that have ended so far, in a thread, and do not wait for it: an exporter may hang."""
        self.observer.observe()
        if self.tracing.exporting:
            threading.Thread(target=self.tracing.flush, name="telemetry-flush", daemon=True).start()

    async def shutdown(self, seconds: float) -> None:
        """Export the last spans, for at most `seconds`, and write the last log lines."""
        self.observer.observe()
        loop = asyncio.get_running_loop()
        flushed = asyncio.Event()

        def flush() -> None:
            self.tracing.shutdown()
            with suppress(RuntimeError):  # the loop is closed when this took too long
                loop.call_soon_threadsafe(flushed.set)

        # An exporter blocks while it sends. A daemon thread, because the end of the process must not
        # wait for a collector that does not respond, as it would for a thread of the loop's executor.
        threading.Thread(target=flush, name="telemetry-shutdown", daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                await flushed.wait()
        except TimeoutError:
            structlog.get_logger().warning("spans could not be exported in time", seconds=seconds)
        self.logs.writer.flush()
