"""OTLP: what is written is what OpenTelemetry's own encoder writes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_by_opentelemetry
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace.span import TraceState

from chassis import Handler, Route
from chassis.context import RequestContext
from chassis.telemetry.otlp import (
    MAX_CACHED,
    attribute_cache,
    encode_attributes,
    encode_request,
    encode_request_span,
    encode_span,
    varint,
    warned,
)
from chassis.telemetry.redaction import Redactor
from chassis.telemetry.span_attributes import shared_attributes
from chassis.telemetry.spans import SCOPE, RequestSpan, RequestSpanProcessor, SharedAttributes

from .support.service import PARENT_ID, SAMPLED, TRACE_ID, serve

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


IDS = st.integers(1, 2**64 - 1)
TIMES = st.integers(0, 2**64 - 1)
# Whole numbers beyond 64 bits are among them, which OpenTelemetry's encoder leaves out with the whole attribute.
SIMPLE_VALUES = (
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.text() | st.binary()
)
ATTRIBUTE_VALUES = st.recursive(
    SIMPLE_VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
ATTRIBUTES: st.SearchStrategy[dict[str, Any]] = st.dictionaries(st.text(), ATTRIBUTE_VALUES, max_size=3)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    IDS,
    st.booleans(),
    st.integers(0, 255).map(TraceFlags),
    st.lists(st.sampled_from([("vendor", "a"), ("other", "b=c"), ("t@v", "d")]), unique=True).map(TraceState),
)


def bounded(items: st.SearchStrategy[Any]) -> st.SearchStrategy[BoundedList[Any]]:
    """Lists of the SDK, from which something may have been dropped."""
    return st.lists(items, max_size=4).map(lambda made: BoundedList.from_seq(2, made))


BOUNDED_ATTRIBUTES = st.builds(BoundedAttributes, st.none() | st.integers(0, 4), ATTRIBUTES)
SPANS = st.builds(
    ReadableSpan,
    name=st.text(),
    context=CONTEXTS,
    parent=st.none() | CONTEXTS,
    resource=st.builds(Resource, ATTRIBUTES, st.text(max_size=9)),
    attributes=ATTRIBUTES | BOUNDED_ATTRIBUTES,
    events=bounded(st.builds(Event, st.text(), BOUNDED_ATTRIBUTES, TIMES)),
    links=bounded(st.builds(Link, CONTEXTS, BOUNDED_ATTRIBUTES)),
    kind=st.sampled_from(SpanKind),
    status=st.sampled_from(StatusCode).map(Status) | st.builds(Status, st.just(StatusCode.ERROR), st.text()),
    start_time=TIMES,
    end_time=TIMES,
    instrumentation_scope=st.none()
    | st.builds(InstrumentationScope, st.text(), st.none() | st.text(), st.text(max_size=9), ATTRIBUTES),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SPANS)
def test_every_field_is_that_of_opentelemetry(span: ReadableSpan) -> None:
    with silent():
        expected = encode_by_opentelemetry([span])
    for _ in range(2):  # the second time from the cache
        assert complete(ExportTraceServiceRequest.FromString(encode_spans([span]))) == complete(expected)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_field_of_a_requests_span_is_that_of_opentelemetry(data: st.DataObject) -> None:
    parent = data.draw(st.none() | CONTEXTS)
    ids = data.draw(CONTEXTS)
    request = RequestContext(
        f"{ids.trace_id:032x}", f"{ids.span_id:016x}", "", True, None, parent.trace_state if parent else None
    )
    with silent():
        resource = data.draw(st.builds(Resource, ATTRIBUTES, st.text(max_size=9)))
        limits = SpanLimits(max_span_attributes=4, max_events=2, max_links=2, max_event_attributes=2)
        span = RequestSpan(
            data.draw(st.text()),
            request,
            parent,
            resource=resource,
            export=lambda _: None,
            limits=limits,
            redactor=Redactor(),
        )
        span.shared_attributes = SharedAttributes({"http.route": "/", "http.response.status_code": 500})
        names = st.text(min_size=1) | st.just("http.route")
        span.set_attributes(data.draw(st.dictionaries(names, ATTRIBUTE_VALUES.filter(has_named_keys), max_size=6)))
        for _ in range(data.draw(st.integers(0, 3))):
            span.add_event(data.draw(st.text()), data.draw(ATTRIBUTES), data.draw(TIMES))
            span.add_link(data.draw(CONTEXTS), data.draw(ATTRIBUTES))
        span.set_status(data.draw(st.sampled_from(StatusCode)))
        span.end()
        expected = encode_by_opentelemetry([span.readable()])
    encoded = encode_request([((span.resource, SCOPE), [encode_request_span(span)])])
    assert complete(ExportTraceServiceRequest.FromString(encoded)) == complete(expected)


def has_named_keys(value: object) -> bool:
    """Whether the SDK keeps all of a value; it drops empty keys of dictionaries."""
    if isinstance(value, dict):
        return all(key and has_named_keys(item) for key, item in value.items())
    return not isinstance(value, list) or all(map(has_named_keys, value))


@contextmanager
def silent() -> Iterator[None]:
    """Without a line for each value that the SDK or its encoder drops."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def complete(request: ExportTraceServiceRequest) -> str:
    """All of a request as text, in which NaN is equal to itself; OpenTelemetry leaves out the trace state of links."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                span.status.SetInParent()
                for link in span.links:
                    link.ClearField("trace_state")
    return str(request)


class Unprintable:
    """A value without a text."""

    def __str__(self) -> str:
        raise ValueError("no text")


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("\ud800", True),
        ({"\ud800": ["\ud800"]}, True),
        (Unprintable(), True),
        ({Unprintable, 1}, True),
        (2**63 - 1, True),
        (-(2**63), True),
        (2**63, False),
        (-(2**63) - 1, False),
        ([10**5000], False),
        ([1, 2**64], False),
        ({"a": {"b": 2**64}}, False),
        (circular(), False),
    ],
)
def test_value_that_cannot_be_carried_takes_no_other_with_it(value: Any, kept: bool) -> None:
    request = RequestContext(TRACE_ID, PARENT_ID, "", True)
    span = RequestSpan("GET", request, None, resource=Resource({}), export=lambda _: None, redactor=Redactor())
    span.set_attributes({"odd": value, "plain": 1})
    span.end()
    encoded = encode_request([((span.resource, SCOPE), [encode_request_span(span)])])
    (received,) = ExportTraceServiceRequest.FromString(encoded).resource_spans[0].scope_spans[0].spans
    assert [attribute.key for attribute in received.attributes] == (["odd", "plain"] if kept else ["plain"])


@pytest.mark.parametrize("key", [None, 1, "", b"bytes", "\ud800"])
def test_key_that_cannot_be_carried_takes_no_other_with_it(key: Any) -> None:
    request = RequestContext(TRACE_ID, PARENT_ID, "", True)
    span = RequestSpan("GET", request, None, resource=Resource({}), export=lambda _: None, redactor=Redactor())
    span.set_attributes({key: "odd", "plain": 1})
    span.end()
    encoded = encode_request([((span.resource, SCOPE), [encode_request_span(span)])])
    (received,) = ExportTraceServiceRequest.FromString(encoded).resource_spans[0].scope_spans[0].spans
    assert received.attributes[-1].key == "plain"


def test_attribute_that_is_not_exported_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    warned.clear()
    for _ in range(3):
        encode_attributes(9, {"large": 2**64})
    (record,) = caplog.records
    assert record.getMessage().startswith("attribute 'large' is not exported: ")


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
