"""One JSON line for each event on standard output, and one access line for each request."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conftest import Start
from running import Service

ACCESS_KEYS = {
    "timestamp",
    "level",
    "event",
    "method",
    "route",
    "path",
    "status",
    "duration_ms",
    "request_bytes",
    "response_bytes",
    "client",
    "request_id",
    "trace_id",
    "span_id",
}


def test_request_has_one_access_line_with_the_ids_of_its_response(service: Service) -> None:
    answer = service.http.get("/orders", params={"limit": 7}, headers={"x-request-id": "ada-1"})

    assert answer.headers["x-request-id"] == "ada-1"
    line = service.event("request", request_id="ada-1")
    assert set(line) == ACCESS_KEYS
    assert (line["method"], line["route"], line["path"], line["status"]) == ("GET", "/orders", "/orders", 200)
    assert (line["level"], line["client"]) == ("info", "127.0.0.1")
    assert line["response_bytes"] == len(answer.content)
    assert 0 < line["duration_ms"] < 5000
    age = datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])
    assert timedelta(0) <= age < timedelta(minutes=1)


def test_request_without_an_id_gets_one(service: Service) -> None:
    answer = service.http.get("/orders")

    line = service.event("request", request_id=answer.headers["x-request-id"])
    assert len(line["trace_id"]) == 32
    assert len(line["span_id"]) == 16


@pytest.mark.parametrize("shape", ["a b", 'x"y', "$(id)", "a" * 129, "\N{SNOWMAN}".encode().decode("latin-1")])
def test_id_that_could_harm_a_log_is_replaced(service: Service, shape: str) -> None:
    answer = service.http.get("/orders", headers={b"x-request-id": shape.encode("latin-1")})

    assert answer.headers["x-request-id"] != shape
    assert service.event("request", request_id=answer.headers["x-request-id"])


def test_many_requests_have_as_many_lines(start: Start, installed: Path) -> None:
    service = start(installed).ready()
    sent = [service.http.get("/orders").headers["x-request-id"] for _ in range(50)]

    assert service.end() == 0
    service.output.all()
    logged = [event["request_id"] for event in service.events() if event["event"] == "request"]
    assert sorted(logged) == sorted(sent)


def test_health_and_metrics_calls_are_logged_only_when_they_fail(start: Start, installed: Path) -> None:
    service = start(installed, APP_MAX_ORDERS="1", APP_READINESS_CACHE_SECONDS="0").ready()
    for path in ("/healthz", "/readyz", "/metrics", "/info"):
        assert service.http.get(path).status_code == 200
    order = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 1}]}
    service.http.post("/orders", json=order)
    assert service.http.get("/readyz").status_code == 503

    assert service.end() == 0
    service.output.all()
    lines = [event["path"] for event in service.events() if event["event"] == "request"]
    assert lines == ["/orders", "/readyz"]


def test_record_of_a_handler_carries_the_ids_of_its_request(service: Service) -> None:
    order = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}
    created = service.http.post("/orders", json=order)

    record = service.event("order confirmed", order_id=created.json()["id"])
    access = service.event("request", request_id=created.headers["x-request-id"])
    assert (record["trace_id"], record["request_id"]) == (access["trace_id"], access["request_id"])


def test_record_of_a_library_has_the_form_of_ours(start: Start, installed: Path) -> None:
    service = start(installed, APP_SHUTDOWN_SECONDS="0.2").ready()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(
            b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n"
            b"content-length: 9\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # now it waits

        assert service.end() == 0
    service.output.all()
    record = service.event("Cancel 1 running task(s), timeout graceful shutdown exceeded")
    assert (record["level"], record["logger"]) == ("error", "uvicorn.error")
    assert service.errors.all() == []


def test_answer_to_head_has_no_bytes(service: Service) -> None:
    answer = service.http.head("/docs")

    assert service.event("request", request_id=answer.headers["x-request-id"])["response_bytes"] == 0
