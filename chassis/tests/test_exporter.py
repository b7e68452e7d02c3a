"""The export of spans over HTTP: what the environment asks for, and what happens when the collector doesn't."""

import asyncio
import gzip
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from chassis.telemetry.collector import CollectorConnection
from chassis.telemetry.environment import Environment
from chassis.telemetry.exporter import OtlpExporter

from .support.collector import to_collector
from .support.process import run
from .support.service import Service, connect, serve, until


class Collector:
    """Responds with `statuses` one after the other, the last for ever, and keeps what it got."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.headers: dict[str, str] = {}
        self.got: list[Request] = []
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def take(self, request: Request) -> Response:
        self.got.append(request)
        await self.gate.wait()
        self.bodies.append(await request.body())
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Response(status_code=status, headers=self.headers)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    made = Collector()
    async with serve(StarletteRoute("/v1/traces", made.take, methods=["POST"])) as service:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address(service))
        yield made


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.server.port}"


def end_spans(exporter: OtlpExporter, count: int = 1, scope: str = "test") -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(exporter)
    for number in range(count):
        provider.get_tracer(scope).start_span(f"span {number}").end()


def names(collector: Collector) -> list[str]:
    return [
        span.name
        for body in collector.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def export() -> bool:
    exporter = OtlpExporter.from_environment()
    end_spans(exporter)
    try:
        return await asyncio.to_thread(exporter.force_flush)
    finally:
        await asyncio.to_thread(exporter.shutdown)


async def test_spans_are_sent_in_batches_and_the_rest_at_the_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    exporter = OtlpExporter.from_environment()
    end_spans(exporter, 4)
    assert await until(lambda: len(collector.bodies) == 1)
    end_spans(exporter, 3, "one")
    end_spans(exporter, 3, "two")
    await asyncio.to_thread(exporter.shutdown)
    assert len(collector.bodies) == 3
    assert sorted(names(collector)) == sorted([f"span {number}" for number in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)])


async def test_spans_are_sent_after_the_delay(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    exporter = OtlpExporter.from_environment()
    end_spans(exporter)
    assert await until(lambda: names(collector) == ["span 0"])
    await asyncio.to_thread(exporter.shutdown)


async def test_spans_that_cannot_be_sent_are_bounded_and_their_loss_is_logged_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")
    collector.gate.clear()
    exporter = OtlpExporter.from_environment()
    end_spans(exporter, 10)
    assert await until(lambda: len(collector.got) == 1)  # they are on their way, and that takes long
    with caplog.at_level(logging.WARNING):
        end_spans(exporter, 30)
    collector.gate.set()
    await asyncio.to_thread(exporter.shutdown)
    assert len(names(collector)) == 20
    assert exporter.dropped == {"queue_full": 20, "export_failed": 0, "not_encodable": 0}
    (said,) = [record.getMessage() for record in caplog.records if record.name.endswith("exporter")]
    assert said.startswith("spans are dropped: the queue of 10 spans for ")


async def test_headers_and_compression_are_as_asked(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, tenant = north")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
    assert await export()
    headers = collector.got[0].headers
    assert (headers["api-key"], headers["tenant"]) == ("a b", "north")
    assert (headers["content-type"], headers["content-encoding"]) == ("application/x-protobuf", "gzip")
    assert ExportTraceServiceRequest.FromString(gzip.decompress(collector.bodies[0])).resource_spans


async def test_failure_that_may_pass_is_tried_again(collector: Collector) -> None:
    collector.statuses = [503, 429, 200]
    collector.headers = {"retry-after": "0"}
    assert await export()
    assert len(collector.got) == 3
    assert len(set(collector.bodies[0:1])) == 1


async def test_failure_that_stays_is_not_tried_again(collector: Collector) -> None:
    collector.statuses = [400]
    assert not await export()
    assert len(collector.got) == 1


async def test_row_of_failures_is_logged_once_and_its_end(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.statuses = [400, 400, 200]
    exporter = OtlpExporter.from_environment()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            end_spans(exporter, 3)
            await asyncio.to_thread(exporter.force_flush)
    assert exporter.dropped == {"queue_full": 0, "export_failed": 6, "not_encodable": 0}
    await asyncio.to_thread(exporter.shutdown)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("exporter")]
    assert [message.partition(" to ")[0] for message in said] == [
        "spans cannot be exported",
        "spans are exported again",
    ]


async def test_absent_collector_costs_no_more_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
    assert not await export()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "none, gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "deflate", "none, gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "whole numbers from 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5", "whole numbers from 0"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1", "whole numbers from 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "²", "whole numbers from 0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "whole numbers from 1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9" * 5000, "whole numbers from 1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "whole numbers from 0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1e3", "whole numbers from 0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "a URL such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port", "a URL such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999", "a URL such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[collector", "a URL such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "a URL such as"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", "a URL such as"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/collector", "a URL such as"),
    ],
)
async def test_value_that_cannot_be_used_is_ignored_with_a_warning(
    name: str, value: str, allowed: str, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    environment = Environment()
    exporter = OtlpExporter.from_environment(environment)
    end_spans(exporter)
    if "ENDPOINT" not in name:
        await asyncio.to_thread(exporter.force_flush)
        assert names(collector) == ["span 0"]
    await asyncio.to_thread(exporter.shutdown)
    (warning,) = environment.warnings
    assert warning.startswith(f"{name}={value!r} is ignored: ")
    assert allowed in warning


async def test_invalid_variable_for_traces_leaves_the_one_for_all_signals(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nonsense")
    assert await export()
    assert names(collector) == ["span 0"]


async def test_empty_variables_are_as_good_as_none(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIMEOUT", "COMPRESSION", "HEADERS", "TRACES_ENDPOINT", "CERTIFICATE", "TRACES_TIMEOUT"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", " ")
    environment = Environment()
    exporter = OtlpExporter.from_environment(environment)
    end_spans(exporter)
    await asyncio.to_thread(exporter.shutdown)
    assert names(collector) == ["span 0"]
    assert environment.warnings == []


async def test_timeout_is_milliseconds(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the specification says, where a service that doesn't respond would hold the export up for 500 seconds."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
    collector.gate.clear()
    async with asyncio.timeout(60):
        assert not await export()
    collector.gate.set()


async def test_timeout_of_zero_is_no_limit(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0")
    assert await export()
    assert names(collector) == ["span 0"]


async def test_endpoint_for_all_signals_gets_the_path_and_that_for_traces_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths: list[str] = []

    async def take(request: Request) -> Response:
        paths.append(request.url.path)
        return Response()

    async with serve(StarletteRoute("/{path:path}", take, methods=["POST"])) as service:
        for name, path in [("ENDPOINT", "/base/"), ("ENDPOINT", "?tenant=1"), ("TRACES_ENDPOINT", "/mine")]:
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", address(service) + path)
            assert await export()
    assert paths == ["/base/v1/traces", "/v1/traces", "/mine"]


async def test_exporter_names_itself(collector: Collector) -> None:
    assert await export()
    product, exporter = collector.got[0].headers["user-agent"].split(" ")
    assert product.startswith("chassis/")
    assert exporter.startswith("OTel-OTLP-Exporter-Python/")


async def test_user_agent_can_be_replaced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "User-Agent=mine")
    assert await export()
    assert collector.got[0].headers.getlist("user-agent") == ["mine"]


async def test_header_that_cannot_be_sent_is_left_out_and_its_value_is_not_shown(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = ["first%0Asecret", "two words", "%00secret", "5secret", "secret"]
    broken = ["a=first%0Asecret", "two words=secret", "b=%00secret", "content-length=5secret", "secret"]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", ",".join([*broken, "", "c=d=e", "name=%C3%BC", "blank="]))
    environment = Environment()
    exporter = OtlpExporter.from_environment(environment)
    end_spans(exporter)
    await asyncio.to_thread(exporter.shutdown)
    headers = collector.got[0].headers
    assert (headers["c"], headers["name"].encode("latin-1").decode(), headers["blank"]) == ("d=e", "ü", "")
    assert not {"a", "b"} & set(headers)
    assert len(environment.warnings) == len(broken)
    assert all("secret" not in warning and "two words" not in warning for warning in environment.warnings), hidden


@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"])
async def test_certificate_that_cannot_be_read_is_reported_at_the_start(
    name: str, collector: Collector, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").touch()
    for path in ("/nowhere/certificate.pem", str(tmp_path / "empty.pem")):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", path)
        environment = Environment()
        exporter = OtlpExporter.from_environment(environment)
        end_spans(exporter)
        await asyncio.to_thread(exporter.shutdown)
        (warning,) = environment.warnings
        assert warning.startswith(f"OTEL_EXPORTER_OTLP_{name}={path!r} is ignored: ")
    assert names(collector) == ["span 0"] * 2


def test_credentials_of_an_endpoint_are_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
    for endpoint in (
        "http://user:secret@127.0.0.1:9/?key=secret",
        "http://127.0.0.1:9/?key=a@secret",
        "ftp://user:secret@127.0.0.1",
        "user:secret@127.0.0.1",
        "http://user:sec/secret@127.0.0.1",
        "http://user:x?secret@127.0.0.1",
    ):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        exporter = OtlpExporter.from_environment()
        end_spans(exporter)
        exporter.shutdown()
    assert "spans cannot be exported to http://127.0.0.1:9/v1/traces" in caplog.text
    assert "secret" not in caplog.text


async def test_span_that_cannot_be_encoded_is_dropped_and_its_owner_goes_on(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = OtlpExporter.from_environment()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(exporter)
    tracer = provider.get_tracer("test")
    for number in range(3):
        tracer.start_span(f"negative {number}", start_time=-1).end()
    tracer.start_span("good").end()
    await asyncio.to_thread(exporter.shutdown)
    assert exporter.dropped["not_encodable"] == 3
    assert names(collector) == ["good"]
    assert len([record for record in caplog.records if "cannot be encoded" in record.getMessage()]) == 1


async def test_library_that_raises_something_else_does_not_end_the_export(collector: Collector) -> None:
    def fail_at_first() -> CollectorConnection:
        failures.append(1)
        if len(failures) < 3:
            raise RuntimeError("not today")
        return to_collector(url)

    failures: list[int] = []
    url = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/traces"
    exporter = OtlpExporter(fail_at_first, url, headers={})
    for _ in range(4):
        end_spans(exporter)
        await asyncio.to_thread(exporter.force_flush)
    await asyncio.to_thread(exporter.shutdown)
    assert exporter.dropped["export_failed"] <= 2
    assert len(names(collector)) >= 2


@pytest.mark.parametrize("retry_after", ["²", "9" * 400, "-1", "soon"])
async def test_odd_retry_after_does_not_end_the_export(retry_after: str, collector: Collector) -> None:
    collector.statuses = [503, 200]
    collector.headers = {"retry-after": retry_after}
    assert await export()
    assert len(collector.got) == 2


def test_proxy_that_cannot_be_used_is_logged_and_spans_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.invalid")
    monkeypatch.setenv("ALL_PROXY", "carrier-pigeon://loft")
    exporter = OtlpExporter.from_environment()
    end_spans(exporter, 3)

    exporter.shutdown()

    assert exporter.dropped["export_failed"] == 3
    assert "spans cannot be exported" in caplog.text
    assert "carrier-pigeon" in caplog.text


@pytest.fixture
def traced_httpx() -> Iterator[InMemorySpanExporter]:
    """httpx, instrumented by OpenTelemetry's package; the spans that it makes."""
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    yield spans
    HTTPXClientInstrumentor().uninstrument()


@pytest.mark.parametrize("status", [200, 400])
async def test_posts_of_the_exporter_are_not_traced(
    collector: Collector, status: int, traced_httpx: InMemorySpanExporter
) -> None:
    collector.statuses = [status]

    assert await export() is (status == 200)

    assert collector.got
    assert "traceparent" not in collector.got[0].headers
    assert traced_httpx.get_finished_spans() == ()
    # Nor is the exporter's thread alone concerned, and a request of the service is still traced.
    async with connect(int(collector.got[0].url.port or 0)) as client:
        await client.get("/v1/traces")
    assert len(traced_httpx.get_finished_spans()) == 1


async def test_export_loads_no_http_client_of_a_library() -> None:
    """It would take as long as a fifth of all that the service loads."""
    program = "import sys; from chassis.telemetry.exporter import OtlpExporter; "
    program += "exporter = OtlpExporter.from_environment(); exporter.shutdown(); "
    async with run("-c", program + "print('httpx' in sys.modules)") as process:
        assert await process.end() == (0, "")
        assert process.output == b"False\n"
