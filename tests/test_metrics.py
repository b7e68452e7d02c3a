"""`/metrics` in both formats, read by prometheus-client's own parsers."""

from pathlib import Path

import pytest
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


def test_request_is_counted_by_method_route_and_status(start: Start, installed: Path) -> None:
    service = start(installed).ready()
    for number in range(3):
        service.http.get(f"/orders/{number}")
    service.http.get("/orders")
    service.http.get("/nowhere")

    count = "http_server_request_duration_seconds_count"
    labels = {"http_request_method": "GET"}
    assert service.metric(count, http_route="/orders/{order_id}", http_response_status_code="422", **labels) == 3
    assert service.metric(count, http_route="/orders", http_response_status_code="200", **labels) == 1
    assert service.metric(count, http_route="unmatched", http_response_status_code="404", **labels) == 1
    routes = {one.labels["http_route"] for one in families(service)["http_server_request_duration_seconds"].samples}
    assert not {route for route in routes if "/0" in route or "nowhere" in route}


def test_unknown_methods_share_one_label(service: Service) -> None:
    for method in ("PROPFIND", "MKCOL"):  # what the HTTP parser knows and RFC 9110 doesn't
        assert service.http.request(method, "/orders").status_code == 405

    assert service.metric("http_server_request_duration_seconds_count", http_request_method="_OTHER") == 2
    assert service.metric("http_server_request_duration_seconds_count", http_request_method="MKCOL") == 0


def test_bodies_are_measured_in_bytes(service: Service) -> None:
    content = b'{"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}'
    labels = {"http_route": "/orders", "http_request_method": "POST"}
    before = service.metric("http_server_request_body_size_bytes_sum", **labels)

    answer = service.http.post("/orders", content=content, headers={"content-type": "application/json"})

    assert service.metric("http_server_request_body_size_bytes_sum", **labels) - before == len(content)
    assert service.metric("http_server_response_body_size_bytes_sum", **labels) >= len(answer.content)


def test_active_requests_return_to_those_that_are_active(service: Service) -> None:
    service.http.get("/orders")

    # The one that asks is itself under way.
    assert service.metric("http_server_active_requests", http_request_method="GET") == 1


def test_build_info_says_what_runs(service: Service) -> None:
    info = service.http.get("/info").json()
    labels = {"service": info["name"], "version": info["version"], "commit": info["commit"]}

    assert service.metric("build_info", chassis_version=info["chassis"], **labels) == 1


def test_sampled_request_is_its_buckets_exemplar_in_openmetrics(
    start: Start, installed: Path, collector: Collector
) -> None:
    service = start(installed, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_SAMPLER="always_on").ready()
    trace_id = service.event("request", request_id=service.http.get("/orders").headers["x-request-id"])["trace_id"]

    samples = families(service, OPENMETRICS)["http_server_request_duration_seconds"].samples

    exemplars = [one.exemplar for one in samples if one.exemplar is not None and one.labels["http_route"] == "/orders"]
    assert [one.labels for one in exemplars] == [{"trace_id": trace_id}]
    assert all(one.exemplar is None for one in families(service)["http_server_request_duration_seconds"].samples)
