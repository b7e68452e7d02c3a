"""Spans on their way out: to a collector over HTTP, to the console, or nowhere."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from chassis import ChassisSettings, Handler, Route
from chassis.telemetry.tracing import Tracing
from chassis.wiring import make_telemetry

from .support.process import run
from .support.service import PARENT_ID, SAMPLED, TRACE_ID, Service, observed, serve


class Item(Handler):
    """Makes a span of its own and says something odd about the request's."""

    async def get(self, request: Request) -> None:
        span = trace.get_current_span()
        odd: Any = [object(), None]
        span.set_attribute("odd", odd)
        span.add_event("looked")
        with request.app.telemetry.tracing.provider.get_tracer("test").start_as_current_span("child"):
            pass


class Collector:
    """The spans that an OpenTelemetry collector would have received."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []

    async def take(self, request: Request) -> Response:
        self.requests.append(ExportTraceServiceRequest.FromString(await request.body()))
        return Response(media_type="application/x-protobuf")


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[tuple[Collector, Service]]:
    collector = Collector()
    async with serve(StarletteRoute("/v1/traces", collector.take, methods=["POST"])) as service:
        yield collector, service


async def test_spans_reach_a_collector_by_the_end(
    collector: tuple[Collector, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    received, at = collector
    received.requests.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{at.server.port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    async with serve(Route("/item", Item())) as service:
        await service.client.get("/item", headers=SAMPLED)
    spans = {
        span.name: span
        for request in received.requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert set(spans) == {"GET /item", "child"}
    assert spans["GET /item"].trace_id.hex() == TRACE_ID
    assert spans["GET /item"].parent_span_id.hex() == PARENT_ID
    assert spans["child"].parent_span_id == spans["GET /item"].span_id


async def test_unsampled_request_is_not_exported(
    collector: tuple[Collector, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    received, at = collector
    received.requests.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{at.server.port}/v1/traces")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with serve(Route("/item", Item())) as service:
        await service.client.get("/item", headers=SAMPLED)
    assert received.requests == []


async def test_console_is_for_a_look() -> None:
    code = """if True:
        from opentelemetry import trace
        from chassis.telemetry.tracing import Tracing
        tracing = Tracing("test-service", version="1")
        tracing.install()
        with trace.get_tracer("of a handler").start_as_current_span("seen"):
            pass
        tracing.shutdown()
    """
    async with run("-c", code, OTEL_TRACES_EXPORTER="console", OTEL_TRACES_SAMPLER="always_on") as process:
        assert await process.end() == (0, "")
    assert b'"name": "seen"' in process.output


@contextmanager
def exporting(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Iterator[Tracing]:
    """A tracing configured by the environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tracing = Tracing("test-service", version="1")
    yield tracing
    tracing.shutdown()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_TRACES_EXPORTER": "OTLP"}, True),
    ],
)
def test_environment_switches_the_export(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with exporting(monkeypatch, **environment) as tracing:
        assert tracing.exporting is expected


def test_service_and_version_of_the_telemetry_are_those_that_are_given() -> None:
    settings = ChassisSettings(_env_file=None)  # type: ignore[call-arg]
    telemetry = make_telemetry(settings, service="order-service", version="4.5.6")
    attributes = telemetry.tracing.resource.attributes
    assert (telemetry.service, telemetry.version) == ("order-service", "4.5.6")
    assert (attributes["service.name"], attributes["service.version"]) == ("order-service", "4.5.6")


async def test_exporter_that_hangs_does_not_hold_up_the_end() -> None:
    release = threading.Event()

    class Hanging(SpanProcessor):
        def shutdown(self) -> None:
            release.wait(10)

    with observed() as seen:
        seen.telemetry.tracing.add_processor(Hanging())
        await seen.telemetry.shutdown(0.05)
        (line,) = seen.events("spans could not be exported in time")
        release.set()
    assert line["level"] == "warning"
