"""Debian's Prometheus scrapes the running service, and promtool has nothing to say."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from collector import Collector
from conftest import Start
from prometheus import data, eventually, scraping
from running import Service, needs


@pytest.fixture
def sampled(start: Start, installed: Path, collector: Collector) -> Service:
    """A service that has responded to several requests, each with an exemplar."""
    service = start(installed, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_SAMPLER="always_on").ready()
    for path in ("/orders", "/orders?limit=0", "/orders/1", "/nowhere"):
        service.http.get(path)
    service.http.post("/orders", json={"customer": "Ada", "lines": [{"sku": "tea", "quantity": 1}]})
    return service


@pytest.fixture
def prometheus(sampled: Service, tmp_path: Path) -> Iterator[httpx.Client]:
    """Its HTTP interface, while it scrapes `sampled` every second."""
    needs("prometheus")
    job = {"job_name": "service", "static_configs": [{"targets": [f"127.0.0.1:{sampled.port}"]}]}
    with scraping(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}), tmp_path) as client:
        yield client


def test_prometheus_scrapes_the_service_without_an_error(prometheus: httpx.Client, sampled: Service) -> None:
    count = 'http_server_request_duration_seconds_count{http_route="/orders",http_response_status_code="200"}'
    (series,) = eventually(lambda: (data(prometheus, "query", query=count) or {}).get("result"))
    (target,) = data(prometheus, "targets")["activeTargets"]
    (up,) = data(prometheus, "query", query="up")["result"]
    (exemplars,) = eventually(
        lambda: data(
            prometheus,
            "query_exemplars",
            query='http_server_request_duration_seconds_bucket{http_route="/nowhere"} or '
            'http_server_request_duration_seconds_bucket{http_route="unmatched"}',
            start=str(time.time() - 60),
            end=str(time.time() + 60),
        )
    )

    assert series["value"][1] == "1"
    assert (target["health"], target["lastError"]) == ("up", "")
    assert up["value"][1] == "1"
    assert exemplars["exemplars"][0]["labels"]["trace_id"] == sampled.event("request", path="/nowhere")["trace_id"]


def test_promtool_has_nothing_to_say(sampled: Service) -> None:
    needs("promtool")

    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=sampled.admin.get("/metrics").text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout) == (0, "")
