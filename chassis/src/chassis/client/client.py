"""`Client`: the client of one other service, a resource of the app."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from pydantic import BaseModel

from ..configuration.changes import counterpart
from ..problem import ProblemOf
from .attempts import Attempts
from .balancer import Balancer
from .breaker import BreakerState, CircuitBreaker
from .bulkhead import Bulkhead
from .call import IDEMPOTENCY_KEY, Call
from .caller import Caller
from .errors import BadResponseError, DependencyError, DependencyTimeoutError, DependencyUnavailableError
from .origin import Origin
from .outliers import Change
from .replicas import Outcome
from .request_target import PathValueError, json_body, make_target
from .resolver import Resolver
from .response import Response, UnexpectedStatusError
from .results import AttemptTimeoutError, Result
from .settings import ClientSettings
from .starvation import Starvation
from .state import state_of
from .streamed import StreamedResponse
from .telemetry import DependencyTelemetry
from .transport import ResponseTooLargeError, Transport
from .verbs import CallOptions, Verbs

if TYPE_CHECKING:
    import httpx

    from ..faults import Faults
    from ..telemetry import Telemetry

T = TypeVar("T")
JSON = "application/json"

CALL_PROBLEMS: Mapping[type[Exception], ProblemOf] = {DependencyError: DependencyError.problem, PathValueError: 422}
"""The responses to errors of calls that a handler does not catch."""


class Client(Verbs):
    """Calls one other service: `app.client("catalogue", base_url="http://catalogue")`.

        product = await catalogue.get("/products/{sku}", path={"sku": sku}, returns=Product)

    A call ends within its timeout and within the time of the request that it belongs to, which the other service gets
    to know. It goes to one of the replicas, and is sent again where that is safe. Every failure is a `DependencyError`:
    the client of your service gets 502, 503 or 504 with the name of the dependency, unless a handler catches it.
    `ClientSettings` has the limits.
    """

    def __init__(
        self,
        name: str,
        settings: ClientSettings,
        telemetry: "Telemetry",
        *,
        user_agent: str = "",
        faults: "Faults | None" = None,
    ) -> None:
        """`name` is that of the dependency in errors, logs and metrics. The app makes clients, by `App.client`."""
        self.name: str = name
        self.settings: ClientSettings = settings
        self._prefix = urlsplit(settings.base_url).path.rstrip("/")
        self._headers = {"user-agent": user_agent} if user_agent else {}
        origin = Origin.of(settings.base_url)
        self._telemetry = DependencyTelemetry(name, telemetry, origin)
        self._balancer = Balancer(settings.near, on_change=self._on_change)
        self._resolver = Resolver(
            origin.host,
            origin.port,
            settings.resolve_seconds,
            self._balancer.update,
            dependency=name,
            replicas=settings.replicas,
        )
        self._breaker = CircuitBreaker(
            settings.breaker_ratio, settings.breaker_seconds, on_change=self._telemetry.breaker_changed
        )
        self._bulkhead = Bulkhead(settings.max_in_progress, settings.max_waiting, settings.wait_seconds)
        self._starvation = Starvation()
        metrics = self._telemetry.metrics
        metrics.read_calls(
            lambda: self._bulkhead.in_progress,
            lambda: self._bulkhead.waiting,
            lambda: self.settings.max_in_progress,
        )
        metrics.read_breaker(lambda: self._breaker.state)
        metrics.read_replicas(
            lambda: len(self._balancer.replicas) - self._balancer.ejected, lambda: self._balancer.ejected
        )
        self._attempts = Attempts(
            self._balancer,
            self._breaker,
            self._starvation,
            self._telemetry,
            max_response_bytes=settings.max_response_bytes,
        )
        self._caller = Caller(
            name,
            settings,
            self._attempts,
            self._balancer,
            self._resolver,
            self._bulkhead,
            self._breaker,
            self._starvation,
            metrics,
        )
        self._faults = faults
        self._replacement: Transport | None = None
        self._open = AsyncExitStack()

    def use(self, transport: Transport) -> None:
        """Replace the network in a test, such as by a `FakeService`. Call it before the app starts."""
        self._replacement = transport

    def use_changed(self, before: BaseModel, after: BaseModel) -> None:
        """Use changed settings for calls that begin from now on. For `App.on_settings_change`."""
        settings = counterpart(self.settings, before, after)
        self.settings = settings
        self._caller.use_settings(settings)
        self._attempts.max_response_bytes = settings.max_response_bytes
        self._bulkhead.set_limits(settings.max_in_progress, settings.max_waiting, settings.wait_seconds)
        self._breaker.set_limits(settings.breaker_ratio, settings.breaker_seconds)

    async def __aenter__(self) -> Self:
        """Open the client: look up the addresses in the background. No connection is made before the first call."""
        async with AsyncExitStack() as stack:
            replacement = self._replacement
            if replacement is None:
                transport = await stack.enter_async_context(self._network())
                await stack.enter_async_context(self._resolver)
            else:
                transport = replacement
                self._balancer.update(self._resolver.targets)
                if isinstance(replacement, AbstractAsyncContextManager):
                    await stack.enter_async_context(replacement)
            if self._faults is not None and self.settings.faults:
                from .faults import FaultyTransport

                transport = FaultyTransport(transport, self.name, self._faults)
            self._attempts.transport = transport
            self._open = stack.pop_all()
        return self

    def _network(self) -> AbstractAsyncContextManager[Transport]:
        # Imported now, since both need libraries that come with extras.
        if self.settings.http2:
            from .httpx_transport import open_transport
        else:
            from .aiohttp_transport import open_transport
        return open_transport(self.settings)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._attempts.transport = None
        await self._open.aclose()

    async def _request(self, method: str, route: str, returns: type[T] | None, options: CallOptions) -> T | Response:
        call = self._call(method, route, options)
        try:
            response = self._response(call, await self._caller.call(call))
            value = response if returns is None else response.parse(returns)
        except DependencyError as error:
            self._end(call, error)
            raise
        self._end(call)
        return value

    @asynccontextmanager
    async def stream(self, method: str, route: str, **options: Unpack[CallOptions]) -> AsyncIterator[StreamedResponse]:
        """Make a call whose response is read in parts: `async for chunk in response.chunks()`.

        The timeout is that until the header section has arrived. The deadline of the request still bounds the whole.
        """
        call = self._call(method, route, options, is_stream=True)
        try:
            async with self._caller.streaming(call) as result:
                if result.error is not None or result.response is None:
                    self._raise(result)
                streamed = StreamedResponse(self.name, result.response, self.settings.max_response_bytes)
                if not call.expects(result.status):
                    result.body = await streamed.read()
                    self._response(call, result)
                yield streamed
        except DependencyError as error:
            if error.dependency == self.name:
                self._end(call, error)
            raise
        self._end(call)

    def httpx(self, **options: Any) -> "httpx.AsyncClient":
        """An httpx client whose requests are calls of this client, for libraries that are made for httpx.

        `options` are those of `httpx.AsyncClient`. Its `timeout` has no effect.
        """
        from .httpx_adapter import connect

        return connect(self, self.settings.base_url, **options)

    def check(self) -> None:
        """A readiness check: raises `DependencyUnavailableError` while the circuit breaker is open."""
        if self._breaker.state is BreakerState.OPEN:
            raise DependencyUnavailableError(self.name, "has an open circuit breaker")

    def state(self) -> dict[str, Any]:
        """The breaker, the calls in progress and the replicas, for operators."""
        return state_of(self.name, self.settings, self._breaker, self._bulkhead, self._balancer)

    def _on_change(self, change: Change) -> None:
        if change.is_ejected:
            self._telemetry.replica_ejected(change.address, change.reason)
        else:
            self._telemetry.replica_admitted(change.address)

    def _call(self, method: str, route: str, options: CallOptions, *, is_stream: bool = False) -> Call:
        target = make_target(self._prefix, route, options.get("path"), options.get("params"))
        headers = self._headers
        body: bytes | None = None
        if "json" in options:
            body = json_body(options["json"])
            headers = {**headers, "content-type": JSON}
        elif "content" in options:
            content = options["content"]
            body = content.encode() if isinstance(content, str) else content
        if "idempotency_key" in options:
            headers = {**headers, IDEMPOTENCY_KEY: options["idempotency_key"]}
        if "headers" in options:
            headers = {**headers, **{name.lower(): value for name, value in options["headers"].items()}}
        expect = options.get("expect", ())
        seconds = options.get("timeout_seconds", self.settings.timeout_seconds)
        return Call(method, route, target, headers, body, expect, seconds, is_stream)

    def _end(self, call: Call, error: DependencyError | None = None) -> None:
        seconds = monotonic() - call.began
        self._telemetry.end_call(
            call.method, call.route, seconds, call.context, status=call.status, error=error, attempts=call.attempts
        )

    def _response(self, call: Call, result: Result) -> Response:
        if result.error is not None or result.response is None:
            self._raise(result)
        response = Response(self.name, result.status, result.response.headers, result.body)
        if not call.expects(result.status):
            retry_after = None if result.retry_after is None else max(1, round(result.retry_after))
            raise UnexpectedStatusError(self.name, response, retry_after=retry_after)
        return response

    def _raise(self, result: Result) -> NoReturn:
        error = result.error
        if isinstance(error, AttemptTimeoutError):
            raise DependencyTimeoutError(self.name, "did not respond in time") from error
        if isinstance(error, ResponseTooLargeError):
            raise BadResponseError(self.name, "responded with a body that is too large") from error
        if result.outcome is Outcome.NOT_SENT:
            raise DependencyUnavailableError(self.name, "could not be reached", retry_after=1) from error
        raise BadResponseError(self.name, "closed the connection before its response was complete") from error
