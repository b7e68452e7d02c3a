"""A transport around another one that injects faults into calls."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import unquote

import orjson
from httpx import Headers

from ..faults import ABORT, REFUSE, Fault, Faults, Hit
from .transport import Address, ConnectionLostError, InboundResponse, NotSentError, OutboundRequest, Transport

REASON = "a fault was injected for a test"


class FaultyTransport:
    """Injects the faults of the rules for one client; all other calls go to `transport`.

    A client uses it only if its settings allow it, such as `APP_CATALOGUE__FAULTS=on`, and `App.faults` is not None.
    """

    def __init__(self, transport: Transport, client: str, faults: Faults) -> None:
        """`client` is the name of the client, as `FaultRule.client` has it."""
        self._transport = transport
        self._client = client
        self._faults = faults
        faults.clients.add(client)

    async def send(self, request: OutboundRequest, replica: Address) -> InboundResponse:
        """As `Transport.send`. A connection that is lost is lost after the request: the other service has handled it.

        Latency comes before the request, so a timeout of the attempt ends it.
        """
        fault = self._faults.choose(self._hit(request))
        if fault is None:
            return await self._transport.send(request, replica)
        if fault.latency_seconds:
            await asyncio.sleep(fault.latency_seconds)
        if REFUSE in fault.kinds:
            raise NotSentError(REASON)
        if fault.status is not None:
            return InjectedResponse(fault.status, fault)
        response = await self._transport.send(request, replica)
        if ABORT in fault.kinds:
            response.close()
            raise ConnectionLostError(REASON)
        return response

    def _hit(self, request: OutboundRequest) -> Hit:
        def values(name: str) -> Sequence[str]:
            value = request.headers.get(name)
            return () if value is None else (value,)

        return Hit(request.method, unquote(request.target.partition("?")[0]), values, client=self._client)


class InjectedResponse:
    """A response that no service has sent."""

    http_version: str = "1.1"

    def __init__(self, status: int, fault: Fault) -> None:
        self.status: int = status
        headers = {"content-type": "application/problem+json", "x-fault-injected": ",".join(fault.kinds)}
        if fault.retry_after_seconds is not None:
            headers["retry-after"] = str(fault.retry_after_seconds)
        self.headers: Mapping[str, str] = Headers(headers)
        self._body = orjson.dumps({"type": "about:blank", "status": status, "detail": REASON})

    async def read(self, limit: int) -> bytes:
        """As `InboundResponse.read`. The body is never longer than a limit that is useful."""
        del limit
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        """As `InboundResponse.chunks`."""
        yield self._body

    def close(self) -> None:
        """Nothing to give back."""
