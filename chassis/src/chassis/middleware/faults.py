"""Injects faults into requests, where real ones would happen."""

import asyncio
from typing import NoReturn

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from ..context import annotate
from ..faults import ABORT, ERROR, Fault, Faults, Hit
from ..problem import Problem
from ..request_info import RequestInfo
from ..response_sender import ResponseSender
from ..telemetry.route_template import FindRoute, route_template

HEADER = "x-fault-injected"
DETAIL = "This error was injected for a test; GET /faults on the admin port shows the rules."


class FaultMiddleware:
    """Innermost, around the router: limits, telemetry and the owner's middleware see a fault like one of a handler.

    Latency comes before the handler, counts for the deadline, and ends when the client disconnects.
    """

    def __init__(self, app: ASGIApp, *, faults: Faults, find_route: FindRoute) -> None:
        self.app: ASGIApp = app
        self._faults = faults
        self._find_route = find_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._faults.choose(self._hit(scope)) if scope["type"] == "http" else None
        if fault is None:
            await self.app(scope, receive, send)
            return
        annotate(fault=",".join(fault.kinds))
        if fault.latency_seconds:
            await asyncio.sleep(fault.latency_seconds)
        if ABORT in fault.kinds:
            await abort(RequestInfo.of(scope), send)
        if fault.status is not None:
            # The router is not reached, and telemetry looks up no route for 503.
            scope["route"] = self._find_route(scope)
            raise injected_problem(fault.status, fault)
        sender = ResponseSender.of(send)
        sender.add([(HEADER.encode(), ",".join(fault.kinds).encode())])
        await self.app(scope, receive, sender)

    def _hit(self, scope: Scope) -> Hit:
        headers, path = scope["headers"], scope["path"]

        def values(name: str) -> list[str]:
            wanted = name.encode("latin-1", "replace")
            return [value.decode("latin-1") for field, value in headers if field.lower() == wanted]

        return Hit(scope["method"], path, values, route=lambda: route_template(scope, path, 0, self._find_route))


def injected_problem(status: int, fault: Fault) -> Problem:
    """The response in place of the real one. It says that it is injected."""
    headers = {HEADER: ",".join(fault.kinds)}
    if fault.retry_after_seconds is not None:
        headers["retry-after"] = str(fault.retry_after_seconds)
    return Problem(status, DETAIL, headers=headers, fault=ERROR)


class AbortedError(ClientDisconnect):
    """Our server closes the connection without a response, as if the client had disconnected."""


async def abort(info: RequestInfo, send: Send) -> NoReturn:
    """End the connection without a response. Behind another server, with an incomplete one: servers close it then."""
    if info.read_at is not None:
        info.is_aborted = True
        raise AbortedError
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"1")]})
    error = ConnectionAbortedError("an aborted connection was injected for a test")
    info.reported = id(error)
    raise error
