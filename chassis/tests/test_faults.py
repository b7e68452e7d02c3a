"""Faults that are injected into requests: the rules, and what clients and operators see of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import ChassisSettings, FaultRule, Handler, Route, load_settings
from chassis.configuration.acceptance import rejection_reason
from chassis.faults import MAX_RULES, Faults, Hit

from .support.application import make_app
from .support.service import Service, connect, exchange, observed, serve, until

ON: dict[str, Any] = {"fault_injection": True, "fault_injection_namespace": "local", "admin_port": 0}
GET = b"GET /orders/7 HTTP/1.1\r\nhost: x\r\n\r\n"


class Orders(Handler):
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def get(self, order_id: int) -> int:
        self.calls += 1
        return order_id

    async def put(self, order_id: int) -> int:
        return order_id


orders = Orders()
routes = [Route("/orders/{order_id}", orders)]


@asynccontextmanager
async def faulty(**app: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient, Faults]]:
    """A service with faults, a client of its admin port, and the faults."""
    async with serve(*routes, **ON | app) as service, connect(service.server.admin_port or 0) as admin:
        assert service.app.faults is not None
        yield service, admin, service.app.faults


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[tuple[Service, httpx.AsyncClient, Faults]]:
    async with faulty() as all_of_it:
        yield all_of_it


@pytest.fixture
async def parts(running: tuple[Service, httpx.AsyncClient, Faults]) -> tuple[Service, httpx.AsyncClient, Faults]:
    service, _, faults = running
    faults.clear()
    await service.fresh()
    return running


Parts = tuple[Service, httpx.AsyncClient, Faults]


async def test_error_is_a_problem_that_says_that_it_is_injected(parts: Parts) -> None:
    service, _, faults = parts
    calls = orders.calls
    faults.set([FaultRule(status=503, retry_after_seconds=2)])
    response = await service.client.get("/orders/7")
    assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
    assert (response.headers["x-fault-injected"], response.headers["retry-after"]) == ("error", "2")
    assert response.json()["fault"] == "error"
    assert orders.calls == calls


async def test_latency_comes_before_the_handler(parts: Parts) -> None:
    service, _, faults = parts
    faults.set([FaultRule(latency_seconds=0.05)])
    response = await service.client.get("/orders/7")
    assert (response.status_code, response.json(), response.headers["x-fault-injected"]) == (200, 7, "latency")
    # uvloop's timers have whole milliseconds, of a clock that stands while callbacks run: up to 1.5 ms too early.
    assert (await service.access_line())["duration_ms"] >= 48


async def test_latency_counts_for_the_deadline() -> None:
    async with faulty(deadline_seconds=0.05) as (service, _, faults):
        faults.set([FaultRule(latency_seconds=60)])
        assert (await service.client.get("/orders/7")).status_code == 504


async def test_latency_ends_when_the_client_disconnects(parts: Parts) -> None:
    service, _, faults = parts
    faults.set([FaultRule(latency_seconds=60)])
    _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(GET)
    await service.under_way(1)
    writer.close()
    assert (await service.access_line())["status"] == 499


async def test_abort_closes_the_connection_without_a_response(parts: Parts) -> None:
    service, _, faults = parts
    faults.set([FaultRule(abort=True)])
    with pytest.raises(httpx.RemoteProtocolError):
        await service.client.get("/orders/7")
    line = await service.access_line()
    assert (line["status"], line["fault"], line["response_bytes"]) == (499, "abort", 0)
    assert not any("exception" in one for one in service.seen.lines)
    faults.clear()
    assert (await service.client.get("/orders/7")).status_code == 200


async def test_access_line_has_the_fault(parts: Parts) -> None:
    service, _, faults = parts
    faults.set([FaultRule(latency_seconds=0.001, status=500)])
    await service.client.get("/orders/7")
    assert (await service.access_line())["fault"] == "latency,error"


async def test_faults_are_counted_by_kind(parts: Parts) -> None:
    service, admin, faults = parts

    async def count(kind: str) -> float:
        page = (await admin.get("/metrics")).text
        (value,) = [line.split()[1] for line in page.splitlines() if f'injected_faults_total{{kind="{kind}"}}' in line]
        return float(value)

    before = await count("error")
    faults.set([FaultRule(status=500)])
    await service.client.get("/orders/7")
    assert await count("error") == before + 1
    assert "injected_fault_rules 1.0" in (await admin.get("/metrics")).text


@pytest.mark.parametrize(
    ("rule", "method", "path", "headers", "is_hit"),
    [
        ({"route": "/orders/{order_id}"}, "GET", "/orders/7", {}, True),
        ({"route": "/orders"}, "GET", "/orders/7", {}, False),
        ({"path_prefix": "/orders"}, "GET", "/orders/7", {}, True),
        ({"path_prefix": "/products"}, "GET", "/orders/7", {}, False),
        ({"method": "put"}, "PUT", "/orders/7", {}, True),
        ({"method": "put"}, "GET", "/orders/7", {}, False),
        ({"headers": {"X-Fault": "yes"}}, "GET", "/orders/7", {"x-fault": "yes"}, True),
        ({"headers": {"X-Fault": "yes"}}, "GET", "/orders/7", {"x-fault": "no"}, False),
        ({"headers": {"X-Fault": "*"}}, "GET", "/orders/7", {"X-FAULT": "any"}, True),
        ({"headers": {"X-Fault": "*"}}, "GET", "/orders/7", {}, False),
        ({"share": 0}, "GET", "/orders/7", {}, False),
    ],
)
async def test_rule_hits_requests_that_meet_its_conditions(
    parts: Parts, rule: dict[str, Any], method: str, path: str, headers: dict[str, str], is_hit: bool
) -> None:
    service, _, faults = parts
    faults.set([FaultRule.model_validate(rule | {"status": 418})])
    response = await service.client.request(method, path, headers=headers)
    assert response.status_code == (418 if is_hit else 200)


async def test_rules_change_at_the_admin_port(parts: Parts) -> None:
    service, admin, _ = parts
    rules = [{"route": "/orders/{order_id}", "status": 503}, {"latency_seconds": 0.001, "seconds": 60.0}]
    shown = (await admin.put("/faults", json=rules)).json()
    assert [one["rule"] for one in shown] == rules
    assert [one["injected"] for one in shown] == [0, 0]
    assert shown[0]["remaining_seconds"] is None
    assert 0 < shown[1]["remaining_seconds"] <= 60
    assert (await service.client.get("/orders/7")).status_code == 503
    assert [one["injected"] for one in (await admin.get("/faults")).json()] == [1, 0]
    assert (await admin.delete("/faults")).status_code == 204
    assert (await admin.get("/faults")).json() == []
    assert (await service.client.get("/orders/7")).status_code == 200


async def test_each_change_has_a_log_line(parts: Parts) -> None:
    service, admin, _ = parts
    secret = {"headers": {"authorization": "s3cr3t"}, "status": 500}
    await admin.put("/faults", json=[secret])
    await admin.delete("/faults")
    first, second = service.seen.events("faults changed")
    assert (first["level"], first["by"], first["rules"][0]["status"]) == ("warning", "127.0.0.1", 500)
    assert (second["by"], second["rules"]) == ("127.0.0.1", [])
    assert first["trace_id"]
    assert b"s3cr3t" not in service.seen.output


async def test_changes_are_logged_at_any_level() -> None:
    async with faulty(log_level="CRITICAL") as (service, admin, _):
        await admin.put("/faults", json=[{"status": 500, "seconds": 0.05}])
        first, expired = await until(lambda: found if len(found := service.seen.events("faults changed")) == 2 else [])
        assert (first["by"], first["before"], expired["before"]) == ("127.0.0.1", [], first["rules"])


async def test_injected_503_has_the_route_of_its_request(parts: Parts) -> None:
    service, admin, faults = parts
    faults.set([FaultRule(status=503)])
    await service.client.get("/orders/7")
    (request,) = (await admin.get("/requests?limit=1")).json()
    assert (request["status"], request["route"]) == (503, "/orders/{order_id}")


async def test_rule_expires_by_itself_with_a_log_line(parts: Parts) -> None:
    service, admin, faults = parts
    await admin.put("/faults", json=[{"status": 500, "seconds": 0.05}, {"status": 502}])
    _, expired = await until(lambda: lines if len(lines := service.seen.events("faults changed")) == 2 else [])
    assert (expired["by"], expired["rules"]) == ("expiry", [{"status": 502}])
    assert [rule.status for rule in faults.rules] == [502]


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"share": 0.5},
        {"share": 1.5, "status": 500},
        {"share": -0.1, "status": 500},
        {"status": 200},
        {"status": 500, "abort": True},
        {"refuse": True},
        {"client": "catalogue", "route": "/a", "status": 500},
        {"retry_after_seconds": 1, "latency_seconds": 1},
        {"latency_seconds": -1},
        {"latency_seconds": 1e9},
        {"seconds": 0, "status": 500},
        {"path_prefix": "orders", "status": 500},
        {"latncy_seconds": 1},
        {"client": "unknown", "status": 500},
    ],
)
async def test_rule_that_is_wrong_is_422_and_changes_nothing(parts: Parts, rule: dict[str, Any]) -> None:
    _, admin, faults = parts
    faults.set([kept := FaultRule(status=500)])
    assert (await admin.put("/faults", json=[rule])).status_code == 422
    assert faults.rules == [kept]


async def test_too_many_rules_are_422(parts: Parts) -> None:
    _, admin, _ = parts
    rules = [{"status": 500}] * (MAX_RULES + 1)
    assert (await admin.put("/faults", json=rules)).status_code == 422


async def test_public_port_does_not_switch_faults(parts: Parts) -> None:
    service, _, faults = parts
    assert (await service.client.put("/faults", json=[{"status": 500}])).status_code == 404
    assert faults.rules == []


async def test_other_server_does_not_serve_the_rules_on_its_one_port() -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, *routes, **ON)
        await app.open()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            assert (await client.get("/faults")).status_code == 404
            assert (await client.get("/healthz")).status_code == 200
        await app.tasks.stop(0)
        await app.close()


async def test_admin_port_is_never_affected(parts: Parts) -> None:
    _, admin, faults = parts
    faults.set([FaultRule(status=500)])
    for path in ("/healthz", "/readyz", "/metrics", "/info", "/faults"):
        assert (await admin.get(path)).status_code == 200


async def test_without_the_setting_there_are_no_rules_and_no_layer() -> None:
    async with (
        serve(*routes, admin_port=0, fault_injection_namespace="local") as service,
        connect(service.server.admin_port or 0) as admin,
    ):
        assert service.app.faults is None
        assert (await admin.get("/faults")).status_code == 404
        assert "injected_faults" not in (await admin.get("/metrics")).text


async def test_start_with_faults_is_a_warning() -> None:
    async with faulty() as (service, _, _):
        (line,) = service.seen.events("fault injection is on")
        assert line["level"] == "warning"


async def test_owners_middleware_sees_an_injected_error() -> None:
    statuses: list[int] = []

    class Watching:
        """Notes the statuses of responses."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def watch(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                await send(message)

            await self.app(scope, receive, watch)

    async with faulty(middleware=[Middleware(Watching)]) as (service, _, faults):
        faults.set([FaultRule(status=503)])
        assert (await service.client.get("/orders/7")).status_code == 503
        faults.set([FaultRule(abort=True)])
        assert await exchange(service.server.port, GET) == b""
    assert statuses == [503]


async def test_behind_another_server_an_abort_ends_in_an_exception_after_the_start() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    with observed() as seen:
        app = make_app(seen.telemetry, *routes, **ON)
        assert app.faults is not None
        app.faults.set([FaultRule(abort=True)])
        scope = {"type": "http", "method": "GET", "path": "/orders/7", "query_string": b"", "headers": []}
        with pytest.raises(ConnectionAbortedError):
            await app.public(scope | {"root_path": "", "state": {}}, receive, send)
        assert [message["type"] for message in sent] == ["http.response.start"]
        assert not any("exception" in line for line in seen.lines)


def hit(path: str = "/", method: str = "GET") -> Hit:
    return Hit(method, path, lambda _: ())


def test_share_is_that_of_the_random_numbers() -> None:
    numbers = iter([0.29, 0.3, 0.9, 0.1, 0.0])
    faults = Faults(random=lambda: next(numbers))
    faults.set([FaultRule(share=0.3, status=500)])
    # A hit takes a second number, for the jitter.
    assert [faults.choose(hit()) is not None for _ in range(3)] == [True, False, True]


def test_first_rule_that_hits_wins() -> None:
    faults = Faults()
    faults.set([FaultRule(path_prefix="/a", status=500), FaultRule(status=502)])
    found = [faults.choose(hit(path)) for path in ("/a", "/b")]
    assert [fault and fault.status for fault in found] == [500, 502]


def test_jitter_is_added_to_the_latency() -> None:
    faults = Faults(random=lambda: 0.5)
    faults.set([FaultRule(latency_seconds=1, jitter_seconds=0.5)])
    fault = faults.choose(hit())
    assert fault is not None
    assert fault.latency_seconds == 1.25


def test_rule_of_a_client_hits_no_request() -> None:
    faults = Faults()
    faults.clients.add("catalogue")
    faults.set([FaultRule(client="catalogue", status=500)])
    assert faults.choose(hit()) is None


@pytest.mark.parametrize("missing", ["fault_injection_namespace", "admin_port"])
def test_setting_needs_the_others(missing: str) -> None:
    values = {name: value for name, value in ON.items() if name != missing}
    with pytest.raises(ValidationError, match=f"set APP_{missing.upper()} too"):
        ChassisSettings.from_values(**values)


@pytest.mark.parametrize(
    ("accepted", "environment", "reason"),
    [
        ("local", {}, None),
        ("staging", {}, "the service runs in 'local'"),
        ("staging", {"POD_NAMESPACE": "staging"}, None),
        ("staging", {"POD_NAMESPACE": "production"}, "the service runs in 'production'"),
        ("local", {"POD_NAMESPACE": "production"}, "the service runs in 'production'"),
        ("local", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "set POD_NAMESPACE"),
    ],
)
def test_faults_are_accepted_only_in_the_namespace_that_is_named(
    accepted: str, environment: dict[str, str], reason: str | None
) -> None:
    found = rejection_reason(accepted, environment)
    assert found is None if reason is None else reason in (found or "")


def test_start_in_another_namespace_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {"APP_FAULT_INJECTION": "on", "APP_FAULT_INJECTION_NAMESPACE": "staging", "APP_ADMIN_PORT": "9000"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POD_NAMESPACE", "staging")
    assert load_settings(ChassisSettings).fault_injection
    monkeypatch.setenv("POD_NAMESPACE", "production")
    with pytest.raises(SystemExit) as stopped:
        load_settings(ChassisSettings)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: APP_FAULT_INJECTION is on and APP_FAULT_INJECTION_NAMESPACE accepts it in 'staging', "
        "but the service runs in 'production'; remove APP_FAULT_INJECTION here"
    )
