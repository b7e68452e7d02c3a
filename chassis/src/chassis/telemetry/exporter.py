"""Exports spans to a collector: OTLP over HTTP, in batches.

Follows the OTLP specification 1.x ("OTLP/HTTP").
"""

import gzip
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from http.client import HTTPException
from random import uniform
from time import monotonic
from weakref import WeakSet

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as SDK_VERSION  # noqa: N812 - a constant

from ..version import __version__
from . import exporter_environment
from .collector import CollectorConnection
from .environment import Environment
from .otlp import Source, encode_request, encode_request_span, encode_span
from .spans import SCOPE, RequestSpan, RequestSpanProcessor
from .suppression import suppressed

log: logging.Logger = logging.getLogger(__name__)

MIN_DELAY_SECONDS = 0.01  # a delay of 0 would keep the thread busy
MAX_PAUSE_SECONDS = 60.0
SECONDS = re.compile("[0-9]{1,9}")  # of Retry-After
# OTLP exporter, "User Agent": ours in front of the name that identifies exporters by their language.
USER_AGENT = f"chassis/{__version__} OTel-OTLP-Exporter-Python/{SDK_VERSION}".encode()
RETRIED = frozenset({429, 502, 503, 504})  # OTLP/HTTP, "Retryable response codes"

# Of a queue: the id of a resource, and the instrumentation scope. The id
# alone for the spans of requests.
QueueKey = int | tuple[int, InstrumentationScope | None]
AnySpan = RequestSpan | ReadableSpan


class OtlpExporter(RequestSpanProcessor):
    """Queues ended spans, and posts them in batches in a thread of its own.

    Spans are encoded in that thread too, so that no request waits for it. At most `max_queued` spans of an
    instrumentation scope are queued. When the collector does not keep up, further ones are dropped, which is logged
    once. A temporary failure is retried until `timeout_seconds` are over. The first of several failures is logged,
    and the first success after them.

    `connect` is called in that thread, because reading certificates takes long. `url` is for messages.
    """

    def __init__(
        self,
        connect: Callable[[], CollectorConnection],
        url: str,
        *,
        headers: Mapping[str, bytes],
        compresses: bool = False,
        timeout_seconds: float = 10.0,
        max_queued: int = 2048,
        batch_size: int = 512,
        delay_seconds: float = 5.0,
    ) -> None:
        self._connect = connect
        self._connection: CollectorConnection | None = None
        self._shown_url = exporter_environment.shown(url)
        self._headers = {"user-agent": USER_AGENT, "content-type": b"application/x-protobuf", **headers}
        if compresses:
            self._headers["content-encoding"] = b"gzip"
        self._compresses = compresses
        self._timeout_seconds = timeout_seconds
        self._max_queued = max_queued
        self._batch_size = batch_size
        self._delay_seconds = max(delay_seconds, MIN_DELAY_SECONDS)
        self._queues: dict[QueueKey, tuple[Source, deque[AnySpan]]]
        # By reason.
        self.dropped: dict[str, int] = {"queue_full": 0, "export_failed": 0, "not_encodable": 0}
        self._dropping = False
        self._failing = False
        self.begin_empty()
        _exporters.add(self)
        self._start()

    def begin_empty(self) -> None:
        """Discard all spans, also in a forked child: its parent sends those that it inherits.

        A child has no thread for the export; its first span starts one.
        """
        self._queues = {}
        self._connection = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._posting = threading.Lock()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, environment: Environment | None = None) -> "OtlpExporter":
        """The exporter that the environment variables describe, without those that it cannot use.

        They are reported to `environment`; without one they are logged.
        """
        given = environment or Environment()
        limits = exporter_environment.batch_limits(given)
        timeout_seconds = exporter_environment.timeout_seconds(given, limits)
        url = exporter_environment.url(given)
        compression = given.choice(exporter_environment.names_of("COMPRESSION"), ("none", "gzip"), "none")
        made = cls(
            exporter_environment.connector(given, url, timeout_seconds),
            url,
            headers=exporter_environment.headers(given),
            compresses=compression == "gzip",
            timeout_seconds=timeout_seconds,
            max_queued=limits.max_queued,
            batch_size=limits.batch_size,
            delay_seconds=limits.delay_milliseconds / 1000,
        )
        if environment is None:
            given.report()
        return made

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span that a handler or library made until its batch is sent; never raises."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        scope = span.instrumentation_scope
        self._put((id(span.resource), scope), (span.resource, scope), span)

    def on_request_end(self, span: RequestSpan) -> None:
        """Keep the span of a request until its batch is sent; never raises."""
        self._put(id(span.resource), (span.resource, SCOPE), span)

    def _put(self, key: "QueueKey", source: Source, span: AnySpan) -> None:
        # The source keeps the resource alive, so that its id is not given to another one.
        entry = self._queues.get(key)
        if entry is None:
            entry = self._queues.setdefault(key, (source, deque()))
        queue = entry[1]
        if len(queue) >= self._max_queued:
            self._drop_excess()
            return
        queue.append(span)
        if self._thread is None:
            self._start()
        if len(queue) >= self._batch_size and not self._wake.is_set():
            self._wake.set()

    def _drop_excess(self) -> None:
        self.dropped["queue_full"] += 1
        if not self._dropping:
            self._dropping = True
            log.warning(
                "spans are dropped: the queue of %d spans for %s is full; check that the collector responds",
                self._max_queued,
                self._shown_url,
            )

    def shutdown(self) -> None:
        """Send the queued spans, and close the connection; blocks until then."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send the queued spans now; blocks until then, and returns whether nothing failed."""
        self._export()
        return not self._failing

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(self._delay_seconds)
            self._wake.clear()
            self._export()
        self._export()

    def _export(self) -> None:
        with self._posting:
            while batch := self._next_batch():
                if not any(spans for _, spans in batch):
                    continue
                try:
                    body = encode_request(batch)
                    failure = self._post(gzip.compress(body) if self._compresses else body)
                except Exception as error:  # noqa: BLE001 - this thread must go on, whatever a library raises
                    failure = f"{type(error).__name__}: {error}"
                if failure:
                    self.dropped["export_failed"] += sum(len(spans) for _, spans in batch)
                self._dropping = self._dropping and bool(failure)
                if failure and not self._failing:
                    log.warning("spans cannot be exported to %s: %s", self._shown_url, failure)
                elif self._failing and not failure:
                    log.warning("spans are exported again")
                self._failing = bool(failure)

    def _next_batch(self) -> list[tuple[Source, list[bytes]]]:
        batch: list[tuple[Source, list[bytes]]] = []
        remaining = self._batch_size
        for source, queue in [*self._queues.values()]:
            count = min(len(queue), remaining)
            if count:
                # Other threads only append, so as many spans as are counted may be removed.
                batch.append((source, self._encoded([queue.popleft() for _ in range(count)])))
                remaining -= count
        return batch

    def _encoded(self, spans: list[AnySpan]) -> list[bytes]:
        """The spans without those that cannot be encoded."""
        encoded: list[bytes] = []
        for span in spans:
            try:
                encoded.append(encode_request_span(span) if isinstance(span, RequestSpan) else encode_span(span))
            except Exception as error:  # noqa: BLE001 - whatever a handler has put into the span
                self.dropped["not_encodable"] += 1
                if self.dropped["not_encodable"] == 1:
                    log.warning(
                        "span dropped: %r cannot be encoded: %r; further ones are only counted", span.name, error
                    )
        return encoded

    def _post(self, body: bytes) -> str | None:
        """Send one batch; returns the reason of a failure, or None. Raises other exceptions than network failures."""
        if self._connection is None:
            self._connection = self._connect()
        give_up = monotonic() + self._timeout_seconds
        pause = 0.5
        while True:
            retry_after = ""
            token = otel_context.attach(suppressed())  # or an instrumented client would make a span for each request
            try:
                status, retry_after = self._connection.post(body, self._headers)
            except (OSError, HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                if 200 <= status < 300:
                    return None
                failure = f"status {status}"
                if status not in RETRIED:
                    return failure
            finally:
                otel_context.detach(token)
            wait = float(retry_after) if SECONDS.fullmatch(retry_after) else pause * uniform(0.8, 1.2)  # noqa: S311 - jitter
            if monotonic() + wait > give_up or self._stopping.wait(wait):
                return failure
            pause = min(pause * 2, MAX_PAUSE_SECONDS)


def _begin_empty_in_child() -> None:
    for exporter in _exporters:
        exporter.begin_empty()


_exporters: WeakSet[OtlpExporter] = WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_empty_in_child)
