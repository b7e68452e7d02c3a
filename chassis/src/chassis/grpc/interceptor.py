"""The outermost interceptor of the server: begins to observe each call, and runs its method inside of the limits."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

import grpc
from grpc import StatusCode
from opentelemetry import context as otel_context

from ..app import App
from .call import Call, current_call
from .call_telemetry import CallTelemetry
from .running import Policy, Running, failing
from .services import Handler, Method

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Observes and limits every call, also those that the interceptors of the service's owner reject."""

    def __init__(self, app: App, telemetry: CallTelemetry, policy: Policy) -> None:
        self.methods: Mapping[str, Method] = {}
        """The methods of the server by path."""
        self.calls: set[Call] = set()
        """The calls in progress."""
        self._app = app
        self._telemetry = telemetry
        self._policy = policy

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """gRPC's hook: the handler of a call. It runs in the task of the call, which ends with it."""
        details = handler_call_details
        method = self.methods.get(details.method)
        call = self._begin(details, method)
        try:
            handler = await continuation(details)
        except Exception as error:  # noqa: BLE001 - an interceptor of the owner may raise any exception
            handler = failing(error)
        return Running(call, method, handler or failing(None), self._app, self._policy).handler()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method inside of all interceptors; None for a method that the server does not have."""
        method = self.methods.get(handler_call_details.method)
        return None if method is None else method.handler

    def stop_calls(self, calls: Iterable[Call]) -> None:
        """Cancel calls at the end of a graceful shutdown. Their clients get `UNAVAILABLE`."""
        for call in calls:
            if call.task is not None:
                call.is_stopped = True
                call.task.cancel("the service is stopping")

    def end_stopped(self) -> None:
        """Observe the end of the calls that ignore their cancellation. Their clients have lost the connection."""
        for call in list(self.calls):
            call.code = call.code or StatusCode.UNAVAILABLE
            self._end(call)

    def _begin(self, details: grpc.HandlerCallDetails, method: Method | None) -> Call:
        is_probe = method is not None and method.is_probe
        metadata = tuple(details.invocation_metadata or ())
        call = self._telemetry.begin(details.method, metadata, is_known=method is not None, is_probe=is_probe)
        call.is_stream = method is not None and (method.handler.request_streaming or method.handler.response_streaming)
        # The task is that of the call alone, so nothing has to be reset.
        otel_context.attach(call.context)
        current_call.set(call)
        self.calls.add(call)
        if call.task is not None:
            call.task.add_done_callback(lambda _: self._end(call))
        return call

    def _end(self, call: Call) -> None:
        if call not in self.calls:
            return  # observed by `end_stopped` already
        self.calls.remove(call)
        call.task = None  # breaks a reference cycle
        self._telemetry.end(call)


class Handlers(grpc.GenericRpcHandler):
    """The methods of the server, as gRPC looks them up."""

    def __init__(self, interceptor: CallInterceptor) -> None:
        self._interceptor = interceptor

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The handler of a method; None if the server does not have it."""
        return self._interceptor.service(handler_call_details)
