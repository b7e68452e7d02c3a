"""Telemetry, read by its receivers: spans by an OTLP endpoint, metrics by Prometheus's parsers."""

from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from collector import Collector
from conftest import Start
from running import Service

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
EXPECTED = {
    "http_server_request_duration_seconds": "histogram",
    "http_server_request_body_size_bytes": "histogram",
    "http_server_response_body_size_bytes": "histogram",
    "http_server_active_requests": "gauge",
    "http_server_timed_out_requests": "counter",
    "event_loop_lag_seconds": "histogram",
    "process_cpu_seconds": "counter",
    "process_resident_memory_bytes": "gauge",
    "python_gc_collections": "counter",
    "build_info": "gauge",
}


def families(service: Service, accept: str = "text/plain") -> dict[str, Metric]:
    answer = service.admin.get("/metrics", headers={"accept": accept})
    openmetrics = "openmetrics" in accept
    assert answer.headers["content-type"].startswith("application/openmetrics-text" if openmetrics else "text/plain")
    parse = parse_openmetrics if openmetrics else parse_prometheus
    return {family.name: family for family in parse(answer.text)}


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_metrics_have_their_names_and_kinds(service: Service, accept: str) -> None:
    service.http.get("/orders")
    found = families(service, accept)

    assert {name: found[name].type for name in EXPECTED} == EXPECTED
    assert all(found[name].documentation for name in EXPECTED)


def test_span_has_the_name_and_attributes_of_the_conventions(
    start: Start, installed: Path, collector: Collector
) -> None:
    service = start(installed, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_SAMPLER="always_on").ready()
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
        "server.address": "127.0.0.1",
        "server.port": service.port,
    }
    assert {key: received.attributes.get(key) for key in expected} == expected
    assert received.resource["service.name"] == "order-service"
    assert received.resource["service.version"] == "0.1.0"
