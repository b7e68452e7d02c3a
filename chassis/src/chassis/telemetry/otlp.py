"""Spans as OTLP, encoded into protobuf's wire format directly.

OpenTelemetry's own exporter builds a message object for each span, attribute and value. Here, bytes that are the same
in many requests are cached. The messages are few and never change (OTLP is stable since 1.0). See docs/performance.md
in the template.

Follows opentelemetry-proto 1.x (trace/v1/trace.proto).
"""

import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, TraceState

from ..cache import BoundedCache
from .plain_values import text as text_of
from .spans import UNSET, RequestSpan

log: logging.Logger = logging.getLogger(__name__)

MAX_CACHED = 4096
PLAIN = (str, int)
MAX_WARNED = 100
MIN_INT, MAX_INT = -(2**63), 2**63 - 1
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200  # SpanFlags

warned: set[str] = set()

# The origin of a span: its resource and its instrumentation scope.
Source = tuple[Resource, InstrumentationScope | None]

attribute_cache: BoundedCache[tuple[str, Any], bytes] = BoundedCache(MAX_CACHED)


def encode_request(sources: Iterable[tuple[Source, Iterable[bytes]]]) -> bytes:
    """An ExportTraceServiceRequest: encoded spans by their origin."""
    request = []
    for (resource, scope), spans in sources:
        scope_spans = encode_scope(scope) + b"".join([field(2, span) for span in spans])
        attributes = field(1, encode_attributes(1, resource.attributes))
        request.append(field(1, attributes + field(2, scope_spans) + text(3, resource.schema_url)))
    return b"".join(request)


def encode_scope(scope: InstrumentationScope | None) -> bytes:
    """The fields of a ScopeSpans message that are not spans: the scope, and the schema of its spans."""
    if scope is None:
        return field(1, b"")
    named = text(1, scope.name) + text(2, scope.version or "") + encode_attributes(3, scope.attributes)
    return field(1, named) + text(3, scope.schema_url or "")


def encode_span(span: ReadableSpan) -> bytes:
    """A Span message; raises `ValueError` for a span without a context."""
    context = span.context
    if context is None:
        raise ValueError("the span has no context")
    ids = b"\x0a\x10" + context.trace_id.to_bytes(16) + b"\x12\x08" + context.span_id.to_bytes(8)
    attributes = encode_attributes(9, span.attributes) + encode_dropped(span)
    return _encode_span(span, ids, context.trace_state, attributes)


def encode_request_span(span: RequestSpan) -> bytes:
    """A Span message, without building the span's context, and with the cached form of its shared attributes."""
    request = span.request
    ids = b"\x0a\x10" + bytes.fromhex(request.trace_id) + b"\x12\x08" + bytes.fromhex(request.span_id)
    shared, own = span.shared_attributes, span.own_attributes
    if not shared.keys().isdisjoint(own):
        attributes = encode_attributes(9, span.attributes)
    else:
        if shared.encoded is None:
            shared.encoded = encode_attributes(9, shared)
        attributes = shared.encoded + encode_attributes(9, own)
    if span.dropped_attributes or span.dropped_events or span.dropped_links:
        attributes += encode_dropped(span)
    return _encode_span(span, ids, request.trace_state, attributes)


def encode_dropped(span: ReadableSpan | RequestSpan) -> bytes:
    """How many attributes, events and links were beyond the limits of a span."""
    return count(10, span.dropped_attributes) + count(12, span.dropped_events) + count(14, span.dropped_links)


def _encode_span(
    span: ReadableSpan | RequestSpan, ids: bytes, trace_state: TraceState | None, attributes: bytes
) -> bytes:
    parts = [ids]
    if trace_state:
        parts.append(text(3, trace_state.to_header()))
    parent = span.parent
    if parent is not None:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8))
    parts += (
        encode_name(span.name, span.kind),
        struct.pack("<cQcQ", b"\x39", span.start_time or 0, b"\x41", span.end_time or 0),
        attributes,
    )
    for event in span.events:
        times = b"\x09" + struct.pack("<Q", event.timestamp)
        attributes = encode_attributes(3, event.attributes)
        parts.append(field(11, times + text(2, event.name) + attributes + count(4, event.dropped_attributes)))
    for link in span.links:
        parts.append(field(13, encode_link(link)))
    status = span.status
    if status is not UNSET and status.status_code.value:
        parts.append(field(15, text(2, status.description or "") + b"\x18%c" % status.status_code.value))
    parts.append(encode_flags(16, is_remote=parent is not None and parent.is_remote))
    return b"".join(parts)


@lru_cache(MAX_CACHED)
def encode_name(name: str, kind: SpanKind) -> bytes:
    """A span's name and kind."""
    return text(5, name) + b"\x30%c" % (kind.value + 1)  # the SDK counts from INTERNAL = 0, the protocol from 1


def encode_link(link: Link) -> bytes:
    """A Span.Link message."""
    context = link.context
    ids = b"\x0a\x10" + context.trace_id.to_bytes(16) + b"\x12\x08" + context.span_id.to_bytes(8)
    state = text(3, context.trace_state.to_header()) if context.trace_state else b""
    attributes = encode_attributes(4, link.attributes) + count(5, link.dropped_attributes)
    return ids + state + attributes + encode_flags(6, is_remote=context.is_remote)


@lru_cache
def encode_flags(number: int, *, is_remote: bool) -> bytes:
    """Whether the parent or linked span is known to be in another process."""
    flags = HAS_IS_REMOTE | (IS_REMOTE if is_remote else 0)
    return varint(number << 3 | 5) + struct.pack("<I", flags)


def encode_attributes(number: int, attributes: Mapping[str, Any] | None) -> bytes:
    """KeyValue messages, each as field `number`, without those that the protocol cannot carry."""
    if not attributes:
        return b""
    tag = varint(number << 3 | 2)
    parts: list[bytes] = []
    for item in attributes.items():
        # Text and whole numbers are cached; 1.0 and True would be the same key as 1, and are not.
        is_plain = type(item[1]) in PLAIN
        encoded = attribute_cache.get(item) if is_plain else None
        if encoded is None:
            try:
                pair = encode_pair(*item)
            except Exception as error:  # noqa: BLE001 - whatever the value is, the span must not fail of it
                warn_of_attribute(str(item[0]), error)
                continue
            encoded = varint(len(pair)) + pair
            if is_plain:
                attribute_cache.add(item, encoded, size_bytes=len(encoded))
        parts += (tag, encoded)
    return b"".join(parts)


def warn_of_attribute(name: str, error: Exception) -> None:
    """Log once for each of the first attributes with a value that is not exported."""
    if name not in warned and len(warned) < MAX_WARNED:
        warned.add(name)
        log.warning("attribute %r is not exported: %r", name, error)


def encode_pair(key: str, value: Any) -> bytes:
    """A KeyValue message."""
    return text(1, key) + field(2, encode_value(value))


def encode_value(value: Any) -> bytes:
    """An AnyValue message; raises for whole numbers beyond 64 bits, and for a value that contains itself."""
    if isinstance(value, str):
        return text(1, value, always=True)
    if value is None:
        return b""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        if not MIN_INT <= value <= MAX_INT:
            raise ValueError(f"a whole number of {value.bit_length()} bits; at most 64 bits are allowed")
        return b"\x18" + varint(int(value) & 0xFFFFFFFFFFFFFFFF)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    if isinstance(value, bytes):
        return field(7, value)
    if isinstance(value, Sequence):
        return field(5, b"".join([field(1, encode_value(item)) for item in value]))
    if isinstance(value, Mapping):
        return field(6, b"".join([field(1, encode_pair(str(key), item)) for key, item in value.items()]))
    return text(1, text_of(value), always=True)


def text(number: int, value: str, *, always: bool = False) -> bytes:
    """A string field; protobuf omits an empty one, unless it is the chosen member of a `oneof` (`always`)."""
    return field(number, value.encode("utf-8", "backslashreplace")) if value or always else b""


def count(number: int, value: int) -> bytes:
    """A whole number, such as the number of dropped attributes; protobuf omits a zero."""
    return varint(number << 3) + varint(value) if value else b""


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


@lru_cache(MAX_CACHED)
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
