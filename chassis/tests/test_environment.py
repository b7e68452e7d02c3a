"""OpenTelemetry's variables: what is valid is used, and nothing that is invalid keeps a service from starting."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext
from starlette.requests import Request
from starlette.routing import Route as StarletteRoute

from chassis import ChassisSettings, Handler, Route
from chassis.client import http_client
from chassis.telemetry.environment import Environment
from chassis.telemetry.sampling import Sampling
from chassis.telemetry.tracing import Tracing
from chassis.wiring import make_telemetry

from .support.process import PROGRAM, run
from .support.service import PARENT_ID, SAMPLED, TRACE_ID, Service, serve
from .test_exporter import Collector, address, names


@contextmanager
def tracing(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[tuple[Tracing, list[str]]]:
    """A tracing with these variables, and what it warns of."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "report", lambda self: warnings.extend(self.warnings))
        made = Tracing("test-service", version="1")
        made.install()
    yield made, warnings
    made.shutdown()


INVALID: dict[str, Any] = {
    "OTEL_SDK_DISABLED": "yes",
    "OTEL_TRACES_EXPORTER": "zipkin",
    "OTEL_TRACES_SAMPLER": "sometimes",
    "OTEL_PROPAGATORS": "carrier-pigeon",
    "OTEL_RESOURCE_ATTRIBUTES": "no value",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-1",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1.5",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "many",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "many",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "zstd",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "10s",
    "OTEL_EXPORTER_OTLP_HEADERS": "no value",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere/ca.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/nowhere/key.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/nowhere/client.pem",
    "OTEL_BSP_SCHEDULE_DELAY": "5s",
    "OTEL_BSP_EXPORT_TIMEOUT": "30s",
    "OTEL_BSP_MAX_QUEUE_SIZE": "0",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "",
}


async def test_service_starts_with_every_variable_invalid_and_warns_of_each() -> None:
    async with run("-m", PROGRAM, forked=False, APP_DRAIN_SECONDS="0", **INVALID) as process:
        client = await process.client()
        assert (await client.get("/switch-interval")).status_code == 200
        events = [line for line in process.lines if " is ignored: " in line["event"]]
    assert {line["level"] for line in events} == {"warning"}
    named = {line["event"].partition("=")[0] for line in events}
    assert named == {name for name, value in INVALID.items() if value}


@pytest.mark.parametrize("name", sorted(INVALID))
def test_one_invalid_variable_is_one_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    if name == "OTEL_EXPORTER_OTLP_CLIENT_KEY":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "")
    with tracing(monkeypatch, **{name: INVALID[name]}) as (_, warnings):
        assert [warning.partition("=")[0] for warning in warnings] == ([name] if INVALID[name] else [])


def test_empty_variables_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracing(monkeypatch, **dict.fromkeys(INVALID, " ")) as (made, warnings):
        assert warnings == []
        assert not made.exporting
        assert made.resource.attributes["service.name"] == "test-service"


@pytest.mark.parametrize("module", ["client", "server", "telemetry.spans", "testing"])
async def test_modules_can_be_imported_with_every_variable_invalid(module: str) -> None:
    """OpenTelemetry's modules read some of them at their import, and raise."""
    async with run("-c", f"import chassis.{module}", **INVALID) as process:
        assert await process.end() == (0, "")


async def test_empty_variables_do_no_harm_at_the_import() -> None:
    variables: dict[str, Any] = dict.fromkeys(INVALID, "")
    async with run("-c", "import chassis.server, chassis.client; print('{}')", **variables) as process:
        assert await process.end() == (0, "")


def test_warnings_are_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    made = make_telemetry(ChassisSettings.from_values(), service="test-service", version="1").tracing
    made.install()
    made.install()
    (record,) = [record for record in caplog.records if "zipkin" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("OTEL_TRACES_EXPORTER='zipkin' is ignored: ")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"service.name": "test-service", "service.version": "1"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version=2"}, {"service.name": "test-service", "service.version": "2"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": "b"}, {"service.name": "b"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": ""}, {"service.name": "a"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, {"service.name": "test-service"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": " team = a%2Cb%3D%C3%BC , x=y=z,"}, {"team": "a,b=ü", "x": "y=z"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "empty="}, {"empty": ""}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a%20b=c"}, {"a b": "c"}),
        (
            {"POD_NAME": "a", "POD_NAMESPACE": "b", "POD_UID": "c", "NODE_NAME": "d", "OTEL_RESOURCE_ATTRIBUTES": "e="},
            {"k8s.pod.name": "a", "k8s.namespace.name": "b", "k8s.pod.uid": "c", "k8s.node.name": "d", "e": ""},
        ),
        ({"POD_NAME": "a-1", "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=b"}, {"k8s.pod.name": "b"}),
    ],
)
def test_resource_of_the_environment_has_priority(
    variables: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracing(monkeypatch, **variables) as (made, warnings):
        assert warnings == []
        assert expected.items() <= made.resource.attributes.items()


@pytest.mark.parametrize("broken", ["oops", "=b", "a=%zz", "a=%ff", "a=100%"])
def test_invalid_resource_attribute_discards_them_all(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the specification says, so that half of the truth is not taken for all of it."""
    with tracing(monkeypatch, OTEL_RESOURCE_ATTRIBUTES=f"service.name=a,{broken},team=b") as (made, warnings):
        assert made.resource.attributes["service.name"] == "test-service"
        assert "team" not in made.resource.attributes
        (warning,) = warnings
    assert warning.startswith(f"OTEL_RESOURCE_ATTRIBUTES={broken!r} is ignored: ")


@pytest.mark.parametrize(
    ("sampler", "argument", "shares", "warned"),
    [
        ("", "", (0.01, 0.01), []),
        ("", "0.5", (0.01, 0.01), ["OTEL_TRACES_SAMPLER_ARG"]),
        ("Always_On", "", (1.0, 1.0), []),
        ("traceidratio", "0.25", (0.25, 0.25), []),
        ("parentbased_traceidratio", "", (1.0, 1.0), []),
        ("traceidratio", "most", (1.0, 1.0), ["OTEL_TRACES_SAMPLER_ARG"]),
        ("traceidratio", "1.5", (1.0, 1.0), ["OTEL_TRACES_SAMPLER_ARG"]),
        ("traceidratio", "nan", (1.0, 1.0), ["OTEL_TRACES_SAMPLER_ARG"]),
        ("jaeger_remote", "endpoint=http://jaeger", (0.01, 0.01), ["OTEL_TRACES_SAMPLER"]),
    ],
)
def test_sampler_is_that_of_the_specification(
    sampler: str, argument: str, shares: tuple[float, float], warned: list[str]
) -> None:
    environment = Environment({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument})
    sampling = Sampling.from_environment(environment)
    below, above = (int(share * 2**64) for share in shares)
    assert sampling.samples_root(max(below - 2, 0))
    assert above >= 2**64 or not sampling.samples_root(above + 2)
    assert [warning.partition("=")[0] for warning in environment.warnings] == warned


class Relay(Handler):
    """Calls another service, and tells what it got."""

    def __init__(self) -> None:
        self.url = ""

    async def get(self) -> dict[str, str]:
        async with http_client() as client:
            received: dict[str, str] = (await client.get(self.url)).json()
            return received


class Echo(Handler):
    """Tells the headers of the request."""

    async def get(self, request: Request) -> dict[str, str]:
        return dict(request.headers)


@asynccontextmanager
async def relaying() -> AsyncIterator[Service]:
    """A service that calls another one; the process's propagator is put back at the end."""
    before = propagate.get_global_textmap()
    relay = Relay()
    try:
        async with serve(Route("/", relay), Route("/echo", Echo())) as service:
            relay.url = f"http://127.0.0.1:{service.server.port}/echo"
            yield service
    finally:
        propagate.set_global_textmap(before)


B3 = {"b3": f"{TRACE_ID}-{PARENT_ID}-1"}
B3_MULTI = {"X-B3-TraceId": TRACE_ID, "X-B3-SpanId": PARENT_ID, "X-B3-Sampled": "1"}
BAGGAGE = {"baggage": "tenant=acme"}


@pytest.mark.parametrize(
    ("propagators", "sent", "continued", "carried"),
    [
        ("", SAMPLED | BAGGAGE | B3, True, {"traceparent", "baggage"}),
        ("baggage, TraceContext,baggage", SAMPLED | BAGGAGE, True, {"traceparent", "baggage"}),
        ("tracecontext", SAMPLED | BAGGAGE, True, {"traceparent"}),
        ("baggage", SAMPLED | BAGGAGE, False, {"baggage"}),
        ("none", SAMPLED | BAGGAGE, False, set[str]()),
        ("b3", B3, True, {"b3"}),
        ("b3", SAMPLED, False, {"b3"}),
        ("b3multi", B3_MULTI, True, {"x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}),
        ("b3,tracecontext", B3, True, {"b3", "traceparent"}),
        ("tracecontext,b3,baggage", SAMPLED | BAGGAGE, True, {"traceparent", "b3", "baggage"}),
        ("nobody,b3", B3, True, {"b3"}),
        ("nobody", SAMPLED | BAGGAGE, True, {"traceparent", "baggage"}),
    ],
)
async def test_propagators_are_those_that_are_asked_for(
    propagators: str,
    sent: dict[str, str],
    continued: bool,
    carried: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", propagators)
    async with relaying() as service:
        response = await service.client.get("/", headers=sent)
        lines = await service.access_lines(2)
        warnings = [
            line["event"] for line in service.seen.lines if line["event"].startswith("OTEL_PROPAGATORS='nobody'")
        ]
    received = response.json()
    formats = {"traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"}
    assert formats & set(received) == carried
    ids = {line["path"]: line["trace_id"] for line in lines}
    assert (ids["/"] == TRACE_ID) is continued
    assert len(warnings) == ("nobody" in propagators)
    identifying = {"traceparent", "b3", "x-b3-traceid"} & carried
    assert all(ids["/"] in received[name] for name in identifying)
    if identifying:
        assert ids["/echo"] == ids["/"]


async def test_process_starts_with_a_propagator_that_is_not_installed() -> None:
    """OpenTelemetry's own module raises at its import then."""
    variables: dict[str, Any] = {"OTEL_PROPAGATORS": "tracecontext,jaeger,", "APP_DRAIN_SECONDS": "0"}
    async with run("-m", PROGRAM, forked=False, **variables) as process:
        client = await process.client()
        await client.get("/switch-interval", headers=SAMPLED)
        assert (await process.line("request"))["trace_id"] == TRACE_ID
    (warning,) = [event for event in process.events if "OTEL_PROPAGATORS" in event]
    assert warning.startswith("OTEL_PROPAGATORS='jaeger' is ignored: no installed package has the entry point 'jaeger'")


@pytest.mark.parametrize("value", ["", "-", "0", "x" * 10_000, f"{TRACE_ID}-{PARENT_ID}-1-{PARENT_ID}-x", "ÿ"])
async def test_hostile_header_of_another_format_does_no_harm(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PROPAGATORS", "b3multi,b3")
    async with relaying() as service:
        for name in ("b3", "x-b3-traceid", "x-b3-spanid", "x-b3-flags"):
            headers = [(b"b3", value.encode("latin-1")), (name.encode(), value.encode("latin-1"))]
            assert (await service.client.get("/echo", headers=headers)).status_code == 200


class FailingPropagator(TextMapPropagator):
    """Raises for every request."""

    def extract(self, *_: object, **__: object) -> Any:
        raise RuntimeError("not today")

    def inject(self, *_: object, **__: object) -> None:
        raise NotImplementedError

    @property
    def fields(self) -> set[str]:
        return set()


def install_plugin(folder: Path, group: str, **objects: str) -> str:
    """A package that offers `objects` of this module as entry points of a group; the path to find it by."""
    metadata = folder / "plugin-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    lines = [f"{name} = {value}" for name, value in objects.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    return str(folder)


async def test_propagator_that_fails_takes_nothing_from_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = f"{__name__}:FailingPropagator"
    monkeypatch.syspath_prepend(install_plugin(tmp_path, "opentelemetry_propagator", failing=plugin))
    monkeypatch.setenv("OTEL_PROPAGATORS", "failing")
    async with relaying() as service:
        assert (await service.client.get("/echo", headers=SAMPLED)).status_code == 200
        assert (await service.access_line())["trace_id"] != TRACE_ID


class ToFile(SpanExporter):
    """Writes the names of spans to a file."""

    def __init__(self, **options: object) -> None:
        self._file = Path(os.environ["SPANS"])
        self._options = options

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._file.open("a") as file:
            file.writelines(f"{span.name} {self._options}\n" for span in spans)
        return SpanExportResult.SUCCESS


def fail() -> None:
    """An exporter that cannot be made."""
    raise RuntimeError("no room")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Exporters of an installed package; the file that they write to."""
    plugin = dict.fromkeys(("file", "otlp_proto_grpc"), f"{__name__}:ToFile")
    broken = {"failing": f"{__name__}:fail", "missing": f"{__name__}:Missing", "odd": "builtins:dict"}
    monkeypatch.syspath_prepend(install_plugin(tmp_path, "opentelemetry_traces_exporter", **plugin, **broken))
    monkeypatch.setenv("SPANS", str(tmp_path / "spans"))
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    return tmp_path / "spans"


def content(file: Path) -> str:
    """The content of a file."""
    return file.read_text(encoding="utf-8")


async def test_exporters_of_installed_packages_can_be_chosen_beside_ours(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    async with serve(StarletteRoute("/v1/traces", collector.take, methods=["POST"])) as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address(received))
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "file, otlp,FILE")
        async with serve(Route("/", Echo())) as service:
            await service.client.get("/")
    assert content(plugins) == "GET / {}\n"
    assert names(collector) == ["GET /"]


async def test_console_goes_beside_ours() -> None:
    code = """if True:
        from opentelemetry import trace
        from chassis.telemetry.tracing import Tracing
        tracing = Tracing("test-service", version="1")
        tracing.install()
        trace.get_tracer("test").start_span("seen").end()
        tracing.shutdown()
    """
    collector = Collector()
    async with serve(StarletteRoute("/v1/traces", collector.take, methods=["POST"])) as service:
        endpoint = address(service)
        async with run(
            "-c",
            code,
            OTEL_TRACES_SAMPLER="always_on",
            OTEL_TRACES_EXPORTER="otlp,console",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        ) as process:
            assert await process.end() == (0, "")
    assert b'"name": "seen"' in process.output
    assert names(collector) == ["seen"]


@pytest.mark.parametrize("name", ["failing", "missing", "odd", "nobody"])
def test_exporter_that_cannot_be_made_is_ignored(name: str, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracing(monkeypatch, OTEL_TRACES_EXPORTER=f"{name},file") as (made, (warning,)):
        assert warning.startswith(f"OTEL_TRACES_EXPORTER={name!r} is ignored: ")
        assert made.exporting
    with tracing(monkeypatch, OTEL_TRACES_EXPORTER=name) as (made, _):
        assert not made.exporting


async def test_grpc_is_another_packages_exporter_with_the_timeout_in_its_unit(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2500")
    with tracing(monkeypatch) as (made, warnings):
        assert warnings == []
        made.provider.get_tracer("test").start_span("seen").end()
    assert content(plugins) == "seen {'timeout': 2.5}\n"


async def test_grpc_without_its_package_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    async with serve(StarletteRoute("/v1/traces", collector.take, methods=["POST"])) as service:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address(service))
        with tracing(monkeypatch, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_TRACES_SAMPLER="always_on") as (made, told):
            assert [warning.partition(" is ")[0] for warning in told] == ["OTEL_EXPORTER_OTLP_PROTOCOL='grpc'"]
            made.provider.get_tracer("test").start_span("seen").end()
            await asyncio.to_thread(made.shutdown)
    assert names(collector) == ["seen"]


async def test_disabled_sdk_exports_nothing_and_carries_the_context_on(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector()
    async with serve(StarletteRoute("/v1/traces", collector.take, methods=["POST"])) as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address(received))
        monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        async with relaying() as service:
            carried = (await service.client.get("/", headers=SAMPLED | BAGGAGE)).json()
            await service.access_lines(2)
            assert service.seen.spans == []
    assert collector.got == []
    assert carried["traceparent"].split("-")[1] == TRACE_ID
    assert carried["baggage"] == "tenant=acme"


async def test_limits_of_spans_hold_for_requests_and_for_other_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "4",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "2",
        "OTEL_SPAN_LINK_COUNT_LIMIT": "1",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
    }.items():
        monkeypatch.setenv(name, value)
    async with serve(Route("/", Talkative())) as service:
        await service.client.get("/", headers=SAMPLED)
        spans = await service.spans(2)
    for span in spans:
        assert len(span.attributes or {}) == 4
        assert all(len(value) <= 3 for value in (span.attributes or {}).values() if isinstance(value, str))
        assert [event.name for event in span.events] == ["event 1", "event 2"]
        assert dict(span.events[0].attributes or {}) == {"b": "lon"}
        assert len(span.links) == 1
        assert span.dropped_attributes > 0
        assert (span.dropped_events, span.dropped_links) == (1, 1)


class Talkative(Handler):
    """Puts much into the request's span, and into one of its own."""

    async def get(self, request: Request) -> None:
        tracer = request.app.telemetry.tracing.provider.get_tracer("test")
        context = SpanContext(5, 6, True)
        for span in (trace.get_current_span(), tracer.start_span("other")):
            for number in range(6):
                span.set_attribute(f"text {number}", "a long text")
            for number in range(3):
                span.add_event(f"event {number}", {"a": 1, "b": "long"})
            span.add_link(context)
            span.add_link(context)
            if span.is_recording() and span is not trace.get_current_span():
                span.end()
