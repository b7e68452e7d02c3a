"""Calls to other services carry the context of the request that makes them."""

import httpx
from starlette.requests import Request

from chassis import Handler, Route
from chassis.client import http_client

from .support.service import NO_TLS, PARENT_ID, TRACE_ID, serve


class Echo(Handler):
    """The headers that arrive."""

    async def get(self, request: Request) -> dict[str, str]:
        return dict(request.headers)


class Caller(Handler):
    """Asks another service, and passes on its answer."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self) -> dict[str, str]:
        answer: dict[str, str] = (await self._client.get("/echo", headers={"x-own": "1"})).json()
        return answer


async def test_call_carries_the_context_on() -> None:
    sent = {
        "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01",
        "tracestate": "vendor=a",
        "baggage": "tenant=north",
        "x-request-id": "mine",
    }
    async with serve(Route("/echo", Echo())) as other:
        client = http_client(base_url=f"http://127.0.0.1:{other.server.port}", verify=NO_TLS, trust_env=False)
        async with serve(Route("/call", Caller(client)), resources=[client]) as service:
            received = (await service.client.get("/call", headers=sent)).json()
        assert client.is_closed
    version, trace_id, parent_id, flags = received["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE_ID, "01")
    assert parent_id != PARENT_ID
    assert (received["tracestate"], received["baggage"]) == ("vendor=a", "tenant=north")
    assert (received["x-request-id"], received["x-own"]) == ("mine", "1")


async def test_callers_own_header_and_hooks_stay() -> None:
    seen: list[str] = []

    async def note(request: httpx.Request) -> None:
        seen.append(request.headers["x-request-id"])

    async with serve(Route("/echo", Echo())) as other:
        options = {"base_url": f"http://127.0.0.1:{other.server.port}", "verify": NO_TLS, "trust_env": False}
        async with http_client(event_hooks={"request": [note]}, **options) as client:
            received = (await client.get("/echo", headers={"x-request-id": "own"})).json()
    assert (received["x-request-id"], seen) == ("own", ["own"])
    assert "traceparent" not in received
