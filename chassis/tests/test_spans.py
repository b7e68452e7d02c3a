"""The span of a request, and those that a handler makes inside of it."""

import asyncio
from collections.abc import AsyncIterator
from io import StringIO

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
from starlette.requests import Request

from chassis import Handler, Route
from chassis.telemetry.spans import RequestSpan, RequestSpanProcessor

from .support.service import PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED, Service, serve

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
        raise RuntimeError("internal detail")


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
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (500, "500")


async def test_refusal_is_no_error_of_the_span(service: Service) -> None:
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
    attributes = (await one_span(service)).attributes or {}
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "PROPFIND"


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
