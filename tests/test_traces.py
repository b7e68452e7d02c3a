"""Spans that a real OTLP endpoint receives, and trace context from and for others."""

from pathlib import Path

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bakery import add_handler
from collector import Collector
from conftest import Bake, Start
from running import Service

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"

CALLING = '''"""Shows what it would send to others."""

from opentelemetry import baggage, trace
from opentelemetry.propagate import inject

from ..chassis import Handler

tracer = trace.get_tracer(__name__)


class Outbound(Handler):
    """The headers of an outbound call."""

    async def get(self) -> dict[str, str]:
        """Read them."""
        with tracer.start_as_current_span("call"):
            headers: dict[str, str] = {}
            inject(headers)
            return headers | {"tenant": str(baggage.get_baggage("tenant"))}
'''


def always_sampling(start: Start, project: Path, collector: Collector) -> Service:
    return start(project, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_SAMPLER="always_on").ready()


def test_span_has_the_name_and_attributes_of_the_conventions(
    start: Start, installed: Path, collector: Collector
) -> None:
    service = always_sampling(start, installed, collector)
    address = "/orders/00000000-0000-0000-0000-000000000000"
    service.http.get(address, headers={"user-agent": "ada/1"})
    line = service.event("request", path=address)
    assert service.end() == 0

    (received,) = collector.spans()

    assert received.span.name == "GET /orders/{order_id}"
    assert received.span.kind == Span.SPAN_KIND_SERVER
    assert (received.trace_id, received.span_id) == (line["trace_id"], line["span_id"])
    assert received.span.end_time_unix_nano > received.span.start_time_unix_nano
    assert received.span.status.code == Status.STATUS_CODE_UNSET
    expected = {
        "http.request.method": "GET",
        "http.route": "/orders/{order_id}",
        "http.response.status_code": 404,
        "url.path": address,
        "url.scheme": "http",
        "user_agent.original": "ada/1",
        "client.address": "127.0.0.1",
    }
    assert {key: received.attributes.get(key) for key in expected} == expected
    assert received.resource["service.name"] == "order-service"
    assert received.resource["service.version"] == "0.1.0"


def test_span_tells_server_and_port_apart(start: Start, installed: Path, collector: Collector) -> None:
    service = always_sampling(start, installed, collector)
    service.http.get("/orders")
    assert service.end() == 0

    attributes = collector.spans()[0].attributes

    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", service.port)


def test_trace_of_the_caller_is_continued(start: Start, installed: Path, collector: Collector) -> None:
    # Sampled because the caller's is: of our own nothing would be.
    service = start(
        installed,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0",
    ).ready()
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}
    service.http.get("/orders", headers=sent)
    service.http.get("/orders")
    assert service.end() == 0

    (received,) = collector.spans()

    assert received.trace_id == TRACE
    assert received.span.parent_span_id.hex() == PARENT
    assert received.span.trace_state == sent["tracestate"]
    assert service.event("request", trace_id=TRACE)["span_id"] == received.span_id


def test_decision_of_the_caller_not_to_sample_is_kept(start: Start, installed: Path, collector: Collector) -> None:
    service = start(
        installed,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_TRACES_SAMPLER="parentbased_always_on",
    ).ready()
    service.http.get("/orders", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    line = service.event("request")
    assert service.end() == 0

    assert line["trace_id"] == TRACE
    assert len(line["span_id"]) == 16
    assert line["span_id"] != PARENT
    assert collector.now() == []


def test_unsampled_request_has_ids_in_its_log(service: Service) -> None:
    answer = service.http.get("/orders", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})

    line = service.event("request", request_id=answer.headers["x-request-id"])
    assert line["trace_id"] == TRACE


def test_broken_traceparent_begins_a_new_trace(service: Service) -> None:
    for broken in (f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", "ff-nonsense", f"00-{TRACE}"):
        answer = service.http.get("/orders", headers={"traceparent": broken})

        line = service.event("request", request_id=answer.headers["x-request-id"])
        assert line["trace_id"] not in (TRACE, "0" * 32)


def test_context_and_baggage_go_out_with_calls_of_a_handler(bake: Bake, start: Start, collector: Collector) -> None:
    project = bake()
    add_handler(
        project, "outbound", CALLING, "from .handlers.outbound import Outbound", 'Route("/outbound", Outbound()),'
    )
    service = always_sampling(start, project, collector)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "rojo=1", "baggage": "tenant=acme"}

    sent = service.http.get("/outbound", headers=headers).json()

    assert service.end() == 0
    spans = {one.span.name: one for one in collector.spans(2)}
    call, request = spans["call"], spans["GET /outbound"]
    assert call.trace_id == request.trace_id == TRACE
    assert call.span.parent_span_id.hex() == request.span_id
    assert sent["traceparent"] == f"00-{TRACE}-{call.span_id}-01"
    assert (sent["tracestate"], sent["baggage"], sent["tenant"]) == ("rojo=1", "tenant=acme", "acme")


def test_failing_collector_does_not_hurt_requests_or_the_end(start: Start, installed: Path) -> None:
    service = start(
        installed, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_TRACES_SAMPLER="always_on"
    ).ready()

    assert service.http.get("/orders").status_code == 200
    assert service.end() == 0
    assert all(line.startswith("{") for line in service.output.all())


def test_console_exporter_shows_spans_without_a_collector(start: Start, installed: Path) -> None:
    service = start(installed, OTEL_TRACES_EXPORTER="console", OTEL_TRACES_SAMPLER="always_on").ready()
    service.http.get("/orders")

    assert service.end() == 0
    assert any('"name": "GET /orders"' in line for line in [*service.output.all(), *service.errors.all()])
