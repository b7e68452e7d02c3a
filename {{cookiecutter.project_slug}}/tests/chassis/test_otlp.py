"""OTLP over HTTP: what is written is what OpenTelemetry's own encoder writes, and what the environment asks for."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_by_opentelemetry
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
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
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from {{ cookiecutter.__package }}.chassis.otlp import OtlpExporter, encode_spans, varint

from .service import Service, serve

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


class Collector:
    """Answers with `statuses` one after the other, the last for ever, and keeps what it got."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.headers: dict[str, str] = {}
        self.got: list[Request] = []
        self.bodies: list[bytes] = []

    async def take(self, request: Request) -> Response:
        self.got.append(request)
        self.bodies.append(await request.body())
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Response(status_code=status, headers=self.headers)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    made = Collector()
    async with serve(StarletteRoute("/v1/traces", made.take, methods=["POST"])) as service:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address(service))
        yield made


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.server.port}"


async def export() -> SpanExportResult:
    exporter = OtlpExporter.from_environment()
    try:
        return await asyncio.to_thread(exporter.export, spans())
    finally:
        exporter.shutdown()


async def test_headers_and_compression_are_as_asked(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, tenant = north")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    assert await export() is SpanExportResult.SUCCESS
    headers = collector.got[0].headers
    assert (headers["api-key"], headers["tenant"]) == ("a b", "north")
    assert (headers["content-type"], headers["content-encoding"]) == ("application/x-protobuf", "gzip")
    assert ExportTraceServiceRequest.FromString(gzip.decompress(collector.bodies[0])).resource_spans


async def test_failure_that_may_pass_is_tried_again(collector: Collector) -> None:
    collector.statuses = [503, 429, 200]
    collector.headers = {"retry-after": "0"}
    assert await export() is SpanExportResult.SUCCESS
    assert len(collector.got) == 3
    assert len(set(collector.bodies[0:1])) == 1


async def test_failure_that_stays_is_not_tried_again(collector: Collector) -> None:
    collector.statuses = [400]
    assert await export() is SpanExportResult.FAILURE
    assert len(collector.got) == 1


async def test_row_of_failures_is_logged_once_and_its_end(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.statuses = [400, 400, 200]
    exporter = OtlpExporter.from_environment()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            await asyncio.to_thread(exporter.export, spans())
    exporter.shutdown()
    said = [record.getMessage() for record in caplog.records if record.name.endswith("otlp")]
    assert [message.partition(" to ")[0] for message in said] == ["spans can't be exported", "spans are exported again"]


async def test_absent_collector_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    assert await export() is SpanExportResult.FAILURE


@pytest.mark.parametrize(
    ("name", "value"),
    [("PROTOCOL", "grpc"), ("COMPRESSION", "brotli"), ("TIMEOUT", "soon"), ("TRACES_PROTOCOL", "json")],
)
def test_what_it_cannot_do_is_told(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    with pytest.raises(ValueError, match=f"='{value}': "):
        OtlpExporter.from_environment()
