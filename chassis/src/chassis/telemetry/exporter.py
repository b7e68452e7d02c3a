"""Exports spans to a collector: OTLP over HTTP, in batches.

Follows the OTLP specification 1.x ("OTLP/HTTP").
"""

import gzip
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet

from opentelemetry.sdk.trace import ReadableSpan

from . import exporter_environment as environment
from .otlp import Source, encode_request, encode_request_span, encode_span
from .spans import SCOPE, RequestSpan, RequestSpanProcessor

if TYPE_CHECKING:
    import httpx

log: logging.Logger = logging.getLogger(__name__)

LOAD_AFTER_SECONDS = 1.0
RETRIED = frozenset({429, 502, 503, 504})  # OTLP/HTTP, "Retryable response codes"


class OtlpExporter(RequestSpanProcessor):
    """Queues ended spans, and posts them in batches in a thread of its own.

    A span is encoded when it ends: queued bytes cost the garbage collector nothing. At most `max_queued` spans of an
    instrumentation scope are queued. When the collector does not keep up, further ones are dropped, which is logged
    once. A temporary failure is retried until `timeout_seconds` are over. The first of several failures is logged,
    and the first success after them.

    `make_client` is called in that thread after the start of the service: loading the client takes a fifth of the
    start.
    """

    def __init__(
        self,
        make_client: "Callable[[], httpx.Client]",
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float = 10.0,
        max_queued: int = 2048,
        batch_size: int = 512,
        delay_seconds: float = 5.0,
    ) -> None:
        self._make_client = make_client
        self._client: httpx.Client | None = None
        self._url = url
        self._headers = {"content-type": "application/x-protobuf", **headers}
        self._compresses = headers.get("content-encoding") == "gzip"
        self._timeout_seconds = timeout_seconds
        self._max_queued = max_queued
        self._batch_size = batch_size
        self._delay_seconds = delay_seconds
        # By name and version of the instrumentation scope, since hashing a resource of the SDK takes long.
        self._queues: dict[tuple[str, str | None], tuple[Source, deque[bytes]]]
        # By reason.
        self.dropped: dict[str, int] = {"queue_full": 0, "export_failed": 0}
        self._dropping = False
        self._failing = False
        self.begin_empty()
        _exporters.add(self)
        self._start()

    def begin_empty(self) -> None:
        """Forget all spans, also in a forked child: those that it inherits are its parent's to send.

        A child has no thread for the export; its first span starts one.
        """
        self._queues = {}
        self._client = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._posting = threading.Lock()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="span-export", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls) -> "OtlpExporter":
        """The exporter that the environment variables describe.

        Raises `ValueError` for a value that it does not support, and for certificates that cannot be read.
        """
        protocol = environment.variable("PROTOCOL") or "http/protobuf"
        if protocol != "http/protobuf":
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: this service exports over 'http/protobuf'")
        compression = environment.variable("COMPRESSION") or "none"
        if compression not in ("none", "gzip"):
            raise ValueError(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression!r}: this service knows 'none' and 'gzip'")
        timeout = environment.variable("TIMEOUT") or "10"
        try:
            timeout_seconds = float(timeout)
        except ValueError:
            raise ValueError(f"OTEL_EXPORTER_OTLP_TIMEOUT={timeout!r}: a number of seconds, such as 10") from None
        max_queued = environment.whole_number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        names = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
        certificate, client_certificate, client_key = certificates = [environment.variable(name) for name in names]
        make_client = partial(environment.make_client, certificate, client_certificate, client_key, timeout_seconds)
        if any(certificates):
            try:
                make_client().close()  # so that it fails now, rather than lose the first spans
            except OSError as error:
                paths = zip(names, certificates, strict=True)
                given = ", ".join(f"OTEL_EXPORTER_OTLP_{name}={path!r}" for name, path in paths if path)
                raise ValueError(f"{given}: {error.strerror or error}") from error
        headers = dict(
            environment.parse_header(pair) for pair in (environment.variable("HEADERS") or "").split(",") if "=" in pair
        )
        if compression == "gzip":
            headers["content-encoding"] = "gzip"
        return cls(
            make_client,
            environment.url(),
            headers=headers,
            timeout_seconds=timeout_seconds,
            max_queued=max_queued,
            batch_size=min(environment.whole_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), max_queued),
            delay_seconds=environment.whole_number("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span that a handler or library made until its batch is sent."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        scope = span.instrumentation_scope
        key = (scope.name, scope.version) if scope is not None else ("", None)
        queue = self._queue(key, (span.resource, scope))
        if self._has_room(queue):
            self._put(queue, encode_span(span))

    def on_request_end(self, span: RequestSpan) -> None:
        """Keep the span of a request until its batch is sent."""
        queue = self._queue((SCOPE.name, SCOPE.version), (span.resource, SCOPE))
        if self._has_room(queue):
            self._put(queue, encode_request_span(span))

    def _queue(self, key: tuple[str, str | None], source: Source) -> deque[bytes]:
        entry = self._queues.get(key)
        if entry is None:
            entry = self._queues.setdefault(key, (source, deque()))
        return entry[1]

    def _has_room(self, queue: deque[bytes]) -> bool:
        if len(queue) < self._max_queued:
            return True
        self.dropped["queue_full"] += 1
        if not self._dropping:
            self._dropping = True
            log.warning("spans are dropped: %d wait to be exported to %s", len(queue), self._url)
        return False

    def _put(self, queue: deque[bytes], encoded: bytes) -> None:
        queue.append(encoded)
        if self._thread is None:
            self._start()
        if len(queue) >= self._batch_size and not self._wake.is_set():
            self._wake.set()

    def shutdown(self) -> None:
        """Send the queued spans, and close the connection; blocks until then."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if self._client is not None:
            self._client.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send the queued spans now; blocks until then, and returns whether nothing failed."""
        self._export()
        return not self._failing

    def _run(self) -> None:
        self._wake.wait(min(LOAD_AFTER_SECONDS, self._delay_seconds))
        if not self._stopping.is_set():
            with self._posting:
                self._load()  # the first batch reports a failure
        while not self._stopping.is_set():
            self._wake.wait(self._delay_seconds)
            self._wake.clear()
            self._export()
        self._export()

    def _export(self) -> None:
        with self._posting:
            while batch := self._next_batch():
                body = encode_request(batch)
                if self._compresses:
                    body = gzip.compress(body)
                failure = self._post(body)
                if failure:
                    self.dropped["export_failed"] += sum(len(spans) for _, spans in batch)
                self._dropping = self._dropping and bool(failure)
                if failure and not self._failing:
                    log.warning("spans cannot be exported to %s: %s", self._url, failure)
                elif self._failing and not failure:
                    log.warning("spans are exported again")
                self._failing = bool(failure)

    def _next_batch(self) -> list[tuple[Source, list[bytes]]]:
        batch: list[tuple[Source, list[bytes]]] = []
        left = self._batch_size
        for source, queue in [*self._queues.values()]:
            count = min(len(queue), left)
            if count:
                # Other threads only append, so as many spans as are counted may be removed.
                batch.append((source, [queue.popleft() for _ in range(count)]))
                left -= count
        return batch

    def _load(self) -> str | None:
        """Make the client, unless there is one; returns the reason of a failure, or None."""
        import httpx

        try:
            self._client = self._client or self._make_client()
        except (OSError, ValueError, httpx.InvalidURL) as error:  # of proxies, certificates
            return f"{type(error).__name__}: {error}"
        return None

    def _post(self, body: bytes) -> str | None:
        """Send one batch; returns the reason of a failure, or None."""
        import httpx

        failure = self._load()
        if failure or self._client is None:
            return failure
        give_up = monotonic() + self._timeout_seconds
        pause = 0.5
        while True:
            retry_after = ""
            try:
                response = self._client.post(self._url, content=body, headers=self._headers)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: of headers and URLs
                failure = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return None
                failure = f"status {response.status_code}"
                if response.status_code not in RETRIED:
                    return failure
                retry_after = response.headers.get("retry-after", "")
            wait = float(retry_after) if retry_after.isdigit() else pause * uniform(0.8, 1.2)  # noqa: S311 - jitter
            if monotonic() + wait > give_up or self._stopping.wait(wait):
                return failure
            pause *= 2


def _begin_empty_in_child() -> None:
    for exporter in _exporters:
        exporter.begin_empty()


_exporters: WeakSet[OtlpExporter] = WeakSet()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_begin_empty_in_child)
