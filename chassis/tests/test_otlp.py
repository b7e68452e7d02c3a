"""OTLP: what is written is what OpenTelemetry's own encoder writes."""

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_by_opentelemetry
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState

from chassis import Handler, Route
from chassis.telemetry.otlp import (
    MAX_CACHED,
    attribute_cache,
    encode_attributes,
    encode_request,
    encode_request_span,
    encode_span,
    varint,
)
from chassis.telemetry.span_attributes import shared_attributes
from chassis.telemetry.spans import SCOPE, RequestSpan, RequestSpanProcessor

from .support.service import SAMPLED, serve

REMOTE = SpanContext(5, 6, True, TraceFlags(TraceFlags.SAMPLED), TraceState([("vendor", "a"), ("other", "b")]))
VALUES: dict[str, Any] = {
    "text": "é\u2028",
    "empty": "",
    "long": "x" * 300,
    "number": 1,
    "one": 1.0,
    "truth": True,
    "negative": -5,
    "large": 2**62,
    "no": False,
    "zero": 0.0,
    "texts": ["a", "b"],
    "numbers": [1, 300],
    "nothing": [],
}


def spans() -> list[ReadableSpan]:
    """A child span and its parent, which has some of everything."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "test", "replica": 3}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    context = set_span_in_context(NonRecordingSpan(REMOTE))
    with provider.get_tracer("one", "1.0").start_as_current_span(
        "parent", context, kind=SpanKind.SERVER, attributes=VALUES, links=[Link(REMOTE, {"why": "before"})]
    ) as parent:
        parent.add_event("looked", {"where": "there"})
        parent.set_status(StatusCode.ERROR, "it broke")
        with provider.get_tracer("two").start_as_current_span("child", kind=SpanKind.CLIENT):
            pass
    return list(exporter.get_finished_spans())


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    return encode_request([((span.resource, span.instrumentation_scope), [encode_span(span)]) for span in spans])


def normal(request: ExportTraceServiceRequest) -> list[str]:
    """Each span with its resource and scope, without what has no meaning or OpenTelemetry's encoder leaves out."""
    found = []
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                if not span.status.ByteSize():
                    span.ClearField("status")
                for link in span.links:
                    link.ClearField("trace_state")
                found.append(f"{resource.resource}{scope.scope}{span}")
    return found


def test_encoding_is_that_of_opentelemetry() -> None:
    made = spans()
    for _ in range(2):  # the second time from memory
        assert normal(ExportTraceServiceRequest.FromString(encode_spans(made))) == normal(encode_by_opentelemetry(made))


class Item(Handler):
    """Adds to the request's span, and sets an attribute that the span has anyway."""

    async def get(self, number: int) -> None:
        span = trace.get_current_span()
        span.set_attributes({"item": number, "mine": True} if number else {"http.route": "mine"})
        if number == 2:
            span.add_link(REMOTE, {"why": "before"})
            span.add_event("looked", {"where": "there"})
            span.set_status(StatusCode.ERROR, "it broke")


class Collecting(RequestSpanProcessor):
    """Keeps the spans of requests as they are."""

    def __init__(self) -> None:
        self.spans: list[RequestSpan] = []

    def on_request_end(self, span: RequestSpan) -> None:
        self.spans.append(span)


async def test_encoding_of_a_requests_span_is_that_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    collecting = Collecting()
    async with serve(Route("/item", Item())) as service:
        service.app.telemetry.tracing.add_processor(collecting)
        for number in (0, 1, 2, 1):
            for headers in ({}, SAMPLED | {"tracestate": "vendor=a", "user-agent": f"browser/{number}"}):
                await service.client.get("/item", params={"number": number}, headers=headers)
        await service.client.get("/item", params={"number": "none"})
        await service.client.get("/nothing")
        spans = await service.spans(10)
    expected = normal(encode_by_opentelemetry(spans))
    assert normal(ExportTraceServiceRequest.FromString(encode_spans(spans))) == expected
    encoded = encode_request([((span.resource, SCOPE), [encode_request_span(span)]) for span in collecting.spans])
    assert normal(ExportTraceServiceRequest.FromString(encoded)) == expected
    assert all(span.attributes and span.attributes["url.path"] for span in spans)


def test_cache_of_attributes_is_bounded() -> None:
    for number in range(2 * MAX_CACHED):
        encode_attributes(9, {"number": str(number)})
    assert len(attribute_cache) <= MAX_CACHED
    encode_attributes(9, {"long": "x" * 1000})
    assert ("long", "x" * 1000) not in attribute_cache


async def test_cache_of_shared_attributes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_attributes, "max_entries", 3)
    async with serve(Route("/item", Item())) as service:
        for number in range(9):
            headers = SAMPLED | {"user-agent": f"browser/{number}" * (1 if number < 8 else 100)}
            await service.client.get("/item", params={"number": 1}, headers=headers)
        spans = await service.spans(9)
    assert len({dict(span.attributes or {})["user_agent.original"] for span in spans}) == 9
    assert len(shared_attributes) <= 3


def test_link_keeps_its_trace_state() -> None:
    request = ExportTraceServiceRequest.FromString(encode_spans(spans()))
    found = [
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.links
    ]
    assert found[0].links[0].trace_state == "vendor=a,other=b"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"), (2**63, b"\x80" * 9 + b"\x01")],
)
def test_varint(value: int, encoded: bytes) -> None:
    assert varint(value) == encoded
