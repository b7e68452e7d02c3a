"""gRPC calls of an app with authentication: denied by default, as requests are."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from chassis import App, ChassisSettings, public, requires
from chassis.auth import AuthSettings, Principal, add_auth
from chassis.auth.issuer import Issuer
from chassis.auth.testing import issuer_for
from chassis.grpc import GrpcServiceError, add_grpc

from .support.application import TEST_SETTINGS, make_app
from .support.grpc_service import Client, Context, GrpcService, Words, add_words, failure, received, running, settings
from .support.service import observed


class Settings(ChassisSettings, AuthSettings):
    """The settings of the service."""


class Guarded(Words):
    """Tells who calls."""

    async def One(self, request: StringValue, context: Context, principal: Principal) -> StringValue:  # type: ignore[override]  # noqa: N802
        return StringValue(value=principal.subject)

    @requires(scopes=["words:split"])
    async def Split(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:  # noqa: N802
        yield request

    @public
    async def Join(  # type: ignore[override]  # noqa: N802
        self, messages: AsyncIterator[StringValue], context: Context, principal: Principal | None
    ) -> StringValue:
        return StringValue(value=principal.subject if principal else "nobody")


@asynccontextmanager
async def serve() -> AsyncIterator[tuple[GrpcService, Issuer]]:
    """A service whose clients need tokens."""
    values = Settings.from_values(**TEST_SETTINGS, auth_issuer="http://127.0.0.1:1", auth_audience=["words"])
    with observed() as seen:
        app = App(values, name="words", version="1", telemetry=seen.telemetry)
        add_auth(app, values)
        server = add_grpc(app, settings())
        server.add_service(add_words, Guarded())
        issuer = issuer_for(app)
        async with running(app, server, seen) as service:
            yield service, issuer


def bearer(token: str) -> dict[str, Any]:
    """The metadata of a call with a token."""
    return {"metadata": (("authorization", f"Bearer {token}"),)}


async def test_every_method_denies_by_default() -> None:
    async with serve() as (service, issuer):
        calls: Client = service.calls
        failed = await failure(calls.one())
        wrong = await failure(calls.one(**bearer("wrong")))
        each = await failure(received(calls.each("one")))
        assert (await calls.one(**bearer(issuer.token("ada")))).value == "ada"
        lines = await service.call_lines(4)
        health: Any = HealthStub(calls.channel)
        assert (await health.Check(HealthCheckRequest())).status
    assert [error.code() for error in (failed, wrong, each)] == [StatusCode.UNAUTHENTICATED] * 3
    assert failed.details() == "Send a bearer token (Authorization: Bearer …)."
    assert [line["code"] for line in lines] == ["UNAUTHENTICATED"] * 3 + ["OK"]
    assert lines[3]["subject"] == "ada"


async def test_methods_need_their_scopes() -> None:
    async with serve() as (service, issuer):
        calls = service.calls
        failed = await failure(received(calls.split("one", **bearer(issuer.token("ada")))))
        token = issuer.token("ada", scopes=["words:split"])
        assert await received(calls.split("one", **bearer(token))) == ["one"]
    assert failed.code() is StatusCode.PERMISSION_DENIED


async def test_public_method_may_know_who_calls() -> None:
    async with serve() as (service, issuer):
        calls = service.calls
        assert (await calls.join("one")).value == "nobody"
        assert (await calls.join("one", **bearer(issuer.token("ada")))).value == "ada"


async def test_credentials_in_binary_metadata_are_none() -> None:
    async with serve() as (service, issuer):
        metadata = (("authorization-bin", f"Bearer {issuer.token()}".encode()),)
        failed = await failure(service.calls.one(metadata=metadata))
    assert failed.code() is StatusCode.UNAUTHENTICATED
    assert isinstance(failed, grpc.RpcError)


async def test_requirement_without_authentication_stops_the_start() -> None:
    class Needing(Words):
        @requires(scopes=["words:join"])
        async def Join(self, messages: AsyncIterator[StringValue], context: Context) -> StringValue:  # noqa: N802
            return StringValue()

    with observed() as seen:
        app = make_app(seen.telemetry)
        server = add_grpc(app, settings())
        server.add_service(add_words, Needing())
        with pytest.raises(GrpcServiceError, match="needs the scope words:join, but the app has no authentication"):
            async with running(app, server, seen):
                pass
