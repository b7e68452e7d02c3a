"""The health service of gRPC, graceful shutdown, TLS and authentication."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from pydantic import ValidationError

from chassis import App, ChassisSettings, ProviderError, testing
from chassis.grpc import GrpcServer, add_grpc
from chassis.grpc.testing import channel

from .support import process
from .support.application import TEST_SETTINGS, make_app
from .support.certificates import certificate
from .support.grpc_service import SERVICE, Client, Words, add_words, failure, serve, settings
from .support.process import Process
from .support.service import observed
from .support.workers import run_pod

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
PROGRAM = "tests.support.grpc_program"


def health_of(channel: grpc.aio.Channel) -> Any:
    """A client of the health service."""
    return HealthStub(channel)


async def status_of(stub: Any, service: str = "") -> int:
    """The status of a service."""
    status: int = (await stub.Check(HealthCheckRequest(service=service))).status
    return status


async def test_health_follows_readiness() -> None:
    problems: list[str] = []

    def check() -> None:
        if problems:
            raise ValueError(problems[0])

    async with serve(prepare=lambda app: app.add_check("database", check)) as service:
        stub = health_of(service.calls.channel)
        names = ("", SERVICE, "liveness")
        assert [await status_of(stub, name) for name in names] == [SERVING] * 3
        problems.append("down")
        assert [await status_of(stub, name) for name in names] == [NOT_SERVING, NOT_SERVING, SERVING]
        assert (await service.client.get("/readyz")).status_code == 503
        request = health_pb2.HealthListRequest()  # type: ignore[attr-defined] # the stubs are older
        listed = (await stub.List(request)).statuses
        assert {name: one.status for name, one in listed.items()} == dict(
            zip(names, [NOT_SERVING, NOT_SERVING, SERVING], strict=True)
        )
        unknown = await failure(stub.Check(HealthCheckRequest(service="any")))
        assert service.seen.events("call") == []
    assert unknown.code() is StatusCode.NOT_FOUND


async def test_clients_that_watch_hear_of_the_drain() -> None:
    async with serve() as service:
        watch = health_of(service.calls.channel).Watch(HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        service.app.begin_draining()
        assert (await watch.read()).status == NOT_SERVING
        service.app.tasks.stopping.set()
        assert await watch.read() == grpc.aio.EOF


async def test_service_that_is_watched_before_it_is_known_has_a_status() -> None:
    async with serve() as service:
        watch = health_of(service.calls.channel).Watch(HealthCheckRequest(service="later"))
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_probes_are_not_limited() -> None:
    async with serve(grpc_max_calls=1) as service:
        call = service.calls.each("one")
        stub = health_of(service.calls.channel)
        watches = [stub.Watch(HealthCheckRequest()) for _ in range(3)]
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 3
        assert (await call.read()).value == "one"


async def test_port_accepts_no_calls_before_the_resources_are_open() -> None:
    order: list[str] = []

    @asynccontextmanager
    async def database() -> AsyncIterator[None]:
        order.append("opening")
        await asyncio.sleep(0.1)
        order.append("open")
        yield
        order.append("closed")

    async def work(text: str, _context: Any) -> str:
        order.append("called")
        return text

    with observed() as seen:
        app = make_app(seen.telemetry)
        server = added_to(app, Words(work))
        app.add_resource(database())
        async with testing.connect(app), grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            await Client(channel).one()
    assert order == ["opening", "open", "called", "closed"]


def added_to(app: App, servicer: Words) -> GrpcServer:
    """A gRPC server of an app."""
    server = add_grpc(app, settings())
    server.add_service(add_words, servicer)
    return server


async def test_app_that_is_tested_without_a_server_closes_its_port() -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, shutdown_seconds=10.0)
        added_to(app, Words())
        async with testing.connect(app):
            async with channel(app) as calls:
                assert (await Client(calls).one("in")).value == "in"
            began = time.monotonic()
        assert time.monotonic() - began < 5
        async with channel(app) as calls:
            assert (await failure(Client(calls).one())).code() is StatusCode.UNAVAILABLE


def test_channel_of_an_app_without_a_server_is_explained() -> None:
    with observed() as seen, pytest.raises(ProviderError, match="test-service has no gRPC server; call add_grpc"):
        channel(make_app(seen.telemetry))


@asynccontextmanager
async def program(**environment: str) -> AsyncIterator[tuple[Process, Client]]:
    """The service as a process, and a client."""
    variables: dict[str, Any] = {"APP_GRPC_HOST": "127.0.0.1", "APP_GRPC_PORT": "0", **environment}
    async with process.run("-m", PROGRAM, **variables) as service:
        port = (await service.line("listening for gRPC"))["port"]
        await service.line("ready")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield service, Client(channel)


async def test_calls_in_flight_finish_at_shutdown() -> None:
    async with program(APP_DRAIN_SECONDS="0.3", APP_SHUTDOWN_SECONDS="10") as (service, client):
        call = client.one("slow")
        await service.line("begun")
        service.send(signal.SIGTERM)
        await service.line("draining")
        stub = health_of(client.channel)
        assert await status_of(stub) == NOT_SERVING
        assert (await client.one("quick")).value == "quick"
        assert (await call).value == "slow"
        status, errors = await service.end()
    assert (status, errors) == (0, "")
    assert [line["code"] for line in service.lines if line["event"] == "call"] == ["OK", "OK"]
    assert "background tasks cancelled at shutdown" not in service.events


async def test_calls_that_do_not_finish_are_cancelled_at_shutdown() -> None:
    async with program(APP_DRAIN_SECONDS="0", APP_SHUTDOWN_SECONDS="1") as (service, client):
        call = client.one("hang")
        await service.line("begun")
        began = time.monotonic()
        service.send(signal.SIGTERM)
        failed = await failure(call)
        status, errors = await service.end()
    assert (status, errors) == (0, "")
    assert time.monotonic() - began < 8
    assert (failed.code(), failed.details()) == (StatusCode.UNAVAILABLE, "The service is stopping; retry later.")
    (line,) = [line for line in service.lines if line["event"] == "call"]
    assert (line["code"], line["shutdown"], line["level"]) == ("UNAVAILABLE", True, "warning")
    (warning,) = [line for line in service.lines if line["event"] == "gRPC calls cancelled at shutdown"]
    assert warning["count"] == 1


async def test_call_that_ignores_its_cancellation_does_not_keep_the_process() -> None:
    async with program(APP_DRAIN_SECONDS="0", APP_SHUTDOWN_SECONDS="1") as (service, client):
        call = client.one("stubborn")
        await service.line("begun")
        service.send(signal.SIGTERM)
        failed = await failure(call)
        status, errors = await service.end()
    assert (status, errors) == (0, "")
    assert failed.code() is StatusCode.UNAVAILABLE
    (line,) = [line for line in service.lines if line["event"] == "call"]
    assert (line["code"], line["shutdown"]) == ("UNAVAILABLE", True)


async def secure(port: int, authority: bytes, *identity: bytes) -> str:
    """Call a server with TLS; `identity` is the key and the certificate of the client."""
    credentials = grpc.ssl_channel_credentials(authority, *identity)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        text: str = (await Client(channel).one("safe", timeout=10)).value
        return text


async def test_certificate_is_used_and_read_again(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    files: dict[str, Any] = {"grpc_tls_certificate_file": chain, "grpc_tls_key_file": key}
    async with serve(grpc_host="127.0.0.1", **files) as service:
        assert await secure(service.grpc.port, chain.read_bytes()) == "safe"
        assert (await failure(service.calls.one())).code() is StatusCode.UNAVAILABLE
        new_chain, new_key = certificate(other)
        for new, old in ((new_key, key), (new_chain, chain)):
            os.replace(new, old)
        assert await secure(service.grpc.port, chain.read_bytes()) == "safe"
        assert service.seen.events("certificate of gRPC read again")


async def test_clients_need_a_certificate_where_an_authority_is_set(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    own, own_key = certificate(tmp_path, "client")
    files: dict[str, Any] = {
        "grpc_tls_certificate_file": chain,
        "grpc_tls_key_file": key,
        "grpc_tls_client_ca_file": own,
    }
    async with serve(grpc_host="127.0.0.1", **files) as service:
        assert await secure(service.grpc.port, chain.read_bytes(), own_key.read_bytes(), own.read_bytes()) == "safe"
        with pytest.raises(grpc.aio.AioRpcError):
            await secure(service.grpc.port, chain.read_bytes())


def test_settings_of_tls_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="set grpc_tls_certificate_file and grpc_tls_key_file together"):
        settings(grpc_tls_key_file=tmp_path)
    with pytest.raises(ValidationError, match="grpc_tls_client_ca_file needs grpc_tls_certificate_file"):
        settings(grpc_tls_client_ca_file=tmp_path)


async def test_command_does_not_listen() -> None:
    async def act(server: GrpcServer) -> None:
        assert server.port == taken.getsockname()[1]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        app = App(ChassisSettings.from_values(**TEST_SETTINGS), name="test-service")
        add_grpc(app, settings(grpc_host="127.0.0.1", grpc_port=taken.getsockname()[1]))
        app.add_command("act", act)
        assert await testing.run_command(app, "act") == 0


@pytest.mark.skipif(sys.platform != "linux", reason="services with several workers run on Linux")
async def test_several_workers_serve_calls_on_one_port() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables: dict[str, Any] = {"APP_GRPC_HOST": "127.0.0.1", "APP_GRPC_PORT": str(port)}
    async with run_pod(PROGRAM, **variables) as pod:
        await pod.ready()
        calls = 0
        while {line["worker"] for line in pod.found("call")} != {0, 1}:
            options = [("grpc.use_local_subchannel_pool", 1)]  # else all channels share a connection
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                assert (await Client(channel).one("quick")).value == "quick"
            calls += 1
            await pod.line("call", calls)
        assert await pod.sample("rpc_server_call_duration_seconds_count", rpc_method=f"{SERVICE}/One") == calls
        assert await pod.sample("rpc_server_max_calls") == 2000
        pod.send(signal.SIGTERM)
        assert await pod.end() == (0, "")
