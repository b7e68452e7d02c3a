"""The span of a request, and those that a handler makes inside of it."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import suppress
from io import StringIO

import httpx
import orjson
import pytest
import structlog
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from chassis import Handler, Route
from chassis.middleware.telemetry import TelemetryMiddleware
from chassis.request_info import RequestInfo
from chassis.telemetry.spans import RequestSpan, RequestSpanProcessor

from .support.service import PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED, Service, observed, serve, until

log = structlog.get_logger()


class Item(Handler):
    """An item."""

    async def get(self, item_id: str, request: Request) -> None:
        span = trace.get_current_span()
        span.set_attribute("item.id", item_id)
        span.set_attributes({"item.tags": ["a", "b"], "item.object": object()})  # type: ignore[dict-item]
        span.add_event("looked", {"found": True})
        span.record_exception(ValueError("not so bad"))
        span.update_name("a name of the handler's")
        span.set_status(StatusCode.OK)

    async def post(self, item_id: str, request: Request) -> None:
        with tracer(request).start_as_current_span("child"):
            log.info("inside")
            await asyncio.sleep(0)
            with tracer(request).start_as_current_span("grandchild"):
                pass
        log.info("outside")

    def put(self, item_id: str, request: Request) -> None:
        with tracer(request).start_as_current_span("child"):
            log.info("inside")

    async def delete(self, item_id: str) -> None:
        password = "s3cr" + item_id if item_id == "3t" else None
        raise RuntimeError("internal detail" if password is None else f"cannot connect: {password=}, pin={password}")


def tracer(request: Request) -> Tracer:
    """A tracer of this service rather than of whichever test came first and is the process's now."""
    found: Tracer = request.app.telemetry.tracing.provider.get_tracer("test")
    return found


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    async with serve(Route("/items/{item_id}", Item())) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    return await running.fresh()


async def one_span(service: Service) -> ReadableSpan:
    """The only span."""
    (span,) = await service.spans()
    return span


async def test_span_has_the_attributes_of_the_semantic_conventions(service: Service) -> None:
    await service.client.get("/items/7?x=y", headers={**SAMPLED, "user-agent": "test/1"})
    span = await one_span(service)
    assert span.kind is SpanKind.SERVER
    assert span.attributes is not None
    assert {
        "http.request.method": "GET",
        "http.response.status_code": 204,
        "http.route": "/items/{item_id}",
        "url.path": "/items/7",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
    }.items() <= span.attributes.items()


async def test_span_continues_the_callers(service: Service) -> None:
    await service.client.get("/items/7", headers=SAMPLED)
    span = await one_span(service)
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert f"{span.context.span_id:016x}" == (await service.access_line())["span_id"]


async def test_span_lasts_as_long_as_the_request(service: Service) -> None:
    await service.client.get("/items/7", headers=SAMPLED)
    span = await one_span(service)
    assert span.start_time is not None
    assert span.end_time is not None
    milliseconds = (span.end_time - span.start_time) / 1e6
    assert milliseconds == pytest.approx((await service.access_line())["duration_ms"], abs=50)


async def test_handler_adds_to_the_span(service: Service) -> None:
    await service.client.get("/items/7", headers=SAMPLED)
    span = await one_span(service)
    assert span.attributes is not None
    assert span.attributes["item.id"] == "7"
    assert list(span.attributes["item.tags"]) == ["a", "b"]  # type: ignore[arg-type]
    assert str(span.attributes["item.object"]).startswith("<object object")
    assert [event.name for event in span.events] == ["looked", "exception"]
    assert span.events[1].attributes is not None
    assert span.events[1].attributes["exception.message"] == "not so bad"
    assert span.status.status_code is StatusCode.OK


async def test_unhandled_exception_is_an_error_of_the_span(service: Service) -> None:
    await service.client.delete("/items/7", headers=SAMPLED)
    span = await one_span(service)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (500, "RuntimeError")


async def test_unhandled_exception_is_an_event_of_the_span(service: Service) -> None:
    await service.client.delete("/items/7", headers=SAMPLED)
    (event,) = (await one_span(service)).events
    facts = event.attributes or {}
    assert event.name == "exception"
    assert (facts["exception.type"], facts["exception.message"]) == ("RuntimeError", "internal detail")
    assert str(facts["exception.stacktrace"]).startswith("Traceback (most recent call last):")
    assert 'raise RuntimeError("internal detail"' in str(facts["exception.stacktrace"])


async def test_exceptions_of_a_span_show_no_secrets() -> None:
    async with serve(Route("/items/{item_id}", Item()), logs={"redact": {"pin"}}) as service:
        await service.client.delete("/items/3t", headers=SAMPLED)
        (event,) = (await one_span(service)).events
    facts = event.attributes or {}
    assert facts["exception.message"] == "cannot connect: password=[redacted], pin=[redacted]"
    assert "s3cr3t" not in str(facts["exception.stacktrace"])


class NotReadyError(Exception):
    """An exception with a module, whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Streaming(Handler):
    """Fails in different ways."""

    async def get(self) -> None:
        raise NotReadyError

    async def put(self) -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            yield "first"
            raise NotReadyError

        return StreamingResponse(pieces())

    async def post(self) -> None:
        waiting.set()
        await asyncio.Event().wait()


waiting = asyncio.Event()


@pytest.mark.parametrize("middleware", [[], [Middleware(GZipMiddleware)]])
async def test_error_type_is_the_qualified_name_of_the_exception(middleware: list[Middleware]) -> None:
    async with serve(Route("/", Streaming()), middleware=middleware) as service:
        await service.client.get("/", headers=SAMPLED)
        (event,) = (await one_span(service)).events
        assert (event.attributes or {})["exception.type"] == f"{__name__}.NotReadyError"
        labels = {"error_type": f"{__name__}.NotReadyError", "http_response_status_code": "500"}
        assert await service.sample("http_server_request_duration_seconds_count", **labels) == 1
        assert (await service.access_line())["error"] == "NotReadyError"


async def test_stream_that_fails_is_an_error_of_the_span() -> None:
    async with serve(Route("/", Streaming())) as service:
        with suppress(httpx.HTTPError):
            await service.client.put("/", headers=SAMPLED)
        span = await one_span(service)
    facts = span.attributes or {}
    assert (facts["http.response.status_code"], facts["error.type"]) == (200, f"{__name__}.NotReadyError")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


async def test_span_without_a_response_has_no_status() -> None:
    async with serve(Route("/", Streaming())) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntraceparent: %s\r\n\r\n" % SAMPLED["traceparent"].encode())
        await waiting.wait()
        writer.close()
        span = await one_span(service)
        assert (await service.access_line())["status"] == 499
        labels = {"http_response_status_code": "", "error_type": "client_disconnected"}
        assert await service.sample("http_server_request_duration_seconds_count", **labels) == 1
    facts = span.attributes or {}
    assert "http.response.status_code" not in facts
    assert facts["error.type"] == "client_disconnected"
    assert span.status.status_code is StatusCode.ERROR
    assert reader.at_eof() or await reader.read() == b""


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("[::1]:99", "::1", 99),
        ("[::1]", "::1", None),
        ("[FE80::1%25eth0]:8080", "fe80::1%25eth0", 8080),
        ("::1", "::1", None),
        ("Example.COM:443", "example.com", 443),
        ("example.com", "example.com", None),
        ("example.com:", "example.com", None),
        ("example.com:http", "example.com", None),
        ("example.com:99999", "example.com", None),
        ("example.com:²", "example.com", None),
        ("user:secret@example.com:1", "example.com", 1),
        ("192.0.2.1:8000", "192.0.2.1", 8000),
        ("", None, None),
        ("[", None, None),
        (":80", None, None),
    ],
)
async def test_server_is_that_of_the_host_field(host: str, address: str | None, port: int | None) -> None:
    """Also behind a server that checks less than ours."""
    with observed() as seen:
        app = TelemetryMiddleware(Response(status_code=204), telemetry=seen.telemetry)
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"host", host.encode("latin-1")), (b"traceparent", SAMPLED["traceparent"].encode())],
        }
        await app(scope, never, swallow)
        facts = (await until(lambda: seen.spans))[0].attributes or {}
    assert (facts.get("server.address"), facts.get("server.port")) == (address, port)


async def never() -> Message:
    raise NotImplementedError


async def swallow(_: Message) -> None: ...


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("q=a%20b&empty=&flag", "q=a%20b&empty=&flag"),
        ("a=1&sig=x&b=2", "a=1&sig=REDACTED&b=2"),
        ("Signature=x&AWSAccessKeyId=y", "Signature=REDACTED&AWSAccessKeyId=REDACTED"),
        ("X-Goog-Signature=x&X-Amz-Signature=y", "X-Goog-Signature=REDACTED&X-Amz-Signature=REDACTED"),
        ("token=x&TOKEN=y&access_token=z", "token=REDACTED&TOKEN=REDACTED&access_token=REDACTED"),
        ("%74oken=x&pass%77ord=y", "%74oken=REDACTED&pass%77ord=REDACTED"),
        ("pin=1234&token", "pin=REDACTED&token"),
        ("token=a=b&c=%ff", "token=REDACTED&c=%ff"),
        ("?", "?"),
    ],
)
async def test_query_is_shown_without_secrets(sent: str, shown: str) -> None:
    async with serve(Route("/items/{item_id}", Item()), logs={"redact": {"pin"}}) as service:
        await service.client.get(httpx.URL(f"/items/7?{sent}"), headers=SAMPLED)
        assert ((await one_span(service)).attributes or {})["url.query"] == shown


async def test_request_without_a_query_has_none(service: Service) -> None:
    await service.client.get("/items/7", headers=SAMPLED)
    assert "url.query" not in ((await one_span(service)).attributes or {})


async def test_span_and_its_resource_name_their_schema(service: Service) -> None:
    await service.client.get("/items/7", headers=SAMPLED)
    span = await one_span(service)
    assert span.instrumentation_scope is not None
    assert str(span.instrumentation_scope.schema_url).startswith("https://opentelemetry.io/schemas/1.")
    assert span.resource.schema_url == span.instrumentation_scope.schema_url


async def test_rejection_is_not_an_error_of_the_span(service: Service) -> None:
    await service.client.patch("/items/7", headers=SAMPLED)
    span = await one_span(service)
    assert span.status.status_code is StatusCode.UNSET
    assert (span.name, (span.attributes or {})["http.response.status_code"]) == ("PATCH /items/{item_id}", 405)


async def test_unmatched_span_is_named_by_its_method_alone(service: Service) -> None:
    await service.client.get("/nowhere", headers=SAMPLED)
    span = await one_span(service)
    assert span.name == "GET"
    assert "http.route" not in (span.attributes or {})


async def test_unknown_method_is_other(service: Service) -> None:
    await service.client.request("PROPFIND", "/items/7", headers=SAMPLED)
    span = await one_span(service)
    attributes = span.attributes or {}
    assert span.name == "HTTP /items/{item_id}"
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "PROPFIND"


async def test_unknown_method_of_an_unmatched_path_is_named_alone(service: Service) -> None:
    await service.client.request("PROPFIND", "/nowhere", headers=SAMPLED)
    assert (await one_span(service)).name == "HTTP"


async def test_query_is_a_known_method(service: Service) -> None:
    await service.client.request("QUERY", "/items/7", headers=SAMPLED)
    attributes = (await one_span(service)).attributes or {}
    assert attributes["http.request.method"] == "QUERY"
    assert "http.request.method_original" not in attributes


@pytest.mark.parametrize(("method", "known"), [("PROPFIND", True), ("GET", False), ("PUT", False)])
async def test_known_methods_are_those_of_the_environment(
    method: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", " PROPFIND, get,put,")
    async with serve(Route("/items/{item_id}", Item())) as service:
        await service.client.request(method, "/items/7", headers=SAMPLED)
        span = next(span for span in await service.spans() if span.name != "child")
        labels = {"http_request_method": method if known else "_OTHER", "http_route": "/items/{item_id}"}
        assert await service.sample("http_server_request_duration_seconds_count", **labels) == 1
    assert (span.attributes or {})["http.request.method"] == labels["http_request_method"]
    assert span.name == f"{method if known else 'HTTP'} /items/{{item_id}}"


async def test_resource_names_the_service(service: Service) -> None:
    await service.client.get("/items/7", headers=SAMPLED)
    attributes = (await one_span(service)).resource.attributes
    assert (attributes["service.name"], attributes["service.version"]) == ("test-service", "1.2.3")


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_child_span_has_the_requests_span_as_parent(service: Service, method: str) -> None:
    await service.client.request(method, "/items/7", headers=SAMPLED)
    spans = {span.name: span for span in await service.spans(3 if method == "POST" else 2)}
    request, child = spans[method + " /items/{item_id}"], spans["child"]
    assert child.parent is not None
    assert child.parent == request.context
    if method == "POST":
        assert spans["grandchild"].parent == child.context


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_log_line_inside_a_child_span_has_its_id_and_the_request_id(service: Service, method: str) -> None:
    await service.client.request(method, "/items/7", headers={**SAMPLED, "x-request-id": "mine"})
    child = next(span for span in await service.spans(2) if span.name == "child")
    (line,) = service.seen.events("inside")
    assert child.context is not None
    assert line["span_id"] == f"{child.context.span_id:016x}"
    assert (line["trace_id"], line["request_id"]) == (TRACE_ID, "mine")


async def test_log_line_after_a_child_span_has_the_requests_span_id(service: Service) -> None:
    await service.client.post("/items/7", headers=SAMPLED)
    (line,) = service.seen.events("outside")
    assert line["span_id"] == (await service.access_line())["span_id"]


async def test_unsampled_request_has_ids_in_its_logs_and_no_span(service: Service) -> None:
    await service.client.post("/items/7", headers=UNSAMPLED)
    line = await service.access_line()
    (inside,) = service.seen.events("inside")
    assert (line["trace_id"], inside["trace_id"]) == (TRACE_ID, TRACE_ID)
    assert service.seen.spans == []


async def test_sampler_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    async with serve(Route("/items/{item_id}", Item())) as service:
        await service.client.get("/items/7")
        assert (await one_span(service)).parent is None


async def test_service_name_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another-name")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    async with serve(Route("/items/{item_id}", Item())) as service:
        await service.client.get("/items/7", headers=SAMPLED)
        attributes = (await one_span(service)).resource.attributes
    assert (attributes["service.name"], attributes["deployment.environment.name"]) == ("another-name", "test")


async def test_console_exporter_of_the_sdk_takes_a_requests_span(service: Service) -> None:
    out = StringIO()
    async with serve(Route("/items/{item_id}", Item())) as other:
        other.app.telemetry.tracing.add_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
        await other.client.get("/items/7", headers=SAMPLED)
        await one_span(other)
    span = orjson.loads(out.getvalue())
    assert (span["name"], span["kind"], span["parent_id"]) == (
        "GET /items/{item_id}",
        "SpanKind.SERVER",
        f"0x{PARENT_ID}",
    )
    assert span["attributes"]["item.tags"] == ["a", "b"]
    assert span["resource"]["attributes"]["service.name"] == "test-service"


async def test_batch_processor_of_the_sdk_takes_a_requests_span() -> None:
    exporter = InMemorySpanExporter()
    processor = BatchSpanProcessor(exporter)
    async with serve(Route("/items/{item_id}", Item())) as service:
        service.app.telemetry.tracing.add_processor(processor)
        await service.client.get("/items/7", headers=SAMPLED)
        await one_span(service)
        assert await asyncio.to_thread(processor.force_flush)
        assert [span.name for span in exporter.get_finished_spans()] == ["GET /items/{item_id}"]


class CopyingBaggage(SpanProcessor):
    """Copies baggage to each span at its start, as a processor of OpenTelemetry's contrib packages does."""

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        span.set_attributes({name: str(value) for name, value in baggage.get_all(parent_context).items()})


async def test_processor_may_add_to_a_requests_span_at_its_start() -> None:
    async with serve(Route("/items/{item_id}", Item())) as service:
        service.app.telemetry.tracing.add_processor(CopyingBaggage())
        await service.client.get("/items/7", headers={**SAMPLED, "baggage": "tenant=acme"})
        assert ((await one_span(service)).attributes or {})["tenant"] == "acme"


class Failing(SpanProcessor):
    """Fails at the end of each span."""

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("no room")


async def test_processor_that_fails_takes_nothing_from_the_request() -> None:
    async with serve(Route("/items/{item_id}", Item())) as service:
        service.app.telemetry.tracing.add_processor(Failing())
        await service.client.get("/items/7", headers=SAMPLED)
        assert (await service.access_line())["status"] == 204
        assert len(await service.spans()) == 1
        (line,) = [line for line in service.seen.lines if "exception" in line]
        assert line["event"] == "a span processor failed: Failing"


class FailingForRequests(RequestSpanProcessor):
    """Fails at the end of a request, as the exporter does for an event's time that is no whole number."""

    def on_request_end(self, span: RequestSpan) -> None:
        raise ValueError("not today")


async def test_request_span_processor_that_fails_takes_nothing_from_the_request() -> None:
    async with serve(Route("/items/{item_id}", Item())) as service:
        service.app.telemetry.tracing.add_processor(FailingForRequests())
        await service.client.get("/items/7", headers=SAMPLED)
        assert (await service.access_line())["status"] == 204
        (line,) = [line for line in service.seen.lines if "exception" in line]
        assert line["event"] == "a span processor failed: FailingForRequests"


class Keeping(RequestSpanProcessor):
    """Keeps spans, as the exporter does until their batch is sent."""

    def __init__(self) -> None:
        self.spans: list[RequestSpan] = []

    def on_request_end(self, span: RequestSpan) -> None:
        self.spans.append(span)


async def test_spans_that_wait_for_their_export_keep_nothing_else_of_their_requests() -> None:
    def kept_requests() -> int:
        gc.collect()
        return sum(isinstance(value, RequestInfo) for value in gc.get_objects())

    keeping = Keeping()
    async with serve(Route("/items/{item_id}", Item())) as service:
        service.app.telemetry.tracing.add_processor(keeping)
        before = kept_requests()  # of earlier tests
        for _ in range(20):
            await service.client.get("/items/7", headers=SAMPLED)
        await until(lambda: len(keeping.spans) == 20)
        assert kept_requests() < before + 20


class FailingAtTheStart(SpanProcessor):
    """Fails when a span begins."""

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        raise ValueError("not today")


async def test_processor_that_fails_at_the_start_takes_nothing_from_the_request() -> None:
    async with serve(Route("/items/{item_id}", Item())) as service:
        service.app.telemetry.tracing.add_processor(FailingAtTheStart())
        assert (await service.client.get("/items/7", headers=SAMPLED)).status_code == 204
        assert (await service.access_line())["status"] == 204
        (line,) = [line for line in service.seen.lines if "exception" in line]
        assert line["event"] == "a span processor failed: FailingAtTheStart"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/info"])
async def test_admin_requests_make_no_spans_unless_asked_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    for trace_admin in (False, True):
        async with serve(Route("/items/{item_id}", Item()), trace_admin=trace_admin) as service:
            await service.client.get(path)
            await service.client.get(path, headers=SAMPLED)
            await service.client.get("/items/7")
            await service.under_way(0)
            names = [span.name for span in await service.spans(3 if trace_admin else 1)]
        assert names == [f"GET {path}"] * 2 * trace_admin + ["GET /items/{item_id}"]
