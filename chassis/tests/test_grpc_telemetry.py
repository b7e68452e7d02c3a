"""Log lines, spans and metrics of gRPC calls, and the context that they hand on."""

from typing import Any

import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry.trace import SpanKind
from starlette.requests import Request

from chassis import App, Handler, Problem, Route, annotate
from chassis.client import Client

from .support.grpc_service import SERVICE, Context, Words, failure, received, serve
from .support.service import PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED
from .support.service import serve as serve_http

METHOD = f"{SERVICE}/One"
SAMPLED_CALL = tuple(SAMPLED.items())
UNSAMPLED_CALL = tuple(UNSAMPLED.items())


async def test_line_of_a_call_has_its_facts() -> None:
    async def work(text: str, _context: Context) -> str:
        annotate(order_id=7, password="secret")  # noqa: S106 - must not be shown
        return text * 2

    metadata = (*UNSAMPLED_CALL, ("x-request-id", "request-1"))
    async with serve(Words(work)) as service:
        call = service.calls.one("hello", metadata=metadata)
        await call
        trailing = list(await call.trailing_metadata())
        line = await service.call_line()
    expected: dict[str, Any] = {
        "level": "info",
        "event": "call",
        "method": METHOD,
        "code": "OK",
        "request_messages": 1,
        "request_bytes": 7,
        "response_messages": 1,
        "response_bytes": 12,
        "client": "127.0.0.1",
        "request_id": "request-1",
        "trace_id": TRACE_ID,
        "order_id": 7,
    }
    assert expected.items() <= line.items()
    assert "secret" not in str(line)
    assert 0 < line["duration_ms"] < 5000
    assert ("x-request-id", "request-1") in trailing


async def test_calls_are_among_the_last_requests_of_operators() -> None:
    async def work(text: str, _context: Context) -> str:
        annotate(order_id=7, password="secret")  # noqa: S106 - must not be shown
        if text == "fail":
            raise RuntimeError("no database")
        return text

    async with serve(Words(work)) as service:
        await service.calls.one("hello", metadata=UNSAMPLED_CALL)
        await failure(service.calls.one("fail"))
        await failure(service.calls.raw("/no.such.Service/Method"))
        [word async for word in service.calls.split("a b")]
        await service.call_lines(4)
        recent = service.app.telemetry.observer.recent
        stream, unknown, failed, first = recent.recent()
        slow = {call["path"] for call in recent.slow()}
    expected = {"method": "gRPC", "route": METHOD, "path": f"/{METHOD}", "status": 200, "code": "OK"}
    assert (expected | {"trace_id": TRACE_ID, "request_bytes": 7, "client": "127.0.0.1"}).items() <= first.items()
    assert first["facts"]["order_id"] == 7
    assert "secret" not in str(first)
    assert (failed["code"], failed["status"], failed["error"]) == ("INTERNAL", 500, "RuntimeError")
    assert (unknown["code"], unknown["status"], unknown["route"]) == ("UNIMPLEMENTED", 501, "_OTHER")
    assert stream["response_bytes"] > 0
    assert slow == {f"/{METHOD}", "/no.such.Service/Method"}
    assert [call["code"] for call in recent.failed()] == ["UNIMPLEMENTED", "INTERNAL"]


async def test_call_without_an_id_gets_one_whatever_becomes_of_it() -> None:
    async def work(text: str, context: Context) -> str:
        context.set_trailing_metadata((("color", "red"),))
        if text == "fail":
            raise Problem(404, "none")
        return text

    async with serve(Words(work)) as service:
        call = service.calls.one()
        await call
        trailing = dict(await call.trailing_metadata())
        failed = await failure(service.calls.one("fail", metadata=(("x-request-id", "not a valid id"),)))
        lines = await service.call_lines(2)
    ids = [line["request_id"] for line in lines]
    assert [trailing["x-request-id"], dict(failed.trailing_metadata())["x-request-id"]] == ids
    assert ids == [line["trace_id"] for line in lines]
    assert trailing["color"] == "red"


async def test_span_continues_the_trace_of_the_client() -> None:
    servicer = Words()
    async with serve(servicer) as service:
        tracer = service.seen.telemetry.tracing.provider.get_tracer(__name__)

        async def work(text: str, _context: Context) -> str:
            with tracer.start_as_current_span("inside"):
                return text

        servicer.work = work
        await service.calls.one(metadata=SAMPLED_CALL)
        line = await service.call_line()
        spans = {span.name: span for span in await service.spans(2)}
    span, inside = spans[METHOD], spans["inside"]
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE_ID, PARENT_ID)
    assert inside.parent is not None
    assert inside.parent.span_id == span.context.span_id
    assert line["span_id"] == f"{span.context.span_id:016x}"
    assert span.status.is_unset


async def test_span_has_the_attributes_of_the_semantic_conventions() -> None:
    async with serve() as service:
        await service.calls.one(metadata=SAMPLED_CALL)
        (span,) = await service.spans()
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "network.protocol.name": "http",
        "network.protocol.version": "2",
        "server.port": service.grpc.port,
        "client.address": "127.0.0.1",
    }


async def test_span_of_an_unknown_method_has_a_name_without_it() -> None:
    async with serve() as service:
        await failure(service.calls.raw("/any/thing", metadata=SAMPLED_CALL))
        (span,) = await service.spans()
    assert span.name == "grpc"
    assert span.attributes is not None
    assert span.attributes["rpc.method"] == "_OTHER"
    assert span.attributes["rpc.method_original"] == "any/thing"


@pytest.mark.parametrize(
    ("error", "code", "is_failed"),
    [(Problem(404, "none"), "NOT_FOUND", False), (ValueError("no"), "INTERNAL", True)],
)
async def test_span_fails_for_errors_of_the_server_alone(error: Exception, code: str, is_failed: bool) -> None:
    async def work(_text: str, _context: Context) -> str:
        raise error

    async with serve(Words(work)) as service:
        await failure(service.calls.one(metadata=SAMPLED_CALL))
        (span,) = await service.spans()
    attributes = span.attributes or {}
    assert (not span.status.is_unset) == is_failed
    assert attributes["rpc.response.status_code"] == code
    assert attributes.get("error.type") == (code if is_failed else None)
    assert [event.name for event in span.events] == ["exception"] * is_failed


async def test_metrics_have_the_names_and_units_of_the_semantic_conventions() -> None:
    async def work(text: str, _context: Context) -> str:
        if text == "none":
            raise Problem(404, "none")
        if text == "wrong":
            raise ValueError("wrong")
        return text

    async with serve(Words(work)) as service:
        calls = service.calls
        await calls.one()
        await received(calls.split("one two"))
        await failure(calls.one("none"))
        await failure(calls.one("wrong"))
        await service.call_lines(4)
        count = "rpc_server_call_duration_seconds_count"
        labels = {"rpc_system_name": "grpc", "rpc_method": METHOD}
        assert await service.sample(count, **labels, rpc_response_status_code="OK", error_type="") == 1
        assert await service.sample(count, **labels, rpc_response_status_code="NOT_FOUND", error_type="") == 1
        assert await service.sample(count, **labels, rpc_response_status_code="INTERNAL", error_type="INTERNAL") == 1
        assert await service.sample(count, rpc_method=f"{SERVICE}/Split") == 1
        assert await service.sample("rpc_server_active_calls") == 0
        assert await service.sample("rpc_server_max_calls") == 1000
        assert 0 < await service.sample("rpc_server_call_duration_seconds_sum", **labels) < 5


class Remaining(Handler):
    """Tells what it is sent."""

    async def get(self, request: Request) -> dict[str, str | None]:
        names = ("x-request-timeout-ms", "traceparent", "x-request-id")
        return {name: request.headers.get(name) for name in names}


async def test_deadline_and_trace_are_handed_on_by_clients() -> None:
    found: dict[str, Any] = {}

    class Asking(Words):
        def __init__(self) -> None:
            super().__init__()
            self.client: Client | None = None

        async def One(self, request: StringValue, context: Context) -> StringValue:  # noqa: N802
            assert self.client is not None
            response = await self.client.get("/")
            found.update(response.json())
            return request

    async with serve_http(Route("/", Remaining())) as other:
        asking = Asking()

        def prepare(app: App) -> None:
            url = f"http://127.0.0.1:{other.server.port}"
            asking.client = app.client("other", base_url=url, timeout_seconds=20)

        async with serve(asking, prepare=prepare) as service:
            await service.calls.one(timeout=2, metadata=(*SAMPLED_CALL, ("x-request-id", "request-9")))
            spans = {span.name: span for span in await service.spans(2)}
    assert 0 < int(found["x-request-timeout-ms"]) <= 2000
    (called,) = [span for span in spans.values() if span.kind is SpanKind.CLIENT]
    assert called.parent is not None
    assert called.parent.span_id == spans[METHOD].context.span_id
    assert found["traceparent"].split("-")[1:3] == [TRACE_ID, f"{called.context.span_id:016x}"]


async def test_line_of_a_log_has_the_ids_of_its_call() -> None:
    async def work(text: str, _context: Context) -> str:
        structlog.contextvars.bind_contextvars(tenant="acme")
        structlog.get_logger().info("inside")
        return text

    async with serve(Words(work)) as service:
        await service.calls.one(metadata=(("x-request-id", "request-2"),))
        line = await service.call_line()
        (inside,) = service.seen.events("inside")
    assert inside["request_id"] == "request-2"
    assert (inside["trace_id"], inside["span_id"]) == (line["trace_id"], line["span_id"])
    assert line["tenant"] == "acme"
