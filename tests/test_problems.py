"""Every error is a problem document (RFC 9457), carries the trace id, and hides what is internal."""

import json
from collections.abc import Iterator

import httpx
import pytest

from bakery import add_handler
from conftest import Bake, Start
from running import Service

FAILING = '''"""Answers that fail."""

import asyncio

from ..chassis import Handler


class Failing(Handler):
    """Fails in the way that is asked for."""

    async def get(self, way: str) -> dict[str, str]:
        """Fail."""
        if way == "slow":
            await asyncio.sleep(60)
        raise RuntimeError("the password is swordfish")
'''


@pytest.fixture
def failing(bake: Bake, start: Start) -> Service:
    project = bake()
    add_handler(
        project,
        "failing",
        FAILING,
        "from .handlers.failing import Failing",
        'Route("/failing/{way}", Failing()),',
    )
    return start(project, APP_DEADLINE_SECONDS="0.2").ready()


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    """The document, after a look at what all of them have in common."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["type"]
    assert document["title"]
    assert len(document["trace_id"]) == 32
    return dict(document)


def test_unknown_path_is_404(service: Service) -> None:
    document = problem(service.http.get("/nowhere"), 404)

    line = service.event("request", path="/nowhere")
    assert line["trace_id"] == document["trace_id"]
    assert line["route"] == "unmatched"


def test_unknown_order_is_404_with_detail(service: Service) -> None:
    answer = service.http.get("/orders/00000000-0000-0000-0000-000000000000")

    assert problem(answer, 404)["detail"] == "No order has this id."


def test_wrong_method_is_405_with_what_is_allowed(service: Service) -> None:
    answer = service.http.put("/orders")

    problem(answer, 405)
    assert {"GET", "HEAD", "POST", "OPTIONS"} == set(answer.headers["allow"].split(", "))


@pytest.mark.parametrize(
    "content", ["{", "", "{'customer': 1}", '{"customer": NaN', "\ud83d".encode("utf-8", "surrogatepass")]
)
def test_body_that_is_not_json_is_400(service: Service, content: str | bytes) -> None:
    answer = service.http.post("/orders", content=content, headers={"content-type": "application/json"})

    assert "not JSON" in str(problem(answer, 400)["detail"])


def test_declared_body_over_the_limit_is_413(service: Service) -> None:
    answer = service.http.post("/orders", content=b" " * 1_048_577, headers={"content-type": "application/json"})

    assert problem(answer, 413)["max_body_bytes"] == 1_048_576


def test_streamed_body_over_the_limit_is_413(service: Service) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 65_536

    answer = service.http.post("/orders", content=chunks(), headers={"content-type": "application/json"})

    problem(answer, 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_body_that_is_not_called_json_is_415(service: Service, kind: str) -> None:
    answer = service.http.post("/orders", content=b"{}", headers={"content-type": kind})

    problem(answer, 415)


def test_body_of_wrong_values_is_422_with_each_place_and_reason(service: Service) -> None:
    answer = service.http.post("/orders", json={"customer": "", "lines": [{"sku": "tea", "quantity": 0}]})

    errors = problem(answer, 422)["errors"]
    assert isinstance(errors, list)
    assert {error["pointer"] for error in errors} == {"#/customer", "#/lines/0/quantity"}
    assert all(error["in"] == "body" and error["detail"] for error in errors)


def test_wrong_query_and_path_are_422_with_the_name(service: Service) -> None:
    query = problem(service.http.get("/orders", params={"limit": "1000"}), 422)["errors"]
    path = problem(service.http.get("/orders/7"), 422)["errors"]

    assert isinstance(query, list)
    assert isinstance(path, list)
    assert (query[0]["in"], query[0]["name"]) == ("query", "limit")
    assert (path[0]["in"], path[0]["name"]) == ("path", "order_id")


def test_failing_handler_is_500_that_shows_nothing_and_is_logged_once(failing: Service) -> None:
    answer = failing.http.get("/failing/now")

    document = problem(answer, 500)
    assert "swordfish" not in answer.text
    assert "RuntimeError" not in answer.text
    line = failing.event("request", status=500)
    assert line["level"] == "error"
    assert failing.http.get("/orders").status_code == 200
    failing.end()
    failing.output.all()
    logged = [event for event in failing.events() if "swordfish" in json.dumps(event)]
    assert len(logged) == 1
    assert logged[0]["trace_id"] == document["trace_id"]
    assert "Traceback" in logged[0]["exception"]
    assert failing.errors.all() == []


def test_slow_handler_is_504_and_counted(failing: Service) -> None:
    answer = failing.http.get("/failing/slow")

    problem(answer, 504)
    assert failing.event("request", status=504)["route"] == "/failing/{way}"
    assert failing.metric("http_server_timed_out_requests_total") == 1
