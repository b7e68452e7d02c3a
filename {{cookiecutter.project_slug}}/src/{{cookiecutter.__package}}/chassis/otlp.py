"""Spans as OTLP over HTTP, turned into protobuf's wire format directly.

OpenTelemetry's own exporter builds a message object for each span, attribute and value, at a price of
tens of microseconds for each request. The messages here are few and never change (OTLP is stable
since 1.0), and most of their bytes are the same from one request to the next, so they are remembered.

Follows opentelemetry-proto 1.x (trace/v1/trace.proto), the OTLP specification 1.x ("OTLP/HTTP") and
the OTLP exporter's environment variables, those for traces before those for all signals.
"""

import gzip
import logging
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from random import uniform
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

RETRIED = frozenset({429, 502, 503, 504})  # OTLP/HTTP, "Retryable response codes"
MAX_REMEMBERED = 4096
PLAIN = (str, int)
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200  # SpanFlags

remembered: dict[tuple[str, object], bytes] = {}


class OtlpExporter(SpanExporter):
    """Posts batches of spans; called by the SDK's batch processor, in its thread.

    A failure that may pass is tried again until the timeout (`OTEL_EXPORTER_OTLP_TIMEOUT`, 10 seconds)
    is over; the first of a row of failures is logged, and its end.
    """

    def __init__(self, client: "httpx.Client", url: str, *, headers: Mapping[str, str], timeout_seconds: float) -> None:
        self._client = client
        self._url = url
        self._headers = {"content-type": "application/x-protobuf", **headers}
        self._compresses = headers.get("content-encoding") == "gzip"
        self._timeout_seconds = timeout_seconds
        self._stopping = threading.Event()
        self._failing = False

    @classmethod
    def from_environment(cls) -> "OtlpExporter":
        """The exporter that the environment asks for; raises `ValueError` for what it can't do."""
        import httpx

        protocol = _variable("PROTOCOL") or "http/protobuf"
        if protocol != "http/protobuf":
            raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: this service exports over 'http/protobuf'")
        compression = _variable("COMPRESSION") or "none"
        if compression not in ("none", "gzip"):
            raise ValueError(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression!r}: this service knows 'none' and 'gzip'")
        timeout = _variable("TIMEOUT") or "10"
        try:
            timeout_seconds = float(timeout)
        except ValueError:
            raise ValueError(f"OTEL_EXPORTER_OTLP_TIMEOUT={timeout!r}: a number of seconds, such as 10") from None
        verify = httpx.create_ssl_context(verify=_variable("CERTIFICATE") or True)
        if certificate := _variable("CLIENT_CERTIFICATE"):
            verify.load_cert_chain(certificate, _variable("CLIENT_KEY") or None)
        headers = dict(_parse_header(one) for one in (_variable("HEADERS") or "").split(",") if "=" in one)
        if compression == "gzip":
            headers["content-encoding"] = "gzip"
        client = httpx.Client(verify=verify, timeout=timeout_seconds)
        return cls(client, _url(), headers=headers, timeout_seconds=timeout_seconds)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans` in one request."""
        body = encode_spans(spans)
        if self._compresses:
            body = gzip.compress(body)
        failure = self._post(body)
        if failure and not self._failing:
            log.warning("spans can't be exported to %s: %s", self._url, failure)
        elif self._failing and not failure:
            log.warning("spans are exported again")
        self._failing = bool(failure)
        return SpanExportResult.FAILURE if failure else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Stop waiting for another try, and close the connection."""
        self._stopping.set()
        self._client.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept here."""
        return True

    def _post(self, body: bytes) -> str | None:
        """What went wrong, or None."""
        import httpx

        give_up = monotonic() + self._timeout_seconds
        pause = 0.5
        while True:
            retry_after = ""
            try:
                response = self._client.post(self._url, content=body, headers=self._headers)
            except httpx.HTTPError as error:
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


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """An ExportTraceServiceRequest: the spans of each resource and instrumentation scope together."""
    groups: dict[tuple[Any, Any], list[bytes]] = {}
    for span in spans:
        groups.setdefault((span.resource, span.instrumentation_scope), []).append(field(2, encode_span(span)))
    request = []
    for (resource, scope), encoded in groups.items():
        described = text(1, scope.name) + text(2, scope.version or "") if scope is not None else b""
        scope_spans = field(1, described) + b"".join(encoded)
        attributes = field(1, encode_attributes(1, resource.attributes))
        request.append(field(1, attributes + field(2, scope_spans)))
    return b"".join(request)


def encode_span(span: ReadableSpan) -> bytes:
    """A Span message."""
    context, parent = span.context, span.parent
    if context is None:
        raise ValueError("a span without a context")
    parts = [b"\x0a\x10", context.trace_id.to_bytes(16), b"\x12\x08", context.span_id.to_bytes(8)]
    if context.trace_state:
        parts.append(text(3, context.trace_state.to_header()))
    if parent is not None:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8))
    parts += (
        text(5, span.name),
        b"\x30%c" % (span.kind.value + 1),  # the SDK counts from INTERNAL = 0, the protocol from 1
        struct.pack("<cQcQ", b"\x39", span.start_time or 0, b"\x41", span.end_time or 0),
        encode_attributes(9, span.attributes),
    )
    for event in span.events:
        times = b"\x09" + struct.pack("<Q", event.timestamp)
        parts.append(field(11, times + text(2, event.name) + encode_attributes(3, event.attributes)))
    parts += (field(13, encode_link(link)) for link in span.links)
    if span.status.status_code.value:
        parts.append(field(15, text(2, span.status.description or "") + b"\x18%c" % span.status.status_code.value))
    parts.append(encode_flags(16, parent))
    return b"".join(parts)


def encode_link(link: Link) -> bytes:
    """A Span.Link message."""
    context = link.context
    ids = b"\x0a\x10" + context.trace_id.to_bytes(16) + b"\x12\x08" + context.span_id.to_bytes(8)
    state = text(3, context.trace_state.to_header()) if context.trace_state else b""
    return ids + state + encode_attributes(4, link.attributes) + encode_flags(6, context)


def encode_flags(number: int, context: SpanContext | None) -> bytes:
    """Whether the parent or linked span is known to be in another process."""
    flags = HAS_IS_REMOTE | (IS_REMOTE if context is not None and context.is_remote else 0)
    return varint(number << 3 | 5) + struct.pack("<I", flags)


def encode_attributes(number: int, attributes: Mapping[str, Any] | None) -> bytes:
    """KeyValue messages, each as field `number`."""
    if not attributes:
        return b""
    tag = varint(number << 3 | 2)
    parts: list[bytes] = []
    for item in attributes.items():
        # Text and whole numbers are remembered; 1.0 and True would be the same key as 1, and aren't.
        is_plain = type(item[1]) in PLAIN
        encoded = remembered.get(item) if is_plain else None
        if encoded is None:
            pair = text(1, item[0]) + field(2, encode_value(item[1]))
            encoded = varint(len(pair)) + pair
            if is_plain:
                if len(remembered) >= MAX_REMEMBERED:
                    remembered.clear()
                remembered[item] = encoded
        parts += (tag, encoded)
    return b"".join(parts)


def encode_value(value: Any) -> bytes:
    """An AnyValue message."""
    if isinstance(value, str):
        return text(1, value, always=True)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    if isinstance(value, bytes):
        return field(7, value)
    if isinstance(value, Sequence):
        return field(5, b"".join(field(1, encode_value(one)) for one in value))
    return text(1, str(value), always=True)


def text(number: int, value: str, *, always: bool = False) -> bytes:
    """A string field; protobuf leaves an empty one out, unless which field it is says something."""
    return field(number, value.encode("utf-8", "backslashreplace")) if value or always else b""


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    if value < 0x80:
        return b"%c" % value
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _variable(name: str) -> str:
    specific = os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
    return specific or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()


def _url() -> str:
    # The one for traces is used as it is, the one for all signals gets the signal's path.
    specific = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    general = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or "http://localhost:4318"
    return specific or f"{general.rstrip('/')}/v1/traces"


def _parse_header(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return name.strip().lower(), unquote(value.strip())
