"""A gRPC service under test: one method of each kind, in a real server on a free port, and a real client."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from chassis import App, Server
from chassis.grpc import GrpcServer, GrpcSettings, add_grpc

from .application import make_app
from .service import Line, Observed, Service, connect, observed, until

SERVICE = "test.v1.Words"
Context = grpc.aio.ServicerContext[Any, Any]
Work = Callable[[str, Context], Awaitable[Any]]


async def echo(text: str, _context: Context) -> str:
    """The text that the client has sent."""
    return text


class Words:
    """Words, in and out. `work` is what a call does, for each message."""

    def __init__(self, work: Work = echo) -> None:
        self.work = work

    async def One(self, request: StringValue, context: Context) -> StringValue:  # noqa: N802 - names of gRPC
        return StringValue(value=await self.work(request.value, context))

    async def Split(self, request: StringValue, context: Context) -> AsyncIterator[StringValue]:  # noqa: N802
        for word in request.value.split():
            yield StringValue(value=await self.work(word, context))

    async def Join(self, messages: AsyncIterator[StringValue], context: Context) -> StringValue:  # noqa: N802
        return StringValue(value=" ".join([await self.work(message.value, context) async for message in messages]))

    async def Each(  # noqa: N802
        self, messages: AsyncIterator[StringValue], context: Context
    ) -> AsyncIterator[StringValue]:
        async for message in messages:
            yield StringValue(value=await self.work(message.value, context))


def add_words(servicer: Any, server: Any) -> None:
    """As generated code adds a service."""
    kinds = {
        "One": grpc.unary_unary_rpc_method_handler,
        "Split": grpc.unary_stream_rpc_method_handler,
        "Join": grpc.stream_unary_rpc_method_handler,
        "Each": grpc.stream_stream_rpc_method_handler,
    }
    handlers = {
        name: make(getattr(servicer, name), StringValue.FromString, StringValue.SerializeToString)
        for name, make in kinds.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


@dataclass(frozen=True)
class Client:
    """A client of the service."""

    channel: grpc.aio.Channel

    def one(self, text: str = "hello", **options: Any) -> Any:
        """A call without streams."""
        return self._make("One", self.channel.unary_unary)(StringValue(value=text), **options)

    def split(self, text: str, **options: Any) -> Any:
        """A call with a stream of responses."""
        return self._make("Split", self.channel.unary_stream)(StringValue(value=text), **options)

    def join(self, *texts: str, **options: Any) -> Any:
        """A call with a stream of requests."""
        return self._make("Join", self.channel.stream_unary)(messages(texts), **options)

    def each(self, *texts: str, **options: Any) -> Any:
        """A call with both."""
        return self._make("Each", self.channel.stream_stream)(messages(texts), **options)

    def raw(self, path: str, body: bytes = b"", **options: Any) -> Any:
        """A call of any method with bytes."""
        make: Any = self.channel.unary_unary
        return make(path)(body, **options)

    def _make(self, name: str, make: Any) -> Any:
        return make(
            f"/{SERVICE}/{name}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )


async def messages(texts: Sequence[str]) -> AsyncIterator[StringValue]:
    """A stream of texts."""
    for text in texts:
        yield StringValue(value=text)


@dataclass(frozen=True)
class GrpcService(Service):
    """What `serve` gives."""

    grpc: GrpcServer
    calls: Client

    async def call_lines(self, count: int = 1) -> list[Line]:
        """The access lines of calls, once there are `count`: they are written after the client has its response."""
        return await until(lambda: lines if len(lines := self.seen.events("call")) >= count else [])

    async def active_calls(self, count: int) -> None:
        """Wait until `count` calls are in progress."""
        await until(lambda: self.app.registry.get_sample_value("rpc_server_active_calls") == count)

    async def call_line(self) -> Line:
        """The only access line of a call."""
        (line,) = await self.call_lines()
        return line


def settings(**values: Any) -> GrpcSettings:
    """The settings of a server on a free port."""
    return GrpcSettings.model_validate({"grpc_host": "127.0.0.1", "grpc_port": 0} | values)


@asynccontextmanager
async def serve(
    servicer: object | None = None,
    *,
    prepare: Callable[[App], object] | None = None,
    app: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    add: Callable[[Any, Any], None] = add_words,
    options: Sequence[tuple[str, Any]] = (),
    **values: Any,
) -> AsyncIterator[GrpcService]:
    """Run a service. `values` are settings of gRPC, `server` goes to `add_grpc`, and `app` to `make_app`."""
    with observed() as seen:
        made = make_app(seen.telemetry, **(app or {}))
        added = add_grpc(made, settings(**values), **(server or {}))
        added.add_service(add, servicer or Words())
        if prepare is not None:
            prepare(made)
        async with running(made, added, seen, options) as service:
            yield service


@asynccontextmanager
async def running(
    app: App, added: GrpcServer, seen: Observed, options: Sequence[tuple[str, Any]] = ()
) -> AsyncIterator[GrpcService]:
    """Run an app with a server and a client."""
    async with (
        Server(app) as http,
        connect(http.port) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{added.port}", options=options) as channel,
    ):
        yield GrpcService(app, http, client, seen, added, Client(channel))


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")


async def received(call: Any) -> list[str]:
    """The texts of a stream."""
    return [message.value async for message in call]
