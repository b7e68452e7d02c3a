"""The access rule of the operators' endpoints on the admin port."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from chassis import App, ChassisSettings, Handler, Problem, Server
from chassis.operations.access import OperatorAccess
from chassis.operations.admin_router import RESERVED
from chassis.operations.operator_routes import operator_routes

from .support.application import make_app
from .support.service import Service, connect, exchange, observed, serve

TOKEN = "a-token-of-many-characters"  # noqa: S105 - of these tests
OPEN = ["/healthz", "/readyz", "/metrics", "/info"]
GUARDED = ["/loggers", "/readiness", "/requests", "/logs", "/dependencies"]


@asynccontextmanager
async def operated(**app: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service, and a client of its admin port."""
    async with serve(**{"admin_port": 0} | app) as service, connect(service.server.admin_port or 0) as admin:
        yield service, admin


@pytest.fixture(scope="module")
async def without_token() -> AsyncIterator[httpx.AsyncClient]:
    async with operated() as (_, admin):
        yield admin


@pytest.fixture(scope="module")
async def with_token() -> AsyncIterator[httpx.AsyncClient]:
    async with operated(admin_token=TOKEN) as (_, admin):
        yield admin


@pytest.mark.parametrize("path", GUARDED)
async def test_client_on_this_machine_needs_no_token(without_token: httpx.AsyncClient, path: str) -> None:
    assert (await without_token.get(path)).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:9000", "[::ffff:127.0.0.1]"])
async def test_host_may_be_any_name_of_the_loopback(without_token: httpx.AsyncClient, host: str) -> None:
    assert (await without_token.get("/loggers", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"host": "evil.example"}, "must be 127.0.0.1 or localhost"),
        ({"host": "localhost.evil.example"}, "must be 127.0.0.1 or localhost"),
        ({"host": "127.0.0.1.nip.io:9000"}, "must be 127.0.0.1 or localhost"),
        ({"host": "127.0.0.6"}, "must be 127.0.0.1 or localhost"),
        ({"origin": "https://evil.example"}, "other origins"),
        ({"origin": "null"}, "other origins"),
        ({"origin": "http://localhost:3000", "host": "localhost:9000"}, "other origins"),
        ({"sec-fetch-site": "cross-site"}, "other origins"),
        ({"sec-fetch-site": "same-site"}, "other origins"),
        ({"x-forwarded-for": "127.0.0.1"}, "through a proxy"),
        ({"forwarded": "for=127.0.0.1"}, "through a proxy"),
        ({"x-forwarded-proto": "http"}, "through a proxy"),
        ({"via": "1.1 proxy"}, "through a proxy"),
        ({"x-envoy-expected-rq-timeout-ms": "1"}, "through a proxy"),
    ],
)
async def test_request_of_somebody_else_is_rejected(
    without_token: httpx.AsyncClient, headers: Mapping[str, str], reason: str
) -> None:
    for method, path in (("GET", "/logs"), ("PUT", "/readiness"), ("DELETE", "/loggers/root"), ("GET", "/unknown")):
        response = await without_token.request(method, path, headers=headers)
        assert response.status_code == 403
        assert reason in response.json()["detail"]


async def test_page_of_the_admin_port_itself_is_accepted(without_token: httpx.AsyncClient) -> None:
    headers = {"host": "localhost:9000", "origin": "http://localhost:9000", "sec-fetch-site": "same-origin"}
    assert (await without_token.get("/loggers", headers=headers)).status_code == 200


async def test_preflight_of_another_origin_is_rejected(without_token: httpx.AsyncClient) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "PUT"}
    response = await without_token.options("/readiness", headers=headers)
    assert response.status_code == 403
    assert not any(name.startswith("access-control") for name in response.headers)


async def test_request_without_a_host_is_rejected() -> None:
    async with operated() as (service, _):
        response = await exchange(service.server.admin_port or 0, b"GET /loggers HTTP/1.0\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("headers", [{"host": "10.1.2.3:9000"}, {"x-forwarded-for": "10.0.0.1"}])
async def test_platform_needs_no_access(with_token: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    assert (await with_token.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize("path", GUARDED)
async def test_token_is_accepted_from_anywhere(with_token: httpx.AsyncClient, path: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "host": "orders.example", "x-forwarded-for": "203.0.113.7"}
    assert (await with_token.get(path, headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong-token-of-characters", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer é"],
)
async def test_loopback_needs_the_token_as_well(with_token: httpx.AsyncClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {b"authorization": authorization.encode()}
    response = await with_token.get("/loggers", headers=headers)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, 'Bearer realm="operators"')
    assert "APP_ADMIN_TOKEN" in response.json()["detail"]


async def test_two_tokens_in_one_request_are_rejected(with_token: httpx.AsyncClient) -> None:
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert (await with_token.get("/loggers", headers=headers)).status_code == 401


async def test_rejection_is_logged_without_the_token() -> None:
    async with operated(admin_token=TOKEN) as (service, admin):
        await admin.get("/loggers", headers={"authorization": f"Bearer {TOKEN}x"})
        (line,) = service.seen.events("operator rejected")
        assert (line["by"], line["status"]) == ("127.0.0.1", 401)
        assert (line["method"], line["path"]) == ("GET", "/loggers")
        assert "[redacted]" not in line["reason"]
        assert TOKEN.encode() not in service.seen.output


def scope_of(client: tuple[str, int] | None, server: tuple[str, int] | None) -> dict[str, object]:
    request = {"type": "http", "method": "GET", "path": "/loggers", "headers": [(b"host", b"localhost")]}
    return {**request, "client": client, "server": server}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"])
def test_loopback_has_these_addresses(address: str) -> None:
    OperatorAccess().check(scope_of((address, 1), (address, 9000)))


@pytest.mark.parametrize(
    ("client", "server"),
    [
        (("10.0.0.1", 1), ("10.0.0.2", 9000)),
        (("127.0.0.6", 1), ("10.0.0.2", 9000)),  # a sidecar of Istio, for a client outside of the pod
        (("127.0.0.6", 1), ("127.0.0.1", 9000)),
        (("127.0.0.1", 1), ("10.0.0.2", 9000)),
        (("::ffff:10.0.0.1", 1), ("::1", 9000)),
        (("localhost.evil.example", 1), ("127.0.0.1", 9000)),
        (None, ("127.0.0.1", 9000)),
        (("127.0.0.1", 1), None),
    ],
)
def test_other_clients_are_not_local(client: tuple[str, int] | None, server: tuple[str, int] | None) -> None:
    with observed(), pytest.raises(Problem, match=r"from inside of the pod.*APP_ADMIN_TOKEN"):
        OperatorAccess().check(scope_of(client, server))


async def test_forwarded_address_is_not_that_of_the_client() -> None:
    for address in ("127.0.0.1", "203.0.113.7"):
        async with operated(trusted_proxies="*") as (service, admin):
            response = await admin.get("/loggers", headers={"x-forwarded-for": address})
            assert response.status_code == 403
            assert service.seen.events("operator rejected")[0]["by"] == "127.0.0.1"


async def test_public_port_never_has_them() -> None:
    async with operated() as (service, _):
        for path in GUARDED:
            assert (await service.client.get(path)).status_code == 404
    async with serve() as service:
        for path in GUARDED:
            assert (await service.client.get(path)).status_code == 404


async def test_public_unix_socket_never_has_them(tmp_path: Path) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, unix_socket=str(tmp_path / "socket"))
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "socket"))
        async with Server(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/loggers")).status_code == 404


class Cache(Handler):
    """An owner's handler for operators."""

    async def get(self) -> str:
        return "full"

    async def delete(self) -> None:
        return None

    async def put(self) -> None:
        raise Problem(409, "The cache is in use.")


@asynccontextmanager
async def with_own_route(**settings: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    with observed() as seen:
        app = make_app(seen.telemetry, **{"admin_port": 0} | settings)
        app.add_admin_route("/cache", Cache())
        async with Server(app) as server, connect(server.port) as client, connect(server.admin_port or 0) as admin:
            yield Service(app, server, client, seen), admin


async def test_owner_adds_routes_behind_the_same_rule() -> None:
    async with with_own_route() as (service, admin):
        assert (await admin.get("/cache")).json() == "full"
        assert (await admin.get("/cache", headers={"host": "evil.example"})).status_code == 403
        assert (await service.client.get("/cache")).status_code == 404


async def test_owners_changes_are_audit_lines() -> None:
    async with with_own_route() as (service, admin):
        await admin.get("/cache")
        assert (await admin.delete("/cache")).status_code == 204
        assert (await admin.put("/cache")).status_code == 409
        deleted, rejected = service.seen.events("operator changed the service")
        facts = {name: deleted[name] for name in ("by", "method", "path", "status")}
        assert facts == {"by": "127.0.0.1", "method": "DELETE", "path": "/cache", "status": 204}
        assert (rejected["method"], rejected["status"]) == ("PUT", 409)


@pytest.mark.parametrize("path", ["/", "/metrics", "/loggers/mine", "/{anything}", "cache", ""])
def test_owner_cannot_use_paths_of_the_chassis(path: str) -> None:
    with observed() as seen, pytest.raises(ValueError, match="begin it with a slash and a name of its own"):
        make_app(seen.telemetry).add_admin_route(path, Cache())


def test_reserved_paths_are_those_of_the_chassis() -> None:
    with observed() as seen:
        app: App = make_app(seen.telemetry, fault_injection=True, fault_injection_namespace="local", admin_port=0)
        paths = {route.path.split("/")[1] for route in operator_routes(app.operations)}
        assert paths <= RESERVED


@pytest.mark.parametrize("token", ["short", "with a space in the middle", "ümlaut-of-many-characters"])
def test_weak_token_is_rejected_at_the_start(token: str) -> None:
    with pytest.raises(ValidationError, match="at least 16 letters"):
        ChassisSettings.from_values(admin_token=token)
