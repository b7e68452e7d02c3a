"""Every endpoint of the contract, on one port and on two."""

import re
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from conftest import Start
from running import Service

ADMIN_PATHS = ("/healthz", "/readyz", "/metrics", "/info")


@pytest.mark.parametrize("path", [*ADMIN_PATHS, "/openapi.json", "/docs", "/orders"])
def test_endpoint_answers_on_the_only_port(service: Service, path: str) -> None:
    assert service.http.get(path).status_code == 200


def test_admin_port_has_the_operators_endpoints_alone(start: Start, installed: Path) -> None:
    service = start(installed, APP_ADMIN_PORT="0").ready()

    assert service.admin.base_url != service.http.base_url
    for path in ADMIN_PATHS:
        assert service.admin.get(path).status_code == 200
        assert service.http.get(path).status_code == 404
    for path in ("/orders", "/docs", "/openapi.json"):
        assert service.admin.get(path).status_code == 404
        assert service.http.get(path).status_code == 200


def test_readiness_shows_each_check(service: Service) -> None:
    answer = service.http.get("/readyz").json()

    assert answer["status"] == "ready"
    check = answer["checks"]["order store"]
    assert (check["status"], check["required"]) == ("pass", True)
    assert check["duration_seconds"] >= 0
    assert check["age_seconds"] >= 0


def test_failing_check_is_503_with_its_name(start: Start, installed: Path) -> None:
    service = start(installed, APP_MAX_ORDERS="1", APP_READINESS_CACHE_SECONDS="0").ready()
    order = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 1}]}
    assert service.http.post("/orders", json=order).status_code == 201

    answer = service.http.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["order store"]["status"] == "fail"
    assert service.http.get("/healthz").status_code == 200
    assert service.event("check changed")["status"] == "fail"


def test_info_says_what_is_running(service: Service) -> None:
    answer = service.http.get("/info").json()

    assert answer["name"] == "order-service"
    assert answer["version"] == "0.1.0"
    assert answer["commit"] == "unknown"
    assert re.match(r"\d+\.\d+\.\d+", answer["chassis"])
    assert re.match(r"3\.\d+\.\d+", answer["python"])
    assert re.match(r"\d{4}-\d\d-\d\dT", answer["started"])


def test_openapi_document_is_valid(service: Service) -> None:
    document = service.http.get("/openapi.json").json()

    validate(document, cls=OpenAPIV31SpecValidator)
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {"/orders", "/orders/{order_id}"}
    assert set(document["paths"]["/orders"]) == {"get", "post"}
    assert document["paths"]["/orders"]["post"]["responses"]["201"]


def test_docs_load_nothing_from_elsewhere(service: Service) -> None:
    answer = service.http.get("/docs")

    assert answer.headers["content-type"].startswith("text/html")
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", answer.text)
    assert not re.findall(r"(?:import|fetch)\s*\(?\s*[\"'](?:https?:)?//", answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_orders_are_created_listed_read_and_deleted(service: Service) -> None:
    order = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}

    created = service.http.post("/orders", json=order)

    assert created.status_code == 201
    address = created.headers["location"]
    assert service.http.get(address).json() == created.json()
    assert created.json() in service.http.get("/orders", params={"limit": 100}).json()
    deleted = service.http.delete(address)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert service.http.get(address).status_code == 404


def test_head_has_the_headers_of_get_and_no_body(service: Service) -> None:
    got = service.http.get("/orders")
    head = service.http.head("/orders")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))


def test_options_lists_the_methods(service: Service) -> None:
    answer = service.http.options("/orders")

    assert answer.status_code == 204
    assert {"GET", "HEAD", "POST", "OPTIONS"} == set(answer.headers["allow"].split(", "))


def test_responses_tell_browsers_to_be_careful(service: Service) -> None:
    for path in ("/orders", "/nowhere", "/healthz"):
        headers = service.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"]
        assert "server" not in headers
