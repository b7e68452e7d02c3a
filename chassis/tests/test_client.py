"""Calls to other services carry the context of the request that makes them, and are observed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chassis import Handler, Route
from chassis.client import http_client
from chassis.telemetry.client_metrics import CallKey, CallMetrics

from .support.service import NO_TLS, PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED, Service, observed, serve


class Echo(Handler):
    """The headers that arrive."""

    async def get(self, request: Request) -> dict[str, str]:
        return dict(request.headers)


class Caller(Handler):
    """Calls another service, and returns its response."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self) -> dict[str, str]:
        response: dict[str, str] = (await self._client.get("/echo", headers={"x-own": "1"})).json()
        return response


async def test_call_propagates_the_context() -> None:
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

    async def note_response(response: httpx.Response) -> None:
        seen.append(str(response.status_code))

    async with serve(Route("/echo", Echo())) as other:
        hooks = {"request": [note], "response": [note_response]}
        async with client_of(other, event_hooks=hooks) as client:
            received = (await client.get("/echo", headers={"x-request-id": "own", "traceparent": "own"})).json()
    assert (received["x-request-id"], received["traceparent"], seen) == ("own", "own", ["own", "200"])


def client_of(service: Service, **options: Any) -> httpx.AsyncClient:
    """A client of ours for a service on this machine."""
    base_url = f"http://127.0.0.1:{service.server.port}"
    return http_client(**{"base_url": base_url, "verify": NO_TLS, "trust_env": False, **options})


class Upstream(Handler):
    """Responds as the request says."""

    async def get(self, request: Request, status: int = 200, to: str = "", seconds: float = 0.0) -> Response:
        await asyncio.sleep(seconds)
        return Response(request.headers["traceparent"], status_code=status, headers={"location": to} if to else {})

    async def post(self) -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"1"
            raise RuntimeError("lost")

        return StreamingResponse(body())


class Gateway(Handler):
    """Runs a function that calls the upstream service."""

    def __init__(self) -> None:
        self.calls: Callable[[httpx.AsyncClient], Awaitable[Any]] | None = None
        self.client: httpx.AsyncClient | None = None

    async def get(self) -> Any:
        assert self.calls is not None
        assert self.client is not None
        return await self.calls(self.client)


@dataclass
class Services:
    """A gateway and the service that it calls."""

    gateway: Service
    handler: Gateway
    upstream: Service

    async def run(
        self, calls: Callable[[httpx.AsyncClient], Awaitable[Any]], headers: dict[str, str] = SAMPLED, **options: Any
    ) -> httpx.Response:
        """Call the gateway, which runs `calls` with a client of the upstream service."""
        self.handler.calls = calls
        async with client_of(self.upstream, **options) as self.handler.client:
            return await self.gateway.client.get("/", headers=headers)

    async def client_spans(self, count: int) -> list[ReadableSpan]:
        """The spans of the gateway's calls, once the request and all of them have ended."""
        spans = await self.gateway.spans(count + 1)
        return [span for span in spans if span.kind is SpanKind.CLIENT]


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Services]:
    handler = Gateway()
    async with serve(Route("/up", Upstream())) as upstream, serve(Route("/", handler)) as gateway:
        yield Services(gateway, handler, upstream)


@pytest.fixture
async def services(running: Services) -> Services:
    await running.upstream.fresh()
    await running.gateway.fresh()
    return running


async def test_each_call_of_a_sampled_request_has_a_span_of_its_own(services: Services) -> None:
    async def three(client: httpx.AsyncClient) -> list[str]:
        return [(await client.get("/up?page=2")).text for _ in range(3)]

    received = [header.split("-") for header in (await services.run(three)).json()]
    spans = await services.client_spans(3)
    (request,) = [span for span in services.gateway.seen.spans if span.kind is SpanKind.SERVER]
    assert [span.parent for span in spans] == [request.context] * 3
    ids = [f"{span.context.span_id:016x}" for span in spans if span.context]
    assert [header[1:] for header in received] == [[TRACE_ID, span_id, "01"] for span_id in ids]
    assert len({*ids, f"{request.context.span_id:016x}" if request.context else ""}) == 4
    port = services.upstream.server.port
    assert dict(spans[0].attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"http://127.0.0.1:{port}/up?page=2",
    }
    assert (spans[0].name, spans[0].status.status_code) == ("GET", StatusCode.UNSET)
    assert (spans[0].start_time or 0) >= (request.start_time or 0)
    assert (spans[0].end_time or 0) <= (request.end_time or 0)


async def test_call_of_an_unsampled_request_creates_no_span_and_propagates_its_context(services: Services) -> None:
    async def one(client: httpx.AsyncClient) -> str:
        return (await client.get("/up")).text

    header = (await services.run(one, UNSAMPLED)).json()
    line = await services.gateway.access_line()
    assert header == f"00-{TRACE_ID}-{line['span_id']}-00"
    assert services.gateway.seen.spans == []
    assert await sample(services, http_response_status_code="200", error_type="") >= 1


async def sample(services: Services, **labels: str) -> float:
    """The number of calls that were counted."""
    return await services.gateway.sample("http_client_request_duration_seconds_count", **labels)


async def test_span_of_a_call_is_below_that_of_the_handler(services: Services) -> None:
    async def inside(client: httpx.AsyncClient) -> None:
        with services.gateway.app.telemetry.tracing.provider.get_tracer("test").start_as_current_span("child"):
            await client.get("/up")

    await services.run(inside)
    await services.gateway.spans(3)
    spans = {span.name: span for span in services.gateway.seen.spans if span.kind is not SpanKind.SERVER}
    assert spans["GET"].parent == spans["child"].context


@pytest.mark.parametrize("status", [404, 503])
async def test_status_of_a_failure_is_an_error(services: Services, status: int) -> None:
    before = await sample(services, error_type=str(status))

    async def failing(client: httpx.AsyncClient) -> None:
        response = await client.get("/up", params={"status": status})
        with pytest.raises(httpx.HTTPStatusError):
            response.raise_for_status()

    await services.run(failing)
    (span,) = await services.client_spans(1)
    attributes = span.attributes or {}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (status, str(status))
    assert span.status.status_code is StatusCode.ERROR
    labels = {
        "http_request_method": "GET",
        "server_address": "127.0.0.1",
        "server_port": str(services.upstream.server.port),
    }
    assert await sample(services, error_type=str(status), http_response_status_code=str(status), **labels) == before + 1


@pytest.mark.parametrize(
    ("path", "method", "options", "error", "has_status"),
    [
        ("/up?seconds=5", "GET", {"timeout": 0.05}, "httpx.ReadTimeout", False),
        ("/up", "GET", {"base_url": "http://127.0.0.1:1"}, "httpx.ConnectError", False),
        ("/up", "POST", {}, "httpx.RemoteProtocolError", True),
    ],
)
async def test_call_that_fails_is_an_error(
    services: Services, path: str, method: str, options: dict[str, Any], error: str, has_status: bool
) -> None:
    before = await sample(services, error_type=error)

    async def failing(client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.TransportError):
            await client.request(method, path)

    await services.run(failing, **options)
    (span,) = await services.client_spans(1)
    attributes = span.attributes or {}
    assert (attributes["error.type"], "http.response.status_code" in attributes) == (error, has_status)
    assert span.status.status_code is StatusCode.ERROR
    assert await sample(services, error_type=error) == before + 1


async def test_call_that_is_cancelled_ends(services: Services) -> None:
    async def cancelled(client: httpx.AsyncClient) -> None:
        task = asyncio.create_task(client.get("/up?seconds=5"))
        await services.upstream.under_way(1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    await services.run(cancelled)
    (span,) = await services.client_spans(1)
    assert (span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"


async def test_redirect_is_a_call_of_its_own(services: Services) -> None:
    async def follow(client: httpx.AsyncClient) -> str:
        return (await client.get("/up?status=302&to=/up", follow_redirects=True)).text

    header = (await services.run(follow)).json()
    spans = await services.client_spans(2)
    found = [
        (attributes["http.response.status_code"], attributes.get("http.request.resend_count"))
        for span in spans
        if (attributes := span.attributes)
    ]
    assert found == [(302, None), (200, 1)]
    assert spans[1].context is not None
    assert header.split("-")[2] == f"{spans[1].context.span_id:016x}"


async def test_authentication_is_a_call_of_its_own(services: Services) -> None:
    class Signing(httpx.Auth):
        """Requests a token first."""

        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            yield httpx.Request("GET", request.url)
            yield request

    async def signed(client: httpx.AsyncClient) -> str:
        return (await client.get("/up", auth=Signing())).text

    header = (await services.run(signed)).json()
    spans = await services.client_spans(2)
    assert len(spans) == 2
    assert spans[1].context is not None
    assert header.split("-")[2] == f"{spans[1].context.span_id:016x}"


async def test_call_of_a_stream_ends_with_its_headers(services: Services) -> None:
    async def stream(client: httpx.AsyncClient) -> int:
        async with client.stream("GET", "/up") as response:
            ended = len([span for span in services.gateway.seen.spans if span.kind is SpanKind.CLIENT])
            await response.aread()
            return ended

    assert (await services.run(stream)).json() == 1


async def test_span_shows_no_secret_of_the_url(services: Services) -> None:
    async def secret(client: httpx.AsyncClient) -> None:
        port = services.upstream.server.port
        await client.get(f"http://ada:s3cr3t@127.0.0.1:{port}/up?access%5Ftoken=s3cr3t&X-Amz-Signature=s3cr3t&page=2#x")

    await services.run(secret)
    (span,) = await services.client_spans(1)
    url = str((span.attributes or {})["url.full"])
    assert url.startswith("http://REDACTED:REDACTED@127.0.0.1:")
    assert url.endswith("/up?access%5Ftoken=REDACTED&X-Amz-Signature=REDACTED&page=2#x")
    assert "s3cr3t" not in services.gateway.seen.output.decode()


async def test_call_outside_of_a_request_begins_a_trace(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for sampler, flag in (("always_on", "3"), ("always_off", "2")):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        with observed() as seen:
            async with client_of(services.upstream, telemetry=seen.telemetry) as client:
                header = (await client.get("/up")).text
            assert header.endswith(f"-0{flag}")
            assert [(span.kind, span.parent) for span in seen.spans] == [(SpanKind.CLIENT, None)] * (flag == "3")


async def test_unknown_method_is_other(services: Services) -> None:
    async def odd(client: httpx.AsyncClient) -> None:
        await client.request("PROPFIND", "/up")

    await services.run(odd)
    (span,) = await services.client_spans(1)
    attributes = span.attributes or {}
    assert (span.name, attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert attributes["http.request.method_original"] == "PROPFIND"


def test_servers_without_number_are_counted_together() -> None:
    metrics = CallMetrics()
    for number in range(1000):
        metrics.observe(CallKey("GET", f"{number}.example", "443", "200", ""), 0.1, None)
    (family,) = metrics.collect()
    counts = {one.labels["server_address"]: one.value for one in family.samples if one.name.endswith("_count")}
    assert (len(counts), counts["_OTHER"]) == (101, 900)


async def test_httpx_that_is_instrumented_makes_no_second_span(services: Services) -> None:
    async def one(client: httpx.AsyncClient) -> str:
        provider = services.gateway.app.telemetry.tracing.provider
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=provider)
        return (await client.get("/up")).text

    header = (await services.run(one)).json()
    spans = await services.client_spans(1)
    assert [f"{span.context.span_id:016x}" for span in spans if span.context] == [header.split("-")[2]]


async def test_suppressed_instrumentation_makes_no_span(services: Services) -> None:
    async def one(client: httpx.AsyncClient) -> str:
        with suppress_instrumentation():
            return (await client.get("/up")).text

    header = (await services.run(one)).json()
    assert header.split("-")[2] == (await services.gateway.access_line())["span_id"]
    assert [span.kind for span in services.gateway.seen.spans] == [SpanKind.SERVER]
